//! A replica's part in the shared quota: its state, the task that takes its steps, and its charges.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::messages::{self, SyncReply};
use super::protocol::{Protocol, Slot};
use super::{Config, FORMAT, KEYS, Metrics, member_name, random};
use crate::BoxError;
use crate::attempt::FlowOrder;
use crate::caller::{Name, Urgency};
use crate::clock;
use crate::quota::handle::{Charge, Permit, Watched};
use crate::quota::{self, ThrottleHint};
use crate::store::{self, Event, Eviction, Script};
use crate::task::Tasks;

/// A replica's part in the shared quota.
#[derive(Debug)]
pub(in crate::quota) struct Replica {
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
        let name = member_name::new(config);
        let channels = sharing.channels(&name);
        let replica = Arc::new(Self {
            state: Watched::new(Protocol::new(name, config, sharing, Instant::now())),
            attempt: config.attempt,
            wake_steps: Notify::new(),
            metrics,
        });
        tasks.spawn_upkeep(
            "store wakes",
            listen(Arc::clone(&replica), sharing.store.clone(), channels),
        );
        let sync_task = SyncTask {
            replica: Arc::clone(&replica),
            store: sharing.store.clone(),
            script: Script::new(messages::SCRIPT),
            keys: sharing.keys(),
            has_asked: false,
        };
        let stopping = tasks.clone();
        tasks.spawn_upkeep_to_end("store steps", async move { sync_task.run(&stopping).await });
        replica
    }

    /// A replica whose steps a test takes.
    #[cfg(test)]
    pub(super) fn without_task(state: Protocol, attempt: Duration) -> Arc<Self> {
        Arc::new(Self {
            state: Watched::new(state),
            attempt,
            wake_steps: Notify::new(),
            metrics: Metrics::default(),
        })
    }

    /// Takes a slot that the store has granted; `None` when there is none in hand.
    pub(in crate::quota) fn take(this: &Arc<Self>, now: Instant) -> Option<Permit> {
        let suspended = clock::suspended();
        let slot = this.state.lock().take(now)?;
        this.state.forecast_changed();
        let charge = SharedCharge {
            replica: Arc::clone(this),
            slot,
            issued: now,
            suspended,
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

    /// Resolves when a step has to be taken.
    async fn is_time(&self) {
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
    fn wake(&self, in_micros: Option<f64>) {
        self.state.lock().wake(in_micros, Instant::now());
        self.wake_steps.notify_one();
    }

    /// The store says that all replicas have to look, each at its own moment.
    fn wake_all(&self) {
        self.state.lock().wake_all(Instant::now());
        self.wake_steps.notify_one();
    }

    fn on_reply(&self, reply: &SyncReply, asked: Instant) {
        let mut state = self.state.lock();
        let is_first = state.is_new();
        let change = state.on_reply(reply, asked, Instant::now());
        let is_back = state.outage.answered() || is_first;
        state.failure = None;
        drop(state);
        self.metrics.store.steps.inc();
        if change.epoch {
            self.metrics.store.epochs.inc();
            tracing::warn!(
                "the shared store had lost what it knew, or its clock has jumped; bringing our copy of the ledger back"
            );
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

    fn on_error(&self, error: &BoxError) {
        self.metrics.store.failures.inc();
        let now = Instant::now();
        let mut state = self.state.lock();
        let (is_lost, is_news) = (state.on_error(now), state.outage.failed(now));
        // That it failed a moment ago is no reason: the one that is known is.
        if !matches!(error.downcast_ref(), Some(store::Error::Resting)) {
            state.failure = Some(store::reason(error.as_ref()));
        }
        let reason = state.failure.clone();
        drop(state);
        if is_news {
            let reason = reason.unwrap_or_else(|| store::reason(error.as_ref()));
            tracing::warn!(
                error = reason,
                "the shared store is lost: no calls leave until it is back"
            );
        }
        if is_lost {
            self.state.slots_changed();
        }
    }

    /// Takes in what the store does when its memory is full.
    fn evicts(&self, eviction: Eviction) {
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

/// A rolling upgrade to or from a version that stores something else.
#[derive(Debug, thiserror::Error)]
#[error(
    "gateways of another version share this quota in the format {0}, ours is {FORMAT}: no call leaves until the calls of one side are out \
     of every window"
)]
struct OtherFormat(String);

struct SyncTask {
    replica: Arc<Replica>,
    store: store::Client,
    script: Script,
    keys: [String; KEYS],
    /// Whether this store was asked what it evicts.
    has_asked: bool,
}

impl SyncTask {
    async fn run(mut self, tasks: &Tasks) {
        loop {
            // Not interrupted: the answer to a step that was asked for is awaited.
            let has_answered = self.take_step(false).await;
            if has_answered && !self.has_asked {
                self.ask_eviction().await;
            }
            tokio::select! {
                () = self.replica.is_time() => {}
                () = tasks.stopping() => break,
            }
        }
        // What became of the last calls, and that nobody has to wait for us.
        self.take_step(true).await;
    }

    /// Says whether the store answered.
    async fn take_step(&mut self, leave: bool) -> bool {
        let asked = Instant::now();
        let answer = self.try_step(asked, leave).await;
        match &answer {
            Ok(reply) => self.replica.on_reply(reply, asked),
            Err(error) => self.replica.on_error(error),
        }
        self.has_asked &= answer.is_ok();
        answer.is_ok()
    }

    /// Asked once after the start and after each outage, since another server may answer then.
    async fn ask_eviction(&mut self) {
        let [state, ..] = &self.keys;
        match Eviction::ask(&self.store, state).await {
            Ok(eviction) => self.replica.evicts(eviction),
            // It may be forbidden to us, and nothing depends on it.
            Err(error) => tracing::debug!(
                error = &error as &dyn std::error::Error,
                "cannot ask what the store evicts"
            ),
        }
        self.has_asked = true;
    }

    async fn try_step(&mut self, asked: Instant, leave: bool) -> Result<SyncReply, BoxError> {
        let step = self.replica.state.lock().step(random(), leave, asked)?;
        let others = self.replica.state.look().steps_of_others();
        let text = self.store.step_among(&self.script, &self.keys, &step, others).await?;
        let reply: SyncReply = serde_json::from_str(&text)?;
        match reply.other {
            Some(other) => Err(OtherFormat(other).into()),
            None => Ok(reply),
        }
    }
}

/// Wakes the steps when the store says that this replica's turn is earlier than it was told.
async fn listen(replica: Arc<Replica>, store: store::Client, [own, all]: [String; 2]) {
    let to_wake = Arc::clone(&replica);
    let on_event = move |event: Event<'_>| {
        match event {
            Event::Message(message) => {
                to_wake.wake(std::str::from_utf8(message).ok().and_then(|text| text.parse().ok()));
            }
            // Something may have been said meanwhile, and another server may know less than the one
            // before. Others have missed it as well.
            Event::Missed => to_wake.wake_all(),
        }
        true
    };
    store.subscribe(own, on_event).await;
    let on_any = move |_: Event<'_>| {
        replica.wake_all();
        true
    };
    store.subscribe(all, on_any).await;
}

/// A charge in the store, made when the slot was granted.
#[derive(Debug)]
pub(in crate::quota) struct SharedCharge {
    replica: Arc<Replica>,
    slot: Slot,
    issued: Instant,
    /// How long the machine had been suspended then.
    suspended: Duration,
}

impl SharedCharge {
    /// For whom the slot is, as the store decided.
    pub(in crate::quota) fn granted_to(&self) -> Option<(Urgency, Name)> {
        self.slot.flow.clone()
    }

    /// Whether the machine was suspended since: the store may have ended the charge meanwhile.
    pub(in crate::quota) fn was_suspended(&self) -> bool {
        clock::suspended() > self.suspended
    }

    pub(in crate::quota) fn settle(self) {
        let took = self.issued.elapsed();
        self.end(|state, id, now| {
            state.copy.latency.observe(took.as_secs_f64());
            state.settle(id, now);
        });
    }

    pub(in crate::quota) fn refund(self) {
        let flow = self.slot.flow.clone();
        self.end(|state, id, now| state.refund(Slot { id, flow }, now));
    }

    pub(in crate::quota) fn lose(self) {
        let was_suspended = self.was_suspended();
        self.end(|state, id, now| {
            if was_suspended {
                // It may have arrived just now.
                state.settle(id.clone(), now);
            }
            state.lose(id, now);
        });
    }

    /// Everybody pauses as soon as the store knows. Returns for how long at least.
    pub(in crate::quota) fn throttled(self, answer: ThrottleHint) -> Duration {
        self.replica.metrics.quota.throttled();
        self.end(|state, id, now| state.throttle(id, answer, now));
        tracing::warn!("the upstream answered 429: all calls pause");
        let wait = answer.wait.unwrap_or(quota::foreign::FIRST_PROBE);
        wait.min(ThrottleHint::LONGEST_WAIT)
    }

    fn end(self, say: impl FnOnce(&mut Protocol, String, Instant)) {
        say(&mut self.replica.state.lock(), self.slot.id, Instant::now());
        self.replica.wake_steps.notify_one();
    }
}
