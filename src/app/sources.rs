//! The parts that are looked at: for `/status`, for the list of problems, and for the history.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use tokio::time::Instant;

use super::components::Components;
use super::context::SharedContext;
use super::reload::Configuration;
use crate::server::Connections;
use crate::{queue, quota};

/// Where what is shown comes from.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) started: Instant,
    pub(super) context: SharedContext,
    pub(super) connections: Connections,
    pub(super) current: Arc<ArcSwap<Components>>,
    pub(super) configuration: Configuration,
}

impl Sources {
    /// The parts of the configuration that runs.
    pub(super) fn current(&self) -> Guard<Arc<Components>> {
        self.current.load()
    }

    /// One for all operations, or one for each in their order.
    pub(super) fn quotas(&self) -> impl ExactSizeIterator<Item = &quota::Quota> {
        self.context.token_limiters.quotas()
    }

    /// Likewise.
    pub(super) fn queues(&self) -> impl DoubleEndedIterator<Item = &queue::Queue<quota::Quota>> {
        self.context.token_limiters.queues()
    }

    /// How many calls have been let leave, with whatever token.
    pub(super) fn calls(&self) -> u64 {
        self.context.token_limiters.calls()
    }

    /// Whether the store does not answer, so that no call leaves.
    pub(super) fn is_store_lost(&self) -> bool {
        self.quotas().any(|quota| quota.unavailable_for().is_some())
    }
}
