//! A look for an answer, and the wait for a call of another replica.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::bell::Word;
use super::board::Entry;
use super::config::Name;
use super::depot::{Found, Regard, Sight};
use super::layer::Inner;
use super::lease::Lease;
use crate::caller::Freshness;
use crate::scan::Request;

/// What came of it, for all in this process who asked the same.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// An answer.
    Found(Arc<Found>, Means),
    /// This replica is to ask, for all.
    Led(Arc<Lease>),
    /// This replica is to ask, for itself.
    Alone,
}

/// How an answer was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Means {
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
pub(super) async fn inquire(inner: Arc<Inner>, request: Arc<Request>, name: Name, entry: Entry) -> Outcome {
    let outcome = follow(&inner, &request, &name).await;
    // Off the board only now: a lease is on it already.
    drop(entry);
    outcome
}

async fn follow(inner: &Arc<Inner>, request: &Request, name: &Name) -> Outcome {
    let mut means = Means::Look;
    let mut regard = Regard::Answers;
    let mut failures = 0;
    // Before the first look: what is said after it must not be missed.
    let mut bell = inner.bells.hang(name);
    loop {
        let lease = Lease::propose(inner, request.key(), name);
        match inner
            .depot
            .look(request.endpoint(), name, Some(lease.token()), regard)
            .await
        {
            Sight::Led => return Outcome::Led(lease.take()),
            Sight::Found(found) => {
                lease.decline();
                if found.ttl > found.stored.elapsed() {
                    (inner.adopt)(request, &found.life(), &found.answer);
                    return Outcome::Found(Arc::new(found), means);
                }
                // It grew too old on its way, or is too old for us.
                regard = Regard::LeasesOnly;
            }
            Sight::Unreadable => {
                lease.decline();
                // The other look does not read it.
                if regard == Regard::LeasesOnly {
                    return Outcome::Alone;
                }
                regard = Regard::LeasesOnly;
            }
            Sight::Held(left) => {
                lease.decline();
                means = Means::Wait;
                regard = Regard::Answers;
                let word = tokio::select! {
                    word = bell.word() => word,
                    // The leader is gone, or has prolonged it, or its word was lost.
                    () = sleep(left + MARGIN) => Word::Look,
                };
                failures += u32::from(word == Word::Failed);
                if word == Word::Alone || failures >= FAILURES {
                    return Outcome::Alone;
                }
            }
            Sight::LeftAlone => {
                lease.decline();
                return Outcome::Alone;
            }
            // It may have been granted: dropped, the lease is given back.
            Sight::Lost | Sight::Nothing => return Outcome::Alone,
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
