//! A replica's part in the shared quota.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::messages::SyncReply;
use super::protocol::{Protocol, Slot};
use super::{Config, Metrics, sync_task};
use crate::BoxError;
use crate::attempt::FlowOrder;
use crate::caller::{Name, Urgency};
use crate::quota::handle::{Charge, Permit, Watched};
use crate::quota::{self, ThrottleHint};
use crate::store::Eviction;
use crate::task::Tasks;

/// A replica's part in the shared quota.
#[derive(Debug)]
pub(in crate::quota) struct Replica {
    name: String,
    attempt: Duration,
    pub(in crate::quota) state: Watched<Protocol>,
    /// The time of the next step may be earlier than the task knows.
    wake_steps: Notify,
    pub(in crate::quota) metrics: Metrics,
}

impl Replica {
    /// Joins the replicas that share the quota. No slot comes before the store has answered.
    pub(in crate::quota) fn join(
        config: &quota::Config,
        sharing: &Config,
        tasks: &Tasks,
        metrics: Metrics,
    ) -> Arc<Self> {
        let name = random();
        let replica = Arc::new(Self {
            state: Watched::new(Protocol::new(name.clone(), config, sharing, Instant::now())),
            name,
            attempt: config.attempt,
            wake_steps: Notify::new(),
            metrics,
        });
        sync_task::start(&replica, sharing, tasks);
        replica
    }

    /// Takes a slot that the store has granted; `None` when there is none in hand.
    pub(in crate::quota) fn take(this: &Arc<Self>, now: Instant) -> Option<Permit> {
        let slot = this.state.lock().take(now)?;
        this.state.forecast_changed();
        let charge = SharedCharge {
            replica: Arc::clone(this),
            slot,
            issued: now,
        };
        Some(Permit::new(Charge::Shared(charge), now + this.attempt))
    }

    /// Says what is wanted.
    pub(in crate::quota) fn demand(&self, flows: &dyn FlowOrder) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let before = state.next_look(now);
        state.demand(flows, now);
        if state.next_look(now) < before {
            self.wake_steps.notify_one();
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Resolves when a step has to be taken.
    pub(super) async fn is_time(&self) {
        loop {
            let now = Instant::now();
            let at = self.state.look().next_look(now);
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
        self.state.lock().wake(in_micros, Instant::now());
        self.wake_steps.notify_one();
    }

    /// The store says that all replicas have to look, each at its own moment.
    pub(super) fn wake_all(&self) {
        self.state.lock().wake_all(Instant::now());
        self.wake_steps.notify_one();
    }

    /// How long the store may be busy with the other replicas when all ask at once.
    pub(super) fn steps_of_others(&self) -> Duration {
        self.state.look().steps_of_others()
    }

    pub(super) fn step(&self, now: Instant, leave: bool) -> serde_json::Result<String> {
        self.state.lock().step(random(), leave, now)
    }

    pub(super) fn on_reply(&self, reply: &SyncReply, asked: Instant) {
        let mut state = self.state.lock();
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
            self.state.forecast_changed();
        }
        if change.slots {
            self.state.changed.notify_one();
        }
    }

    pub(super) fn on_error(&self, error: &BoxError) {
        self.metrics.store.failures.inc();
        let now = Instant::now();
        let mut state = self.state.lock();
        let (is_lost, is_news) = (state.on_error(now), state.outage.failed(now));
        drop(state);
        if is_news {
            tracing::warn!(
                error = error.as_ref() as &dyn std::error::Error,
                "the shared store is lost: no calls leave until it is back"
            );
        }
        if is_lost {
            self.state.slots_changed();
        }
    }

    /// Takes in what the store does when its memory is full.
    pub(super) fn evicts(&self, eviction: Eviction) {
        let mut state = self.state.lock();
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
}

/// A charge in the store, made when the slot was granted.
#[derive(Debug)]
pub(in crate::quota) struct SharedCharge {
    replica: Arc<Replica>,
    slot: Slot,
    issued: Instant,
}

impl SharedCharge {
    /// For whom the slot is, as the store decided.
    pub(in crate::quota) fn granted_to(&self) -> Option<(Urgency, Name)> {
        self.slot.flow.clone()
    }

    pub(in crate::quota) fn settle(self) {
        let took = self.issued.elapsed();
        self.end(|state, id, now| {
            state.copy.latency.observe(took.as_secs_f64());
            state.settle(id, now);
        });
    }

    pub(in crate::quota) fn refund(self) {
        self.end(Protocol::refund);
    }

    pub(in crate::quota) fn lose(self) {
        self.end(Protocol::lose);
    }

    /// Everybody pauses as soon as the store knows. Returns for how long at least.
    pub(in crate::quota) fn throttled(self, answer: ThrottleHint) -> Duration {
        self.replica.metrics.quota.throttled();
        self.end(|state, id, now| state.throttle(id, answer, now));
        tracing::warn!("the upstream answered 429: all calls pause");
        answer
            .wait
            .unwrap_or(quota::foreign::FIRST_PROBE)
            .min(ThrottleHint::LONGEST_WAIT)
    }

    fn end(self, say: impl FnOnce(&mut Protocol, String, Instant)) {
        say(&mut self.replica.state.lock(), self.slot.id, Instant::now());
        self.replica.wake_steps.notify_one();
    }
}

/// A name that nobody else has.
fn random() -> String {
    format!("{:016x}", rand::random::<u64>())
}
