//! What replicas share besides the quota, joined to memory.

use std::convert::Infallible;
use std::sync::Arc;

use super::ground::Ground;
use super::settings;
use super::tended::Tended;
use crate::config::Resolved;
use crate::{cache, fleet, scan};

impl Ground {
    /// What replicas share besides the quota, if they do. Made anew with every configuration: whose answers they are may be another's.
    pub(super) fn fleet(&self, config: &Resolved, cache: &Arc<cache::Cache>) -> Option<Tended<fleet::Member>> {
        let (store, metrics) = (self.store.clone()?, self.meters.fleet.clone()?);
        let fleet = settings::fleet(config, store)?;
        let fleet = fleet.with_memory(Arc::clone(&self.memory.answers.large));
        let memory = Arc::clone(cache);
        let adopt: fleet::Adopt = Arc::new(move |request, life, answer| {
            memory.adopt(request, answer, (life.asked, life.stored), life.ttl);
        });
        let Ok(tended) = Tended::make(&self.tasks, |tasks| {
            Ok::<_, Infallible>(fleet::Member::join(fleet, adopt, tasks, metrics))
        });
        Some(tended)
    }
}

/// Where answers go that were paid for: into memory, and to the other replicas.
pub(super) fn keep(cache: &Arc<cache::Cache>, fleet: Option<&Tended<fleet::Member>>) -> Arc<dyn scan::Keep> {
    let memory = Arc::clone(cache) as Arc<dyn scan::Keep>;
    match fleet {
        Some(tended) => Arc::new(fleet::Publisher::new(tended.part.clone(), memory)),
        None => memory,
    }
}
