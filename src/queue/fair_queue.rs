//! The shared queue: waiting for a turn, and the clock that hands slots out.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::refused::{Reason, Refused};
use super::snapshot::{Metrics, Snapshot};
use super::state::{Entered, Grant, State, TOLERANCE};
use super::{Config, PermitSource};
use crate::attempt::Attempt;
use crate::caller::{Caller, Name};
use crate::task::Tasks;

/// Callers of which nothing is expected any more are forgotten this much later at the latest.
const FORGET_AFTER: Duration = Duration::from_mins(1);

/// A fair, bounded queue in front of `S`. Clones share it.
#[derive(Debug)]
pub struct Queue<S: PermitSource>(pub(super) Arc<Shared<S>>);

impl<S: PermitSource> Clone for Queue<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
pub(super) struct Shared<S: PermitSource> {
    state: Mutex<State<S::Permit>>,
    pub(super) source: S,
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
        let queue = Self::new(config, source, metrics, 0);
        tasks.spawn_upkeep("queue clock", queue.clone().run_clock());
        queue
    }

    /// An empty queue that hands slots out only while somebody runs [`Queue::run_clock`]: for one
    /// that may end before the program does, or of which there are several. This one and so many
    /// `others` remember as many callers together as one alone.
    pub fn new(config: Config, source: S, metrics: Metrics, others: usize) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State::new(config, others)),
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

    /// How long a request of this caller that comes now would wait for its slot.
    pub fn predicted_turn(&self, caller: &Caller) -> Duration {
        self.0.lock().predicted_turn(caller, Instant::now(), &self.0.source)
    }

    /// The gateway stops at `closes`: whoever would be served later is refused now, and so is who
    /// comes from now on. Who still waits then, as without a store, is told at that moment.
    pub fn close(&self, closes: Instant) {
        self.0.lock().close(Instant::now(), closes, &self.0.source);
        self.0.wake.notify_one();
    }

    /// Whether the caller has paid for this slot in the order of this queue. Where a store has
    /// decided that it is this caller's turn, it is counted there.
    pub(super) fn is_paid_here(&self, permit: &S::Permit, caller: &Caller) -> bool {
        let granted_to = self.0.source.granted_to(permit);
        granted_to.is_none_or(|(urgency, name)| urgency != caller.urgency || name != caller.name)
    }

    /// Spreads the cost of the slot that this caller has paid for over all who benefit from its
    /// call; if nobody does, nobody pays.
    pub(super) fn split_cost(&self, caller: &Caller, cost_sharers: &[Name]) {
        let now = Instant::now();
        self.0
            .lock()
            .split_cost(caller.urgency, &caller.name, cost_sharers, now);
    }

    /// The call that `attempt` was granted a slot for has been answered: its caller may ask again.
    pub fn answered(&self, attempt: &Attempt) {
        let (name, urgency) = (&attempt.caller.name, attempt.caller.urgency);
        let state = &mut *self.0.lock();
        state
            .expectations
            .answered(name, urgency, Instant::now(), &mut state.order);
    }

    /// The state for people.
    pub fn snapshot(&self) -> Snapshot {
        self.0.lock().snapshot(Instant::now(), &self.0.source)
    }

    fn take_ticket(&self, now: Instant, attempt: &Attempt) -> Result<QueueEntry<S>, Refused> {
        let mut state = self.0.lock();
        let waiting = |deadline, start, place| QueueEntry {
            place,
            queue: self.clone(),
            entered: now,
            deadline,
            start,
            has_fallback: attempt.caller.has_fallback,
        };
        if let Some(permit) = state.try_fast_path(now, attempt, &self.0.source) {
            self.0.tell(&state);
            return Ok(waiting(now, now, EntryState::Granted(permit)));
        }
        let Entered {
            id,
            deadline,
            start,
            turn,
        } = match state.enter(now, attempt, &self.0.source) {
            Ok(entered) => entered,
            Err(refused) => {
                // It is expected back.
                self.0.tell(&state);
                return Err(refused);
            }
        };
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
            caller: Arc::clone(&attempt.caller),
            told: turn,
        };
        Ok(waiting(deadline, start, EntryState::Waiting(ticket)))
    }

    /// Hands slots out when they come, and forgets callers of which nothing is expected any more,
    /// for as long as it is polled. Once for each queue.
    ///
    /// # Cancel safety
    /// Safe; until it is run again, slots come only to those who find one free.
    pub async fn run_clock(self) {
        loop {
            let now = Instant::now();
            let next = {
                let state = &mut *self.0.lock();
                state.adopt(now, &self.0.source);
                state.expectations.expire(now, &mut state.order);
                let next = state.hand_out(now, &self.0.source);
                state.armed = next;
                self.0.tell(state);
                next
            };
            let latest = now + FORGET_AFTER;
            tokio::select! {
                () = tokio::time::sleep_until(next.map_or(latest, |next| next.min(latest))) => {}
                () = self.0.source.changed() => {}
                () = self.0.wake.notified() => {}
            }
        }
    }
}

impl<S: PermitSource> Shared<S> {
    pub(super) fn lock(&self) -> MutexGuard<'_, State<S::Permit>> {
        // A panic inside may lose a ticket; its caller then waits until its deadline, and no
        // longer.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how many wait. With the state locked, so that what is told last is right.
    pub(super) fn tell(&self, state: &State<S::Permit>) {
        let waiting = state.order.len();
        let shown = i64::try_from(waiting).unwrap_or(i64::MAX);
        let before = self.shown.swap(shown, Ordering::Relaxed);
        self.metrics.waiting.inc_by(shown - before);
        self.source.demand(&state.order);
    }

    /// Counts a refusal, unless only a slot is missing: then it is counted when its caller is told.
    fn count(&self, refusal: Reason) {
        if !refusal.is_for_time() {
            self.count_told(refusal);
        }
    }

    pub(super) fn count_told(&self, refusal: Reason) {
        self.metrics.refused(refusal);
        if refusal.is_for_slots() {
            self.refused_for_slots.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits to be told.
    async fn turn(&self, told: &mut oneshot::Receiver<Grant<S::Permit>>, id: u64, latest: Instant) -> Grant<S::Permit> {
        // Only a panic in the queue loses a ticket.
        let lost = || Err(Refused::new(Reason::Late, Duration::ZERO));
        tokio::select! {
            biased;
            turn = &mut *told => turn.unwrap_or_else(|_| lost()),
            () = tokio::time::sleep_until(latest) => {
                self.lock().lapse(id, Instant::now());
                (&mut *told).await.unwrap_or_else(|_| lost())
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
    has_fallback: bool,
}

/// How long a request waits for a store that is lost, if something stands in for its answer: a
/// short cut passes unnoticed.
const FALLBACK_PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
enum EntryState<S: PermitSource> {
    /// A slot was free, and nobody waited.
    Granted(S::Permit),
    /// Its turn will be told.
    Waiting(TicketGuard<S>),
}

impl<S: PermitSource> QueueEntry<S> {
    /// When the slot comes, if nobody comes or leaves before: as predicted when the place was
    /// taken.
    pub fn predicted_start(&self) -> Instant {
        self.start
    }

    /// Waits for the slot, at most until a second after the ticket's deadline.
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
        let mut latest = self.deadline + TOLERANCE;
        if self.has_fallback && shared.source.unavailable_for().is_some() {
            // Nobody knows when there will be slots, and an answer is at hand.
            latest = latest.min(self.entered + FALLBACK_PATIENCE);
        }
        let at_once = matches!(self.place, EntryState::Granted(_));
        let turn = match self.place {
            EntryState::Granted(permit) => Ok(permit),
            EntryState::Waiting(mut ticket) => shared
                .turn(&mut ticket.told, ticket.id, latest)
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
    caller: Arc<Caller>,
    /// Where its turn is told, under the state's lock.
    told: oneshot::Receiver<Grant<S::Permit>>,
}

impl<S: PermitSource> Drop for TicketGuard<S> {
    fn drop(&mut self) {
        let (now, shared) = (Instant::now(), &self.queue.0);
        let mut state = shared.lock();
        state.leave(self.id, now);
        // Granted, and not looked at: the slot goes back, so it costs nobody.
        let unseen = self.told.try_recv().ok().and_then(Result::ok);
        if let Some(permit) = &unseen
            && self.queue.is_paid_here(permit, &self.caller)
        {
            state.split_cost(self.caller.urgency, &self.caller.name, &[], now);
        }
        shared.tell(&state);
        // Outside of the lock: the slot is told to be free.
        drop(state);
        drop(unseen);
    }
}
