//! The quota as the rest of the gateway knows it: of this process alone, or shared with other
//! replicas.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::config::Config;
use super::metrics::Metrics;
use super::snapshot::Snapshot;
use super::throttle_hint::ThrottleHint;
use super::{local, shared};
use crate::attempt::{Demand, Scarcity, SharedOrder};
use crate::caller::{Name, Urgency};
use crate::clock::Wall;
use crate::task::Tasks;

/// Does the same with either kind.
macro_rules! either {
    ($either:expr, $kind:ident => $call:expr) => {
        match $either {
            Self::Local($kind) => $call,
            Self::Shared($kind) => $call,
        }
    };
}

/// The quota of one app registration. Clones share it.
#[derive(Clone, Debug)]
pub enum Quota {
    /// Kept in this process.
    Local(local::Quota),
    /// Kept in a store, for all replicas.
    Shared(shared::Quota),
}

impl Quota {
    /// Opens the quota of this process and, when a state file is configured, remembers the calls of
    /// earlier processes.
    ///
    /// # Errors
    /// When the state file cannot be used.
    pub fn open(config: &Config, wall: Wall, metrics: Metrics) -> io::Result<Self> {
        local::Quota::open(config, wall, metrics).map(Self::Local)
    }

    /// A quota of its own that is forgotten with it: a state file in `config` is left alone.
    pub fn ephemeral(config: &Config, wall: Wall, metrics: Metrics) -> Self {
        Self::Local(local::Quota::ephemeral(config, wall, metrics))
    }

    /// Joins the replicas that share the quota through a store. No call goes before the store has
    /// answered.
    pub fn join(config: &Config, sharing: &shared::Config, tasks: &Tasks, metrics: shared::Metrics) -> Self {
        Self::Shared(shared::Quota::join(config, sharing, tasks, metrics))
    }

    /// Goes on with other limits, burst and attempt, without forgetting a call. What replicas
    /// share, they have agreed on: a shared quota stays as it is.
    pub fn reconfigure(&self, config: &Config) {
        if let Self::Local(quota) = self {
            quota.reconfigure(config);
        }
    }

    /// Takes the slot that is free now.
    ///
    /// # Errors
    /// When there is none: the moment to ask again, or `None` when only [`Quota::changed`] can
    /// tell.
    pub fn take(&self, now: Instant) -> Result<Permit, Option<Instant>> {
        match self {
            Self::Local(quota) => quota.take(now).map(Permit::Local),
            Self::Shared(quota) => quota.take(now).map(Permit::Shared).ok_or(None),
        }
    }

    /// Changes whenever a snapshot may have become another one, except by the passing of time.
    pub fn revision(&self) -> u64 {
        either!(self, quota => quota.revision())
    }

    /// Says what is wanted: a shared quota hands out slots only to those who wait.
    pub fn demand(&self, demand: Demand<'_>) {
        if let Self::Shared(quota) = self {
            quota.demand(demand);
        }
    }

    /// How many other processes may want slots of the same quota.
    pub fn other_replicas(&self) -> usize {
        match self {
            Self::Local(_) => 0,
            Self::Shared(quota) => quota.other_replicas(),
        }
    }

    /// The order of all processes that draw on the same slots.
    pub fn shared_order(&self) -> Option<Arc<SharedOrder>> {
        match self {
            Self::Local(_) => None,
            Self::Shared(quota) => Some(quota.shared_order()),
        }
    }

    /// When the store is lost: how long to stay away.
    pub fn unavailable_for(&self) -> Option<Duration> {
        match self {
            Self::Local(_) => None,
            Self::Shared(quota) => quota.unavailable_for(),
        }
    }

    /// Appends the starts of the next `count` slots to `slots`; see [`super::Forecast`].
    pub fn forecast(&self, now: Instant, count: usize, slots: &mut VecDeque<Instant>) {
        either!(self, quota => quota.forecast(now, count, slots));
    }

    /// How many slots this process can count on until that moment, as far as `most`.
    pub fn slots_until(&self, until: Instant, most: usize) -> usize {
        // Each process gets its share of what others want too.
        let sharers = self.other_replicas().saturating_add(1);
        let mut slots = VecDeque::new();
        self.forecast(Instant::now(), most.saturating_mul(sharers), &mut slots);
        slots.partition_point(|start| *start <= until) / sharers
    }

    /// Changes whenever an earlier forecast may no longer hold.
    pub fn version(&self) -> u64 {
        either!(self, quota => quota.version())
    }

    /// Resolves when a slot may have become free earlier than last said. For one waiter; changes
    /// while nobody waits are not lost.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn changed(&self) {
        either!(self, quota => quota.changed().await);
    }

    /// When a call of unknown fate ends by itself, which is no change that [`Quota::changed`]
    /// tells.
    pub fn next_timeout(&self) -> Option<Instant> {
        match self {
            Self::Local(quota) => quota.next_timeout(),
            // The store ends it, and says so.
            Self::Shared(_) => None,
        }
    }

    /// Whether calls that nobody waits for may be made now.
    pub fn has_surplus(&self) -> bool {
        either!(self, quota => quota.has_surplus())
    }

    /// How scarce slots are.
    pub fn scarcity(&self) -> Scarcity {
        either!(self, quota => quota.scarcity())
    }

    /// From when on no call of this process counts in any window. For one that is shared, others'
    /// calls may: never within a day.
    pub fn empty_at(&self, now: Instant) -> Instant {
        match self {
            Self::Local(quota) => quota.empty_at(now),
            Self::Shared(_) => now + Duration::from_hours(24),
        }
    }

    /// The state for people.
    pub fn snapshot(&self) -> Snapshot {
        either!(self, quota => quota.snapshot())
    }

    /// Brings the gauges up to date; called when somebody scrapes.
    pub fn show(&self) {
        either!(self, quota => quota.show());
    }
}

/// The right to make one call, charged when it was issued. Dropped before [`Permit::leave`], the
/// slot goes back; dropped after it, the charge stays until the call's timeout, because the call
/// may have arrived.
#[derive(Debug)]
pub enum Permit {
    /// From this process's quota.
    Local(local::Permit),
    /// From the store.
    Shared(shared::Permit),
}

impl Permit {
    /// For whom the slot is, when a store decided it.
    pub fn granted_to(&self) -> Option<(Urgency, Name)> {
        match self {
            Self::Local(_) => None,
            Self::Shared(permit) => permit.granted_to(),
        }
    }

    /// When the call must have ended: the ledger keeps the charge a little longer, and no longer.
    pub fn latest(&self) -> Instant {
        either!(self, permit => permit.latest())
    }

    /// The call is about to leave.
    pub fn leave(&mut self) {
        either!(self, permit => permit.leave());
    }

    /// The call was answered, and not with a 429.
    pub fn settle(self) {
        either!(self, permit => permit.settle());
    }

    /// Provably no byte of the call was written.
    pub fn refund(self) {
        either!(self, permit => permit.refund());
    }

    /// The call was answered with a 429: everybody pauses. Returns for how long, as far as this
    /// process knows.
    pub fn throttled(self, answer: ThrottleHint) -> Duration {
        either!(self, permit => permit.throttled(answer))
    }
}
