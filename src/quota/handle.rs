//! The quota as the rest of the gateway knows it: of this process alone, or shared with other
//! replicas.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::config::Config;
use super::forecast::Forecast;
use super::local::Local;
use super::metrics::Metrics;
use super::permit::Permit;
use super::shared::{self, Replica};
use super::snapshot::Snapshot;
use crate::attempt::{FlowOrder, Scarcity, SharedOrder};
use crate::clock::Wall;
use crate::task::Tasks;

/// The quota of one app registration. Clones share it.
#[derive(Clone, Debug)]
pub struct Quota(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// Kept in this process.
    Local(Arc<Local>),
    /// Kept in a store, for all replicas.
    Shared(Arc<Replica>),
}

/// Does the same with either kind.
macro_rules! either {
    ($kind:ident, $either:expr, $of:ident => $call:expr) => {
        match $either {
            $kind::Local($of) => $call,
            $kind::Shared($of) => $call,
        }
    };
}

pub(super) use either;

/// How long callers should stay away while the store is lost.
const COME_BACK: Duration = Duration::from_secs(2);

impl Quota {
    /// Opens the quota of this process and, when a state file is configured, remembers the calls of
    /// earlier processes.
    ///
    /// # Errors
    /// When the state file cannot be used.
    pub fn open(config: &Config, wall: Wall, metrics: Metrics) -> io::Result<Self> {
        let local = Local::open(config, wall, metrics)?;
        Ok(Self(Kind::Local(Arc::new(local))))
    }

    /// A quota of its own that is forgotten with it: a state file in `config` is left alone.
    pub fn ephemeral(config: &Config, wall: Wall, metrics: Metrics) -> Self {
        Self(Kind::Local(Arc::new(Local::ephemeral(config, wall, metrics))))
    }

    /// Joins the replicas that share the quota through a store. No call goes before the store has
    /// answered.
    pub fn join(config: &Config, sharing: &shared::Config, tasks: &Tasks, metrics: shared::Metrics) -> Self {
        Self(Kind::Shared(Replica::join(config, sharing, tasks, metrics)))
    }

    /// Goes on with other limits, burst and attempt, without forgetting a call. What replicas
    /// share, they have agreed on: a shared quota stays as it is.
    pub fn reconfigure(&self, config: &Config) {
        if let Kind::Local(local) = &self.0 {
            local.reconfigure(config);
        }
    }

    /// Takes the slot that is free now. That is no change of [`Quota::version`] in a quota that is
    /// not shared: the rest of a forecast counts on it.
    ///
    /// # Errors
    /// When there is none: the moment to ask again, or `None` when only [`Quota::changed`] can
    /// tell.
    pub fn take(&self, now: Instant) -> Result<Permit, Option<Instant>> {
        match &self.0 {
            Kind::Local(local) => Local::take(local, now),
            Kind::Shared(replica) => Replica::take(replica, now).ok_or(None),
        }
    }

    /// Changes whenever a snapshot may have become another one, except by the passing of time.
    pub fn revision(&self) -> u64 {
        either!(Kind, &self.0, of => of.state.revision())
    }

    /// Says what is wanted: a shared quota hands out slots only to those who wait.
    pub fn demand(&self, flows: &dyn FlowOrder) {
        if let Kind::Shared(replica) = &self.0 {
            replica.demand(flows);
        }
    }

    /// How many other processes may want slots of the same quota.
    pub fn other_replicas(&self) -> usize {
        match &self.0 {
            Kind::Local(_) => 0,
            Kind::Shared(replica) => replica.state.look().replicas() - 1,
        }
    }

    /// The order of all processes that draw on the same slots, as the store said last.
    pub fn shared_order(&self) -> Option<Arc<SharedOrder>> {
        match &self.0 {
            Kind::Local(_) => None,
            Kind::Shared(replica) => Some(replica.state.look().order()),
        }
    }

    /// When the store is lost, or has never answered: how long to stay away.
    pub fn unavailable_for(&self) -> Option<Duration> {
        match &self.0 {
            Kind::Local(_) => None,
            Kind::Shared(replica) => replica.state.look().is_lost().then_some(COME_BACK),
        }
    }

    /// Appends the starts of the next `count` slots to `slots`, those of all replicas; see
    /// [`Forecast`].
    pub fn forecast(&self, now: Instant, count: usize, slots: &mut VecDeque<Instant>) {
        match &self.0 {
            Kind::Local(local) => {
                let mut forecast = Forecast::new(&local.state.look().quota_state, now);
                slots.extend((0..count).map(|_| forecast.next_slot()));
            }
            Kind::Shared(replica) => replica.state.look().forecast(now, count, slots),
        }
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
        either!(Kind, &self.0, of => of.state.version())
    }

    /// Resolves when a slot may have become free earlier than last said. For one waiter; changes
    /// while nobody waits are not lost.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn changed(&self) {
        either!(Kind, &self.0, of => of.state.changed.notified().await);
    }

    /// When a call of unknown fate ends by itself, which is no change that [`Quota::changed`]
    /// tells.
    pub fn next_timeout(&self) -> Option<Instant> {
        match &self.0 {
            Kind::Local(local) => local.state.look().quota_state.next_timeout(),
            // The store ends it, and says so.
            Kind::Shared(_) => None,
        }
    }

    /// Whether calls that nobody waits for may be made now.
    pub fn has_surplus(&self) -> bool {
        match &self.0 {
            Kind::Local(local) => local.state.lock().quota_state.has_surplus(Instant::now()),
            Kind::Shared(replica) => replica.state.look().has_surplus(Instant::now()),
        }
    }

    /// How scarce slots are, as this process knows it.
    pub fn scarcity(&self) -> Scarcity {
        match &self.0 {
            Kind::Local(local) => local.state.lock().quota_state.scarcity(Instant::now()),
            Kind::Shared(replica) => {
                let now = Instant::now();
                replica.state.look().quota_state(now).scarcity(now)
            }
        }
    }

    /// From when on no call of this process counts in any window. For one that is shared, others'
    /// calls may: never within a day.
    pub fn empty_at(&self, now: Instant) -> Instant {
        match &self.0 {
            Kind::Local(local) => local.state.look().quota_state.empty_at(now),
            Kind::Shared(_) => now + Duration::from_hours(24),
        }
    }

    /// The state for people, as this process knows it.
    pub fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        match &self.0 {
            Kind::Local(local) => local.state.look().quota_state.snapshot(now),
            Kind::Shared(replica) => replica.state.look().snapshot(now),
        }
    }

    /// Brings the gauges up to date; called when somebody scrapes.
    pub fn show(&self) {
        let snapshot = self.snapshot();
        match &self.0 {
            Kind::Local(local) => local.metrics.show(&snapshot),
            Kind::Shared(replica) => replica.metrics.show(&snapshot, self.unavailable_for().is_none()),
        }
    }
}
