//! The gateway's own quotas, opened.

use std::time::Duration;

use prometheus_client::registry::Registry;

use super::{Error, settings};
use crate::clock::Wall;
use crate::config::{self, Resolved};
use crate::scan::Operation;
use crate::task::Tasks;
use crate::{quota, store};

/// One quota for all operations, or one for each, with an `operation` in their metrics. The quotas
/// of callers' own tokens report to the metrics returned.
pub(super) fn open_quotas(
    config: &Resolved,
    attempt: Duration,
    wall: &Wall,
    tasks: &Tasks,
    store: Option<&store::Client>,
    root: &mut Registry,
) -> Result<(Vec<quota::Quota>, quota::Metrics), Error> {
    let open = |operation: Option<Operation>, registry: &mut Registry, metrics: quota::Metrics| {
        let quota_config = settings::quota_of(operation, config, attempt)?;
        let Some(store) = store else {
            let opened = quota::Quota::open(&quota_config, wall.clone(), metrics);
            return opened.map_err(Error::of("the quota's state file"));
        };
        let sharing = settings::sharing_of(operation, config, store.clone());
        let metrics = quota::shared::Metrics::register(registry, metrics);
        Ok(quota::Quota::join(&quota_config, &sharing, tasks, metrics))
    };
    if config.quota.scope == config::Scope::All {
        let metrics = quota::Metrics::register(root);
        return Ok((vec![open(None, root, metrics.clone())?], metrics));
    }
    let quotas = Operation::ALL.into_iter().map(|operation| {
        let label = ("operation".into(), operation.declaration().name.into());
        let registry = root.sub_registry_with_label(label);
        let metrics = quota::Metrics::register(registry);
        open(Some(operation), registry, metrics)
    });
    Ok((quotas.collect::<Result<_, _>>()?, quota::Metrics::default()))
}
