//! The quota as the rest of the gateway knows it, of this process alone or shared with other
//! replicas, and its permits, which cannot be forgotten.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::config::Config;
use super::forecast::Forecast;
use super::local::{Local, LocalCharge};
use super::shared::{self, Replica, SharedCharge};
use super::snapshot::{Metrics, Snapshot};
use super::throttle_hint::ThrottleHint;
use crate::attempt::{FlowOrder, Scarcity, SharedOrder};
use crate::caller::{Name, Urgency};
use crate::clock::Wall;
use crate::scan::TokenId;
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

    /// Such a quota for calls with the token of `holder`, a caller. What it comes to is in no
    /// metric of the gateway's own quota.
    pub fn of_caller(config: &Config, wall: Wall, holder: TokenId) -> Self {
        Self(Kind::Local(Arc::new(Local::of_caller(config, wall, holder))))
    }

    /// Joins the replicas that share the quota through a store. No call goes before the store has
    /// answered.
    pub fn join(config: &Config, sharing: &shared::Config, tasks: &Tasks, metrics: shared::Metrics) -> Self {
        Self(Kind::Shared(Replica::join(config, sharing, tasks, metrics)))
    }

    fn shared(&self) -> Option<&Arc<Replica>> {
        match &self.0 {
            Kind::Local(_) => None,
            Kind::Shared(replica) => Some(replica),
        }
    }

    /// Goes on with other limits, burst and attempt, without forgetting a call. What replicas
    /// share, they have agreed on: a shared quota stays as it is.
    pub fn reconfigure(&self, config: &Config) {
        if let Kind::Local(local) = &self.0 {
            local.reconfigure(config);
        }
    }

    /// Goes on as another app registration, to which nobody has refused a call yet. Replicas keep
    /// the ledger of each registration apart: a shared quota stays as it is.
    pub fn forget_refusals(&self, registration: u64) {
        if let Kind::Local(local) = &self.0 {
            local.forget_refusals(registration);
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
        if let Some(replica) = self.shared() {
            replica.demand(flows);
        }
    }

    /// How many other processes may want slots of the same quota.
    pub fn other_replicas(&self) -> usize {
        self.shared().map_or(0, |replica| replica.state.look().replicas() - 1)
    }

    /// The order of all processes that draw on the same slots, as the store said last.
    pub fn shared_order(&self) -> Option<Arc<SharedOrder>> {
        Some(Arc::clone(&self.shared()?.state.look().order))
    }

    /// When the store is lost, or has never answered: how long to stay away.
    pub fn unavailable_for(&self) -> Option<Duration> {
        self.shared()?.state.look().is_lost().then_some(COME_BACK)
    }

    /// Why the state file lacks calls that were made; `None` when it lacks none, or there is none.
    pub fn unwritten(&self) -> Option<String> {
        match &self.0 {
            Kind::Local(local) => local.unwritten(),
            Kind::Shared(_) => None,
        }
    }

    /// Whether another process goes on using the state file, and spends the quota once more.
    pub fn is_file_shared(&self) -> bool {
        matches!(&self.0, Kind::Local(local) if local.is_file_shared())
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
            Kind::Shared(replica) => {
                let replica = replica.state.look();
                Snapshot {
                    unavailable_for: replica.is_lost().then_some(COME_BACK),
                    ..replica.snapshot(now)
                }
            }
        }
    }

    /// Brings the gauges up to date; called when somebody scrapes.
    pub fn show(&self) {
        let snapshot = self.snapshot();
        match &self.0 {
            Kind::Local(local) => local.metrics.show(&snapshot),
            Kind::Shared(replica) => replica.metrics.show(&snapshot, snapshot.unavailable_for.is_none()),
        }
    }
}

/// The right to make one call, charged when it was issued. Dropped before [`Permit::leave`], the
/// slot goes back; dropped after it, the charge stays until the call's timeout, because the call
/// may have arrived.
#[derive(Debug)]
pub struct Permit {
    /// `None` when its end has been told.
    charge: Option<Charge>,
    has_left: bool,
    latest: Instant,
}

/// What a permit is charged as, which is told of the call's end.
#[derive(Debug)]
pub(super) enum Charge {
    /// In this process's ledger.
    Local(LocalCharge),
    /// In the store.
    Shared(SharedCharge),
}

impl Permit {
    /// A permit for a call that must have ended at `latest`.
    pub(super) fn new(charge: Charge, latest: Instant) -> Self {
        Self {
            charge: Some(charge),
            has_left: false,
            latest,
        }
    }

    /// For whom the slot is, when a store decided it.
    pub fn granted_to(&self) -> Option<(Urgency, Name)> {
        match &self.charge {
            Some(Charge::Shared(charge)) => charge.granted_to(),
            Some(Charge::Local(_)) | None => None,
        }
    }

    /// When the call must have ended: the ledger keeps the charge a little longer, and no longer.
    pub fn latest(&self) -> Instant {
        self.latest
    }

    /// Whether the charge may have ended before the call has left: the machine was suspended.
    pub(super) fn may_have_ended(&self) -> bool {
        matches!(&self.charge, Some(Charge::Shared(charge)) if charge.was_suspended())
    }

    /// The call is about to leave.
    pub fn leave(&mut self) {
        self.has_left = true;
    }

    /// The call is made as this app registration of the gateway's: see [`Quota::forget_refusals`].
    pub fn made_as(&mut self, registration: u64) {
        if let Some(Charge::Local(charge)) = &mut self.charge {
            charge.made_as(registration);
        }
    }

    /// The call was answered, and not with a 429.
    pub fn settle(mut self) {
        if let Some(charge) = self.charge.take() {
            either!(Charge, charge, charge => charge.settle());
        }
    }

    /// Provably no byte of the call was written.
    pub fn refund(mut self) {
        self.has_left = false;
    }

    /// The call was answered with a 429: everybody pauses. Returns for how long, as far as this
    /// process knows; `None` when it was made as an app registration that is not used any more, so
    /// that nobody pauses.
    pub fn throttled(mut self, answer: ThrottleHint) -> Option<Duration> {
        let charge = self.charge.take()?;
        match charge {
            Charge::Local(charge) => charge.throttled(answer),
            Charge::Shared(charge) => Some(charge.throttled(answer)),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        match self.charge.take() {
            Some(charge) if self.has_left => either!(Charge, charge, charge => charge.lose()),
            Some(charge) => either!(Charge, charge, charge => charge.refund()),
            None => {}
        }
    }
}

/// The state of either kind of quota, behind a lock that tells of its changes.
#[derive(Debug)]
pub(super) struct Watched<T> {
    state: Mutex<T>,
    /// Counts changes that make an earlier forecast wrong.
    version: AtomicU64,
    /// Counts the moments at which the state may have changed.
    revision: AtomicU64,
    /// A slot may be free earlier than last said.
    pub(super) changed: Notify,
}

impl<T> Watched<T> {
    pub(super) fn new(state: T) -> Self {
        Self {
            state: Mutex::new(state),
            version: AtomicU64::new(0),
            revision: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    /// The state, to change it.
    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        let state = self.look();
        self.revision.fetch_add(1, Ordering::Relaxed);
        state
    }

    /// The state, to look at it; also to let it do what is due.
    pub(super) fn look(&self) -> MutexGuard<'_, T> {
        // A panic inside leaves a state that is at worst too careful: a charge that ends by itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Earlier forecasts are wrong.
    pub(super) fn forecast_changed(&self) {
        self.version.fetch_add(1, Ordering::Relaxed);
    }

    /// Earlier forecasts are wrong, and slots may come earlier.
    pub(super) fn slots_changed(&self) {
        self.forecast_changed();
        self.changed.notify_one();
    }
}
