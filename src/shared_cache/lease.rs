//! The right to ask for all replicas.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

use super::config::Name;
use super::layer::Inner;
use super::waiters::LeaseEvent;
use super::write_queue::WriteJob;
use crate::scan::Key;

/// A lease on a question. It is held by all requests of this replica that wait for its call; when the last of them goes, it ends.
pub(super) struct Lease {
    inner: Arc<Inner>,
    key: Key,
    name: Name,
    token: Arc<str>,
    ended: AtomicBool,
    renewal: CancellationToken,
}

impl Lease {
    /// A lease that is about to be asked for. It ends on drop from here on: the answer that grants it may be lost.
    pub(super) fn propose(inner: &Arc<Inner>, key: &Key, name: &Name) -> Self {
        Self {
            inner: Arc::clone(inner),
            key: key.clone(),
            name: name.clone(),
            // So that nobody ends or prolongs another's.
            token: format!("{:032x}", rand::random::<u128>()).into(),
            ended: AtomicBool::new(false),
            renewal: CancellationToken::new(),
        }
    }

    /// It was granted: it is renewed until it ends.
    pub(super) fn take(self) -> Arc<Self> {
        let lease = Arc::new(self);
        lease.inner.registry.lead(&lease);
        let (inner, name, token) = (Arc::clone(&lease.inner), lease.name.clone(), Arc::clone(&lease.token));
        let ended = lease.renewal.clone();
        lease.inner.tasks.spawn_upkeep("lease", async move {
            // The task must not hold the lease itself, which would never end.
            ended.run_until_cancelled(renew(&inner, &name, &token)).await;
        });
        lease
    }

    /// It was not granted.
    pub(super) fn decline(self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Ends it without an answer.
    pub(super) fn end(&self, word: LeaseEvent) {
        if self.close() {
            self.inner.write_queue.send(WriteJob::LeaseEvent {
                name: self.name.clone(),
                token: Arc::clone(&self.token),
                word,
            });
        }
    }

    /// Ends it with an answer, which must be written under its token; `None` when it has ended already.
    pub(super) fn land(&self) -> Option<Arc<str>> {
        self.close().then(|| Arc::clone(&self.token))
    }

    fn close(&self) -> bool {
        let first = !self.ended.swap(true, Ordering::Relaxed);
        if first {
            self.renewal.cancel();
            self.inner.registry.forget(self);
        }
        first
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end(LeaseEvent::Failed);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Renews a lease until it is lost.
async fn renew(inner: &Inner, name: &Name, token: &str) {
    loop {
        // A lost renewal and a late one leave time for a third.
        tokio::time::sleep(inner.config.lease / 3).await;
        if !inner.backend.renew(name, token).await {
            tracing::debug!(name = name.as_str(), "a lease was lost to another replica");
            return;
        }
    }
}
