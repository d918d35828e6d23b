//! Whose turn it is: a bounded queue in front of the quota, fair, and honest about time.
//!
//! A waiting request holds a ticket, not a slot; a slot is bound to a ticket when it is there.
//! Three rules decide:
//!
//! 1. **Order** ([`FairScheduler`]): urgency classes with a share each, callers by weight inside a
//!    class, and a caller's own requests by deadline. Deadlines do not bend it: what a request may
//!    wait decides whether it is let in, not when it is served.
//! 2. **Admission**: a request is let in when its slot comes before its deadline, with that order
//!    played forward over those who wait now and those who are about to ask (`expectation`):
//!    callers that ask again whenever they are answered, and requests that were refused and told
//!    when to come back, each from the moment on at which it is due (`turn_forecast`). Otherwise it
//!    is refused at once, and told how long a wait would have been enough and when to come back;
//!    until then its place in the order is kept. A caller claims as many slots for those as its
//!    returns have earned, so one that does not come back costs others little.
//! 3. **Taking back**: a place on slots that somebody comes to claim with a better right was
//!    borrowed. The order is played forward again when somebody came who goes before others; whose
//!    turn then comes after the deadline is told at once. So nobody is served late, and within its
//!    own class and share nobody is taken back. This is load shedding by priority.
//!
//! Not here: when slots come; the queue asks its [`PermitSource`].

mod caller_limit;
mod expectation;
mod fair_queue;
mod fair_scheduler;
mod layer;
mod refused;
mod snapshot;
mod state;
mod take_back;
#[cfg(test)]
mod tests;
mod turn_forecast;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use caller_limit::{CallerLimit, CallerLimitLayer, CallerLimiter};
pub use fair_queue::Queue;
pub use fair_scheduler::{FairScheduler, Ticket};
pub use refused::{Reason, Refused, Wait};
pub use snapshot::{Metrics, Snapshot};

use crate::attempt::{FlowOrder, SharedOrder};
use crate::caller::{Name, Urgency};

/// Where slots come from.
pub trait PermitSource: fmt::Debug + Send + Sync + 'static {
    /// A slot. Dropped unused, it goes back, and [`PermitSource::changed`] tells.
    type Permit: fmt::Debug + Send + 'static;

    /// Takes the slot that is free now. What is left of an earlier forecast, without its first
    /// slot, still holds.
    ///
    /// # Errors
    /// When there is none: the moment to ask again, or `None` when only [`PermitSource::changed`]
    /// can tell.
    fn take(&self, now: Instant) -> Result<Self::Permit, Option<Instant>>;

    /// Appends the starts of the next `count` slots, ascending; with
    /// [`PermitSource::shared_order`], the slots of all.
    fn forecast(&self, now: Instant, count: usize, slots: &mut VecDeque<Instant>);

    /// Changes when an earlier forecast may no longer hold.
    fn version(&self) -> u64;

    /// Resolves when a slot may be free earlier than last said; a change while nobody waits is not
    /// lost.
    fn changed(&self) -> impl Future<Output = ()> + Send;

    /// Says what is wanted, whenever that may have changed.
    fn demand(&self, flows: &dyn FlowOrder) {
        let _ = flows;
    }

    /// The order of all queues that draw on the same slots, when it is kept elsewhere: another one
    /// whenever more is known.
    fn shared_order(&self) -> Option<Arc<SharedOrder>> {
        None
    }

    /// For whom this slot is, when that was decided elsewhere. If that caller has left, the next
    /// one in the queue's own order gets it.
    fn granted_to(&self, permit: &Self::Permit) -> Option<(Urgency, Name)> {
        let _ = permit;
        None
    }

    /// When nobody can tell whether there are slots: how long callers should stay away.
    fn unavailable_for(&self) -> Option<Duration> {
        None
    }

    /// When a slot may come free by itself, besides what [`PermitSource::take`] said.
    fn next_timeout(&self) -> Option<Instant>;
}

/// How much of the quota a caller gets beside others who wait: twice the weight, twice the share. 1
/// for callers without an entry.
#[derive(Clone, Debug, Default)]
pub struct Weights(HashMap<Name, NonZeroU32>);

impl Weights {
    /// Weights above this count as this: shares finer than a thousandth would not be noticed.
    pub const MOST: u32 = 1000;

    /// The caller's weight, 1 to [`Weights::MOST`].
    pub fn of(&self, caller: &Name) -> u32 {
        self.0.get(caller).map_or(1, |weight| weight.get().min(Self::MOST))
    }
}

impl FromIterator<(Name, NonZeroU32)> for Weights {
    fn from_iter<I: IntoIterator<Item = (Name, NonZeroU32)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

/// The queue's settings. All values are valid; zero tickets means that nobody may wait.
#[derive(Clone, Debug)]
pub struct Config {
    /// Most tickets in all.
    pub max_requests: usize,
    /// Most tickets of one caller.
    pub max_requests_per_caller: usize,
    /// The longest that a request may ask to wait; no refusal advises a longer one.
    pub longest_wait: Duration,
    /// Shares of named callers.
    pub weights: Weights,
}

/// Those of a gateway whose configuration says nothing about the queue.
impl Default for Config {
    fn default() -> Self {
        Self {
            max_requests: 10_000,
            max_requests_per_caller: 1000,
            longest_wait: Duration::from_mins(10),
            weights: Weights::default(),
        }
    }
}
