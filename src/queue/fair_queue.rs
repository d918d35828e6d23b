//! The shared queue: waiting for a turn, and the clock that hands slots out.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::config::Config;
use super::metrics::Metrics;
use super::refused::{Reason, Refused};
use super::snapshot::Snapshot;
use super::state::{Entered, Grant, State, TOLERANCE};
use crate::attempt::{Attempt, FlowOrder, SharedOrder};
use crate::caller::{Name, Urgency};
use crate::task::Tasks;

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

    /// How many others, who are not in this queue, may want slots too.
    fn other_replicas(&self) -> usize {
        0
    }

    /// When nobody can tell whether there are slots: how long callers should stay away.
    fn unavailable_for(&self) -> Option<Duration> {
        None
    }

    /// When a slot may come free by itself, besides what [`PermitSource::take`] said.
    fn next_timeout(&self) -> Option<Instant>;
}

/// A fair, bounded queue in front of `S`. Clones share it.
#[derive(Debug)]
pub struct Queue<S: PermitSource>(Arc<Shared<S>>);

impl<S: PermitSource> Clone for Queue<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Shared<S: PermitSource> {
    state: Mutex<State<S::Permit>>,
    source: S,
    /// Tells the clock task that a slot is wanted earlier than it knows.
    wake: Notify,
    /// What this queue has added to the gauge that it may share with others. Changed under the
    /// state's lock only.
    shown: AtomicI64,
    /// Requests that this queue refused for want of slots; `metrics` may be shared with others.
    refused_for_slots: AtomicU64,
    metrics: Metrics,
}

impl<S: PermitSource> Queue<S> {
    /// An empty queue, with the task that hands slots out when they come.
    pub fn start(config: Config, source: S, tasks: &Tasks, metrics: Metrics) -> Self {
        let queue = Self::new(config, source, metrics);
        tasks.spawn_upkeep("queue clock", queue.clone().run_clock());
        queue
    }

    /// An empty queue that hands slots out only while somebody runs [`Queue::run_clock`]: for one
    /// that may end before the program does.
    pub fn new(config: Config, source: S, metrics: Metrics) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State::new(config)),
            source,
            wake: Notify::new(),
            shown: AtomicI64::new(0),
            refused_for_slots: AtomicU64::new(0),
            metrics,
        }))
    }

    /// Waits for a slot, at most until the caller's deadline.
    ///
    /// # Errors
    /// [`Refused`] at once when the turn cannot come in time; later when a request with a better
    /// right to the slot came meanwhile, or the upstream ordered a pause.
    ///
    /// # Cancel safety
    /// Safe: a caller that leaves gives its place up at once, and a slot just handed to it passes
    /// on.
    pub async fn turn(&self, attempt: &Attempt) -> Result<S::Permit, Refused> {
        self.enter(attempt)?.turn().await
    }

    /// Takes a place without waiting yet. A slot that is free now is taken by this very call.
    ///
    /// # Errors
    /// [`Refused`] when the turn cannot come in time.
    pub fn enter(&self, attempt: &Attempt) -> Result<QueueEntry<S>, Refused> {
        let now = Instant::now();
        self.take_ticket(now, attempt)
            .map_err(|refused| self.0.honest(refused))
            .inspect_err(|refused| self.0.count(refused.reason))
    }

    /// Goes on with other bounds and weights. Who waits stays, even above a new bound.
    pub fn reconfigure(&self, config: Config) {
        self.0.lock().reconfigure(config);
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.0.lock().order.len()
    }

    /// How many requests were refused because there were not enough slots.
    pub fn refused_for_slots(&self) -> u64 {
        self.0.refused_for_slots.load(Ordering::Relaxed)
    }

    /// How long a caller who is new here would wait for its slot.
    pub fn predicted_wait(&self) -> Duration {
        self.0.lock().predicted_wait(Instant::now(), &self.0.source)
    }

    /// The gateway stops at `closes`: whoever would be served later is refused now, and so is who
    /// comes from now on.
    pub fn close(&self, closes: Instant) {
        self.0.lock().close(Instant::now(), closes, &self.0.source);
    }

    /// Spreads the cost of the slot that `attempt` was granted over all who benefit from its call;
    /// if nobody does, nobody pays.
    pub fn split_cost(&self, attempt: &Attempt) {
        if let Some(cost_sharers) = attempt.request.cost_sharers().filter(|names| names.len() != 1) {
            self.0.lock().split_cost(
                attempt.caller.urgency,
                &attempt.caller.name,
                &cost_sharers,
                Instant::now(),
            );
        }
    }

    /// The call that `attempt` was granted a slot for has been answered: its caller may ask again.
    pub fn answered(&self, attempt: &Attempt) {
        let (name, urgency) = (&attempt.caller.name, attempt.caller.urgency);
        self.0.lock().answered(name, urgency, Instant::now());
    }

    /// The state for people.
    pub fn snapshot(&self) -> Snapshot {
        self.0.lock().snapshot(Instant::now(), &self.0.source)
    }

    /// Brings the gauges up to date; called when somebody scrapes.
    pub fn show(&self) {
        self.0.metrics.show(&self.snapshot());
    }

    fn take_ticket(&self, now: Instant, attempt: &Attempt) -> Result<QueueEntry<S>, Refused> {
        let mut state = self.0.lock();
        let waiting = |start, place| QueueEntry {
            place,
            queue: self.clone(),
            entered: now,
            deadline: attempt.caller.deadline,
            start,
        };
        if let Some(permit) = state.try_fast_path(now, &attempt.caller, &self.0.source) {
            self.0.tell(&state);
            return Ok(waiting(now, EntryState::Granted(permit)));
        }
        let Entered { id, start, turn } = state.enter(now, attempt, &self.0.source)?;
        let next = state.hand_out(now, &self.0.source);
        self.0.tell(&state);
        if !state.order.is_empty() && next != state.armed {
            state.armed = next;
            self.0.wake.notify_one();
        }
        drop(state);
        let ticket = TicketGuard {
            queue: self.clone(),
            id,
        };
        Ok(waiting(start, EntryState::Waiting(turn, ticket)))
    }

    /// Hands slots out when they come, for as long as it is polled. Once for each queue.
    ///
    /// # Cancel safety
    /// Safe; until it is run again, slots come only to those who find one free.
    pub async fn run_clock(self) {
        loop {
            let next = {
                let mut state = self.0.lock();
                let next = state.hand_out(Instant::now(), &self.0.source);
                state.armed = next;
                self.0.tell(&state);
                next
            };
            let timer = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = timer => {}
                () = self.0.source.changed() => {}
                () = self.0.wake.notified() => {}
            }
        }
    }
}

impl<S: PermitSource> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, State<S::Permit>> {
        // A panic inside may lose a ticket; its caller then waits until its deadline, and no
        // longer.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how many wait. With the state locked, so that what is told last is right.
    fn tell(&self, state: &State<S::Permit>) {
        let waiting = state.order.len();
        let shown = i64::try_from(waiting).unwrap_or(i64::MAX);
        let before = self.shown.swap(shown, Ordering::Relaxed);
        self.metrics.waiting.inc_by(shown - before);
        self.source.demand(&state.order);
    }

    fn count(&self, refusal: Reason) {
        self.metrics.refused(refusal);
        if refusal.is_for_slots() {
            self.refused_for_slots.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits to be told.
    async fn turn(&self, mut told: oneshot::Receiver<Grant<S::Permit>>, id: u64, latest: Instant) -> Grant<S::Permit> {
        // Only a panic in the queue loses a ticket.
        let lost = || Err(Refused::new(Reason::Late, Duration::ZERO));
        tokio::select! {
            biased;
            turn = &mut told => turn.unwrap_or_else(|_| lost()),
            () = tokio::time::sleep_until(latest) => {
                self.lock().lapse(id, Instant::now());
                told.await.unwrap_or_else(|_| lost())
            }
        }
    }

    /// A refusal for want of slots, when it is not known whether there are any.
    fn honest(&self, refused: Refused) -> Refused {
        let is_for_time = refused.reason.is_for_time();
        match self.source.unavailable_for().filter(|_| is_for_time) {
            Some(retry_after) => Refused::new(Reason::StoreLost, retry_after),
            None => refused,
        }
    }
}

/// A place in the queue; dropped, it is given up at once, and a slot just handed to it passes on.
#[derive(Debug)]
pub struct QueueEntry<S: PermitSource> {
    place: EntryState<S>,
    queue: Queue<S>,
    entered: Instant,
    deadline: Instant,
    start: Instant,
}

#[derive(Debug)]
enum EntryState<S: PermitSource> {
    /// A slot was free, and nobody waited.
    Granted(S::Permit),
    /// Its turn will be told.
    Waiting(oneshot::Receiver<Grant<S::Permit>>, TicketGuard<S>),
}

impl<S: PermitSource> QueueEntry<S> {
    /// When the slot comes, if nobody comes or leaves before: as predicted when the place was
    /// taken.
    pub fn predicted_start(&self) -> Instant {
        self.start
    }

    /// Waits for the slot, at most until a second after the caller's deadline.
    ///
    /// # Errors
    /// [`Refused`] when a request came whose class or share gives it a better right to the slot, or
    /// when slots came later than predicted: the upstream ordered a pause, or was much slower than
    /// before.
    ///
    /// # Cancel safety
    /// Safe, see [`Queue::turn`].
    pub async fn turn(self) -> Result<S::Permit, Refused> {
        let shared = &self.queue.0;
        let latest = self.deadline.max(self.entered) + TOLERANCE;
        let at_once = matches!(self.place, EntryState::Granted(_));
        let turn = match self.place {
            EntryState::Granted(permit) => Ok(permit),
            EntryState::Waiting(turn, ticket) => shared
                .turn(turn, ticket.id, latest)
                .await
                .map_err(|refused| shared.honest(refused)),
        };
        match &turn {
            Ok(_) if at_once => shared.metrics.waited(Duration::ZERO),
            Ok(_) => shared.metrics.waited(self.entered.elapsed()),
            Err(refused) => shared.count(refused.reason),
        }
        turn
    }
}

/// A ticket in the queue; leaves it on drop.
#[derive(Debug)]
struct TicketGuard<S: PermitSource> {
    queue: Queue<S>,
    id: u64,
}

impl<S: PermitSource> Drop for TicketGuard<S> {
    fn drop(&mut self) {
        let mut state = self.queue.0.lock();
        state.leave(self.id, Instant::now());
        self.queue.0.tell(&state);
    }
}
