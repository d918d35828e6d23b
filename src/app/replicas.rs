//! What replicas share besides the quota, joined to memory.

use std::convert::Infallible;
use std::sync::Arc;

use super::context::SharedContext;
use super::settings;
use super::supervised::Supervised;
use crate::config::Resolved;
use crate::{cache, scan, shared_cache};

impl SharedContext {
    /// What replicas share besides the quota, if they do. Made anew with every configuration: whose
    /// answers they are may be another's.
    pub(super) fn shared_cache(
        &self,
        config: &Resolved,
        cache: &Arc<cache::Cache>,
    ) -> Option<Supervised<shared_cache::SharedCache>> {
        let (store, metrics) = (self.store.clone()?, self.metrics.shared_cache.clone()?);
        let shared_cache = settings::shared_cache(config, store)?;
        let shared_cache = shared_cache.with_memory(Arc::clone(&self.memory.answers.large));
        let memory = Arc::clone(cache);
        let adopt: shared_cache::InsertLocal = Arc::new(move |request, found| {
            memory.insert_remote(request, &found.answer, (found.asked, found.stored), found.ttl);
        });
        let Ok(supervised) = Supervised::make(&self.tasks, |tasks| {
            Ok::<_, Infallible>(shared_cache::SharedCache::join(shared_cache, adopt, tasks, metrics))
        });
        Some(supervised)
    }
}

/// Where answers go that were paid for: into memory, and to the other replicas.
pub(super) fn keep(
    cache: &Arc<cache::Cache>,
    shared_cache: Option<&Supervised<shared_cache::SharedCache>>,
) -> Arc<dyn scan::CacheSink> {
    let memory = Arc::clone(cache) as Arc<dyn scan::CacheSink>;
    match shared_cache {
        Some(supervised) => Arc::new(shared_cache::Publisher::new(supervised.part.clone(), memory)),
        None => memory,
    }
}
