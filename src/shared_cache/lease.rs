//! The lease on a request, which is the right to ask the upstream for all replicas.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::Inner;
use super::config::Name;
use super::write_queue::WriteJob;
use crate::caller::Urgency;
use crate::scan::CallObserver;

/// What has become of a lease, as published on the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseEvent {
    /// The answer is in the store.
    Completed,
    /// A call brought no answer; another replica may try.
    Failed,
    /// There is an answer, but it cannot be shared.
    Alone,
    /// The holder's call has left.
    Left,
    /// The holder's call waits for a slot again, or was given up before it left, or the event is
    /// unknown: look up again.
    Look,
}

impl LeaseEvent {
    /// The message about a request.
    pub(super) fn message(self, name: &Name) -> String {
        let sign = match self {
            Self::Completed => '+',
            Self::Failed => '-',
            Self::Alone => '!',
            Self::Left => '>',
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
            '>' => Self::Left,
            _ => Self::Look,
        };
        Some((event, Name::new(chars.as_str())))
    }
}

/// A lease. It is held by all requests of this replica that wait for its call, and by the call
/// itself, and ends when the last of them is gone.
pub(super) struct Lease {
    inner: Arc<Inner>,
    name: Name,
    token: Token,
    ended: AtomicBool,
    renewal: CancellationToken,
    answered: Notify,
    /// So many of its calls are under way.
    under_way: watch::Sender<usize>,
    /// Whether any has ever left.
    had_call: AtomicBool,
}

/// What the store has of a lease: a random name, so that no replica ends or renews another
/// replica's lease, and what `get_or_lease.lua` has to know of its holder.
#[derive(Clone, Debug)]
struct Token {
    waiting: Arc<str>,
    /// From whom no call takes the lease, which earlier versions understand as well.
    left: Arc<str>,
}

impl Token {
    fn random(urgency: Urgency) -> Self {
        let name = format!("{:032x}", rand::random::<u128>());
        Self {
            waiting: format!("{name}:{}", urgency.level()).into(),
            left: format!("{name}:left:0").into(),
        }
    }
}

impl Lease {
    /// A lease that is about to be requested. From here on it is given back when it is dropped,
    /// because the reply that grants it may be lost.
    pub(super) fn new(inner: &Arc<Inner>, name: &Name, urgency: Urgency) -> Self {
        Self {
            inner: Arc::clone(inner),
            name: name.clone(),
            token: Token::random(urgency),
            ended: AtomicBool::new(false),
            renewal: CancellationToken::new(),
            answered: Notify::new(),
            under_way: watch::Sender::new(0),
            had_call: AtomicBool::new(false),
        }
    }

    /// The lease was granted. It is renewed until it ends.
    pub(super) fn granted(self) -> Arc<Self> {
        let lease = Arc::new(self);
        lease.inner.registry.add_lease(&lease);
        let (inner, name, token) = (Arc::clone(&lease.inner), lease.name.clone(), lease.token.clone());
        let (ended, under_way) = (lease.renewal.clone(), lease.under_way.subscribe());
        lease.inner.tasks.spawn_upkeep("lease", async move {
            // The task must not hold the lease itself, which would then never be dropped.
            ended.run_until_cancelled(renew(&inner, &name, &token, under_way)).await;
        });
        lease
    }

    /// The lease was not granted.
    pub(super) fn not_granted(self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    pub(super) fn token(&self) -> &str {
        &self.token.waiting
    }

    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    /// Resolves when another replica has got an answer, although this one has the lease, or had it
    /// until a more urgent call took it.
    ///
    /// # Cancel safety
    ///
    /// What is answered while nobody waits for it is missed.
    pub(super) async fn answered_elsewhere(&self) {
        self.answered.notified().await;
    }

    /// Another replica has got an answer.
    pub(super) fn is_answered(&self) {
        self.answered.notify_waiters();
    }

    /// Ends the lease without an answer.
    pub(super) fn end(&self, event: LeaseEvent) {
        if self.close() {
            self.inner.write_queue.send(WriteJob {
                name: self.name.clone(),
                token: Some(Arc::clone(&self.token.waiting)),
                result: Err(event),
            });
        }
    }

    /// Ends the lease with an answer, which must be written under its token; `None` when it has
    /// ended already.
    pub(super) fn complete(&self) -> Option<Arc<str>> {
        self.close().then(|| Arc::clone(&self.token.waiting))
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
        // That its holder got no slot says nothing of the upstream.
        let had_call = *self.had_call.get_mut();
        self.end(if had_call { LeaseEvent::Failed } else { LeaseEvent::Look });
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// One of the calls that keep a lease. As long as any of them is under way, the lease is that of a call
/// that has left, also where a later one for the same request still waits.
#[derive(Debug)]
pub(super) struct LeasedCall {
    lease: Arc<Lease>,
    has_left: AtomicBool,
}

impl LeasedCall {
    pub(super) fn new(lease: Arc<Lease>) -> Self {
        Self {
            lease,
            has_left: AtomicBool::new(false),
        }
    }
}

impl CallObserver for LeasedCall {
    fn has_left(&self, has_left: bool) {
        if self.has_left.swap(has_left, Ordering::Relaxed) == has_left {
            return;
        }
        self.lease.had_call.store(true, Ordering::Relaxed);
        // Then its answer is on its way to the store, and nobody is to take it for a call that waits.
        let has_ended = self.lease.ended.load(Ordering::Relaxed);
        self.lease.under_way.send_if_modified(|calls| {
            let before = *calls;
            *calls = if has_left { before + 1 } else { before - 1 };
            !has_ended && (before == 0) != (*calls == 0)
        });
    }
}

impl Drop for LeasedCall {
    fn drop(&mut self) {
        self.has_left(false);
    }
}

/// Renews a lease until it is lost, and says at once when the call leaves, or waits again.
async fn renew(inner: &Inner, name: &Name, token: &Token, mut under_way: watch::Receiver<usize>) {
    loop {
        let has_changed = tokio::select! {
            changed = under_way.changed() => {
                if changed.is_err() {
                    return;
                }
                true
            }
            // One failed renewal and a late one still leave time for a third.
            () = tokio::time::sleep(inner.config.lease / 3) => false,
        };
        let (token, event) = if *under_way.borrow_and_update() > 0 {
            (&token.left, LeaseEvent::Left)
        } else {
            (&token.waiting, LeaseEvent::Look)
        };
        if !inner.backend.renew(name, token, has_changed.then_some(event)).await {
            tracing::debug!(name = name.as_str(), "a lease was lost to another replica");
            return;
        }
    }
}
