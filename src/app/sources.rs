//! The parts that are looked at: for `/status`, for the list of problems, and for the history.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::reload::Configuration;
use crate::config::Cloud;
use crate::server::{Connections, access_log};
use crate::{cache, queue, quota, region, scan, server, shared_cache, single_flight, token, upstream};

/// The parts of a gateway that have something to show.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) started: Instant,
    /// One for all operations, or one for each in their order.
    pub(super) quotas: Vec<quota::Quota>,
    /// Likewise.
    pub(super) queues: Vec<queue::Queue<quota::Quota>>,
    pub(super) count: access_log::Metrics,
    pub(super) queue_metrics: queue::Metrics,
    pub(super) flights: single_flight::Metrics,
    pub(super) connections: Connections,
    pub(super) current: Arc<ArcSwap<Current>>,
    pub(super) configuration: Configuration,
}

impl Sources {
    /// How many calls have been let leave.
    pub(super) fn calls(&self) -> u64 {
        self.quotas.iter().map(|quota| quota.snapshot().calls).sum()
    }
}

/// The parts that a new configuration may exchange.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) hosts: Arc<server::guard::Hosts>,
    pub(super) regions: region::HostSelector,
    pub(super) token_source: token::TokenSource,
    pub(super) cache: Arc<cache::Cache>,
    pub(super) shared_cache: Option<shared_cache::SharedCache>,
    /// `None` when nothing is merged, and nothing will be.
    pub(super) merging: Option<single_flight::Metrics>,
    /// What has been found out about merging; `None` when nothing has to be.
    pub(super) merge_evidence: Option<Arc<scan::UpstreamProfile>>,
    /// The most ids in one call.
    pub(super) max_ids: usize,
    pub(super) calls: upstream::Metrics,
    /// `None` where the sign-in knows and does not say.
    pub(super) tenant: Option<String>,
    pub(super) cloud: Cloud,
}
