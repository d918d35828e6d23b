//! A look for an answer, and the wait for a call of another replica.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::backend::{Found, LookupMode, LookupReply};
use super::config::Name;
use super::layer::Inner;
use super::lease::Lease;
use super::registry::RegistryEntry;
use super::waiters::LeaseEvent;
use crate::caller::Freshness;
use crate::scan::Request;

/// What came of it, for all in this process who asked the same.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// An answer.
    Found(Arc<Found>, Via),
    /// This replica is to ask, for all.
    Led(Arc<Lease>),
    /// This replica is to ask, for itself.
    Alone,
}

/// How an answer was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    /// It was there.
    Look,
    /// By waiting for a call of another replica.
    Wait,
}

/// After so many calls of others have failed, one more would not help, and one after the other takes long: each replica asks for itself.
const FAILURES: u32 = 2;

/// A lease that ran out must have done so at the store as well.
const MARGIN: Duration = Duration::from_millis(5);

/// Looks, and follows whoever has the lease, until there is an outcome. Whoever waits bounds the wait.
pub(super) async fn lookup(inner: Arc<Inner>, request: Arc<Request>, name: Name, entry: RegistryEntry) -> Outcome {
    let outcome = follow(&inner, &request, &name).await;
    // Off the board only now: a lease is on it already.
    drop(entry);
    outcome
}

async fn follow(inner: &Arc<Inner>, request: &Request, name: &Name) -> Outcome {
    let mut means = Via::Look;
    let mut regard = LookupMode::Answers;
    let mut failures = 0;
    // Before the first look: what is said after it must not be missed.
    let mut waiter = inner.waiters.register(name);
    loop {
        let lease = Lease::propose(inner, request.key(), name);
        match inner
            .backend
            .look(request.endpoint(), name, Some(lease.token()), regard)
            .await
        {
            LookupReply::Led => return Outcome::Led(lease.take()),
            LookupReply::Found(found) => {
                lease.decline();
                if found.ttl > found.stored.elapsed() {
                    (inner.adopt)(request, &found.life(), &found.answer);
                    return Outcome::Found(Arc::new(found), means);
                }
                // It grew too old on its way, or is too old for us.
                regard = LookupMode::LeasesOnly;
            }
            LookupReply::DecodeError => {
                lease.decline();
                // The other look does not read it.
                if regard == LookupMode::LeasesOnly {
                    return Outcome::Alone;
                }
                regard = LookupMode::LeasesOnly;
            }
            LookupReply::Held(left) => {
                lease.decline();
                means = Via::Wait;
                regard = LookupMode::Answers;
                let word = tokio::select! {
                    word = waiter.word() => word,
                    // The leader is gone, or has prolonged it, or its word was lost.
                    () = sleep(left + MARGIN) => LeaseEvent::Look,
                };
                failures += u32::from(word == LeaseEvent::Failed);
                if word == LeaseEvent::Alone || failures >= FAILURES {
                    return Outcome::Alone;
                }
            }
            LookupReply::LeftAlone => {
                lease.decline();
                return Outcome::Alone;
            }
            // It may have been granted: dropped, the lease is given back.
            LookupReply::FlightDropped | LookupReply::Nothing => return Outcome::Alone,
        }
    }
}

impl Found {
    /// Whether a caller accepts it. It is fresh; but some want it fresher (RFC 9111 §5.2.1).
    pub(super) fn suits(&self, wanted: &Freshness, now: Instant) -> bool {
        let age = self.age(now);
        let Some(left) = self.ttl.checked_sub(age).filter(|left| !left.is_zero()) else {
            return false;
        };
        wanted.max_age.is_none_or(|limit| age <= limit) && wanted.min_fresh.is_none_or(|least| left >= least)
    }

    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.stored)
    }
}
