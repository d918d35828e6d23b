//! The lease on a request: the right to ask the upstream for all replicas.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

use super::config::Name;
use super::layer::Inner;
use super::write_queue::WriteJob;

/// How a lease ended, as published on the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseEvent {
    /// The answer is in the store.
    Completed,
    /// There is no answer; another replica may try.
    Failed,
    /// There is an answer, but it cannot be shared.
    Alone,
    /// The event is unknown: look up again.
    Look,
}

impl LeaseEvent {
    /// The message about a request.
    pub(super) fn message(self, name: &Name) -> String {
        let sign = match self {
            Self::Completed => '+',
            Self::Failed => '-',
            Self::Alone => '!',
            Self::Look => '?',
        };
        format!("{sign}{}", name.as_str())
    }

    /// Parses a message. An unknown sign, of a later version, means that the answer has to be
    /// looked up again.
    pub(super) fn parse(message: &str) -> Option<(Self, Name)> {
        let mut chars = message.chars();
        let event = match chars.next()? {
            '+' => Self::Completed,
            '-' => Self::Failed,
            '!' => Self::Alone,
            _ => Self::Look,
        };
        Some((event, Name::new(chars.as_str())))
    }
}

/// A lease. It is held by all requests of this replica that wait for its call, and ends when the
/// last of them is gone.
pub(super) struct Lease {
    inner: Arc<Inner>,
    name: Name,
    token: Arc<str>,
    ended: AtomicBool,
    renewal: CancellationToken,
}

impl Lease {
    /// A lease that is about to be requested. From here on it is given back when it is dropped,
    /// because the reply that grants it may be lost.
    pub(super) fn new(inner: &Arc<Inner>, name: &Name) -> Self {
        Self {
            inner: Arc::clone(inner),
            name: name.clone(),
            // A random token, so that no replica ends or renews another replica's lease.
            token: format!("{:032x}", rand::random::<u128>()).into(),
            ended: AtomicBool::new(false),
            renewal: CancellationToken::new(),
        }
    }

    /// The lease was granted. It is renewed until it ends.
    pub(super) fn granted(self) -> Arc<Self> {
        let lease = Arc::new(self);
        lease.inner.registry.add_lease(&lease);
        let (inner, name, token) = (Arc::clone(&lease.inner), lease.name.clone(), Arc::clone(&lease.token));
        let ended = lease.renewal.clone();
        lease.inner.tasks.spawn_upkeep("lease", async move {
            // The task must not hold the lease itself, which would then never be dropped.
            ended.run_until_cancelled(renew(&inner, &name, &token)).await;
        });
        lease
    }

    /// The lease was not granted.
    pub(super) fn not_granted(self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Ends the lease without an answer.
    pub(super) fn end(&self, event: LeaseEvent) {
        if self.close() {
            self.inner.write_queue.send(WriteJob::EndLease {
                name: self.name.clone(),
                token: Arc::clone(&self.token),
                event,
            });
        }
    }

    /// Ends the lease with an answer, which must be written under its token; `None` when it has
    /// ended already.
    pub(super) fn complete(&self) -> Option<Arc<str>> {
        self.close().then(|| Arc::clone(&self.token))
    }

    fn close(&self) -> bool {
        let first = !self.ended.swap(true, Ordering::Relaxed);
        if first {
            self.renewal.cancel();
            self.inner.registry.remove_lease(self);
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
        f.debug_struct("Lease")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Renews a lease until it is lost.
async fn renew(inner: &Inner, name: &Name, token: &str) {
    loop {
        // One failed renewal and a late one still leave time for a third.
        tokio::time::sleep(inner.config.lease / 3).await;
        if !inner.backend.renew(name, token).await {
            tracing::debug!(name = name.as_str(), "a lease was lost to another replica");
            return;
        }
    }
}
