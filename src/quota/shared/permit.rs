//! The shared quota, and permits that cannot be forgotten.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::messages::SyncReply;
use super::protocol::Protocol;
use super::{Config, Metrics, sync_task};
use crate::BoxError;
use crate::attempt::{Demand, Scarcity, SharedOrder};
use crate::caller::{Name, Urgency};
use crate::quota::{self, Snapshot, ThrottleHint};
use crate::store::Eviction;
use crate::task::Tasks;

/// A replica's part in the shared quota. Clones are the same replica.
#[derive(Clone, Debug)]
pub struct Quota(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    name: String,
    attempt: Duration,
    state: Mutex<Protocol>,
    /// Counts changes that make an earlier forecast wrong.
    version: AtomicU64,
    /// Counts the moments at which the state may have changed.
    revision: AtomicU64,
    changed: Notify,
    /// The time of the next step may be earlier than the task knows.
    wake_steps: Notify,
    metrics: Metrics,
}

/// How long callers should stay away while the store is lost.
const COME_BACK: Duration = Duration::from_secs(2);

impl Quota {
    /// Joins the replicas that share the quota. No slot comes before the store has answered.
    pub fn join(config: &quota::Config, sharing: &Config, tasks: &Tasks, metrics: Metrics) -> Self {
        let name = random();
        let shared = Arc::new(Shared {
            state: Mutex::new(Protocol::new(name.clone(), config, sharing, Instant::now())),
            name,
            attempt: config.attempt,
            version: AtomicU64::new(0),
            revision: AtomicU64::new(0),
            changed: Notify::new(),
            wake_steps: Notify::new(),
            metrics,
        });
        sync_task::start(&shared, sharing, tasks);
        Self(shared)
    }

    /// Takes a slot that the store has granted; `None` when there is none in hand.
    pub fn take(&self, now: Instant) -> Option<Permit> {
        let slot = self.0.lock().take(now)?;
        self.0.version.fetch_add(1, Ordering::Relaxed);
        Some(Permit {
            shared: Arc::clone(&self.0),
            id: Some(slot.id),
            flow: slot.flow,
            left: false,
            issued: now,
            latest: now + self.0.attempt,
        })
    }

    /// Says what is wanted.
    pub fn demand(&self, demand: Demand<'_>) {
        let now = Instant::now();
        let mut state = self.0.lock();
        let before = state.next_look(now);
        state.demand(demand, now);
        if state.next_look(now) < before {
            self.0.wake_steps.notify_one();
        }
    }

    /// How many other replicas there are.
    pub fn other_replicas(&self) -> usize {
        self.0.look().copy.members.len().saturating_sub(1)
    }

    /// The order of all replicas, as the store said last.
    pub fn shared_order(&self) -> Arc<SharedOrder> {
        Arc::clone(&self.0.look().order)
    }

    /// When the store is lost, or has never answered: how long to stay away.
    pub fn unavailable_for(&self) -> Option<Duration> {
        self.0.look().is_lost().then_some(COME_BACK)
    }

    /// Appends when the next `count` slots of all replicas come.
    pub fn forecast(&self, now: Instant, count: usize, slots: &mut VecDeque<Instant>) {
        self.0.look().forecast(now, count, slots);
    }

    /// Changes whenever an earlier forecast may no longer hold.
    pub fn version(&self) -> u64 {
        self.0.version.load(Ordering::Relaxed)
    }

    /// Resolves when slots are in hand, or may come earlier than last said.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Whether calls that nobody waits for may be made now.
    pub fn has_surplus(&self) -> bool {
        let now = Instant::now();
        let state = self.0.look();
        state.is_granting() && state.quota_state(now).has_surplus(now)
    }

    /// How scarce slots are, as this replica knows it.
    pub fn scarcity(&self) -> Scarcity {
        let now = Instant::now();
        self.0.look().quota_state(now).scarcity(now)
    }

    /// Changes whenever a snapshot may have become another one, except by the passing of time.
    pub fn revision(&self) -> u64 {
        self.0.revision.load(Ordering::Relaxed)
    }

    /// The state for people, as this replica knows it.
    pub fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        let state = self.0.look();
        Snapshot {
            foreign: state.foreign,
            calls: state.calls,
            replicas: Some(state.copy.members.len().max(1)),
            eviction: state.eviction.clone(),
            ..state.quota_state(now).snapshot(now)
        }
    }

    /// Brings the gauges up to date; called when somebody scrapes.
    pub fn show(&self) {
        let snapshot = self.snapshot();
        self.0.metrics.quota.show(&snapshot);
        self.0.metrics.store.up.set(i64::from(self.unavailable_for().is_none()));
    }
}

impl Shared {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Resolves when a step has to be taken.
    pub(super) async fn is_time(&self) {
        loop {
            let now = Instant::now();
            let at = self.look().next_look(now);
            if at <= now {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(at) => return,
                () = self.wake_steps.notified() => {}
            }
        }
    }

    /// The store says that this replica's turn comes in so many microseconds, or that it has to
    /// look at once.
    pub(super) fn wake(&self, in_micros: Option<f64>) {
        self.lock().wake(in_micros, Instant::now());
        self.wake_steps.notify_one();
    }

    /// The store says that all replicas have to look, each at its own moment.
    pub(super) fn wake_all(&self) {
        self.lock().wake_all(Instant::now());
        self.wake_steps.notify_one();
    }

    /// How long the store may be busy with the other replicas when all ask at once.
    pub(super) fn steps_of_others(&self) -> Duration {
        self.look().steps_of_others()
    }

    pub(super) fn step(&self, now: Instant, leave: bool) -> serde_json::Result<String> {
        self.lock().step(random(), leave, now)
    }

    pub(super) fn on_reply(&self, reply: &SyncReply, asked: Instant) {
        let mut state = self.lock();
        let is_first = state.is_new();
        let change = state.on_reply(reply, asked, Instant::now());
        let is_back = state.outage.answered() || is_first;
        drop(state);
        self.metrics.store.steps.inc();
        if change.epoch {
            self.metrics.store.epochs.inc();
            tracing::warn!("the shared store had lost what it knew; bringing our copy of the ledger back");
        } else if is_back {
            tracing::info!("the shared store answers");
        }
        if change.foreign > 0 {
            tracing::warn!(
                foreign = change.foreign,
                "the upstream answered 429 while the ledger had room: others use the same app registration"
            );
        }
        if change.forecast {
            self.version.fetch_add(1, Ordering::Relaxed);
        }
        if change.slots {
            self.changed.notify_one();
        }
    }

    pub(super) fn on_error(&self, error: &BoxError) {
        self.metrics.store.failures.inc();
        let now = Instant::now();
        let mut state = self.lock();
        let (is_lost, is_news) = (state.on_error(now), state.outage.failed(now));
        drop(state);
        if is_news {
            tracing::warn!(
                error = error.as_ref() as &dyn std::error::Error,
                "the shared store is lost: no calls leave until it is back"
            );
        }
        if is_lost {
            self.version.fetch_add(1, Ordering::Relaxed);
            self.changed.notify_one();
        }
    }

    /// Takes in what the store does when its memory is full.
    pub(super) fn evicts(&self, eviction: Eviction) {
        let mut state = self.lock();
        let is_news = state.eviction.as_ref() != Some(&eviction);
        let eviction = state.eviction.insert(eviction).clone();
        drop(state);
        if is_news && eviction.takes_any_key() {
            tracing::warn!(
                maxmemory_policy = eviction.policy,
                "the shared store may evict the ledger of the quota when its memory is full: calls then stop until the replicas have \
                 brought it back; set maxmemory-policy to noeviction or volatile-lru"
            );
        }
    }

    /// The state, to change it.
    fn lock(&self) -> MutexGuard<'_, Protocol> {
        let state = self.look();
        self.revision.fetch_add(1, Ordering::Relaxed);
        state
    }

    /// The state, to look at it.
    fn look(&self) -> MutexGuard<'_, Protocol> {
        // A panic inside leaves at worst a charge that the store ends by itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to make one call, charged in the store when it was granted. Dropped before
/// [`Permit::leave`], the slot goes back; dropped after it, the charge stays until the call's
/// timeout, because the call may have arrived.
#[derive(Debug)]
pub struct Permit {
    shared: Arc<Shared>,
    /// `None` when the charge's end has been said.
    id: Option<String>,
    flow: Option<(Urgency, Name)>,
    left: bool,
    issued: Instant,
    latest: Instant,
}

impl Permit {
    /// For whom the slot is, as the store decided.
    pub fn granted_to(&self) -> Option<(Urgency, Name)> {
        self.flow.clone()
    }

    /// When the call must have ended: the store keeps the charge a little longer, and no longer.
    pub fn latest(&self) -> Instant {
        self.latest
    }

    /// The call is about to leave.
    pub fn leave(&mut self) {
        self.left = true;
    }

    /// The call was answered, and not with a 429.
    pub fn settle(mut self) {
        let took = self.issued.elapsed();
        self.end(|state, id, now| {
            state.copy.latency.observe(took.as_secs_f64());
            state.settle(id, now);
        });
    }

    /// Provably no byte of the call was written.
    pub fn refund(mut self) {
        self.end(Protocol::refund);
    }

    /// The call was answered with a 429: everybody pauses, as soon as the store knows. Returns for
    /// how long at least.
    pub fn throttled(mut self, answer: ThrottleHint) -> Duration {
        self.shared.metrics.quota.throttled();
        self.end(|state, id, now| state.throttle(id, answer, now));
        tracing::warn!("the upstream answered 429: all calls pause");
        answer
            .wait
            .unwrap_or(quota::foreign::FIRST_PROBE)
            .min(ThrottleHint::LONGEST_WAIT)
    }

    fn end(&mut self, say: impl FnOnce(&mut Protocol, String, Instant)) {
        let Some(id) = self.id.take() else { return };
        say(&mut self.shared.lock(), id, Instant::now());
        self.shared.wake_steps.notify_one();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.end(if self.left { Protocol::lose } else { Protocol::refund });
    }
}

/// A name that nobody else has.
fn random() -> String {
    format!("{:016x}", rand::random::<u64>())
}
