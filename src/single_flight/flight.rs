//! The state of one flight: where its call is, and which requests wait for it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::attempt::{Delivery, Failure, Refusal, RetryHint};
use crate::caller::{Caller, Name};
use crate::scan::{CacheSink, CallObserver, Request};
use crate::single_flight::Shared;
use crate::single_flight::batch_role::BatchRole;
use crate::single_flight::batcher::{BatchMember, Batcher};
use crate::single_flight::error::LeftBehind;
use crate::single_flight::waiter::{FlightResponse, FlightResult, Leader, ResultReceiver, Waiter, Waiters, tell};
use crate::telemetry::trace;

/// One upstream call and its waiters. One waiter is the leader: the queue handles the call under
/// the leader's name, deadline and place.
pub(super) struct Flight {
    pub(super) request: Arc<Request>,
    /// The batcher through which it may share calls; `None` when its request must be asked alone.
    pub(super) batcher: Option<Arc<Batcher>>,
    /// Where its answer goes, and the rows of other calls come from.
    pub(super) cache_sink: Arc<dyn CacheSink>,
    state: Mutex<State>,
    pub(super) cancelled: Notify,
}

pub(super) struct State {
    pub(super) stage: Stage,
    /// Whether the call has left, or leaves again soon, as far as others are told.
    is_under_way: bool,
    /// Who else hears where the call is, until it ends.
    observer: Option<Box<dyn CallObserver>>,
    pub(super) batch_role: BatchRole,
    /// It asks for its own request only, after a batch whose answer could not be split.
    pub(super) never_batches: bool,
    /// The flights for the same request that gave their places in the queue back when its call
    /// left, and wait for its answer.
    pub(super) equals: Vec<BatchMember>,
    pub(super) waiters: Waiters,
    /// The call's span in a trace, from when it leaves to its end.
    pub(super) trace: trace::Call,
    /// How many more calls may be made after failures that were not caused by the remaining
    /// waiters.
    restarts: u8,
    /// How many more waiters may become the leader after the queue rejected a leader, or a leader
    /// ran out of time.
    elections: u8,
    /// How many more batches it may join after one that did not answer it.
    pub(super) rejoins: u8,
    /// What of its answer came with other calls while it waited.
    pub(super) part: Part,
    /// When its call is predicted to leave, while it has a place in the queue.
    pub(super) start: Option<Instant>,
    /// The queue had no place for it, and it waits to be answered by another call.
    pub(super) lacks_place: bool,
    /// Until when its call stays back at least, although it may have a slot.
    pub(super) stays_back: Option<Instant>,
    /// The queue's last refusal, until it is known whether anybody is told.
    refusal: Option<Box<dyn Refusal>>,
    /// How many rows its request was found to have, as long as it is not known whether an answer of
    /// its own could hold as many.
    pub(super) rows: usize,
}

/// What of its answer a flight takes from the rows that other calls brought while it waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Nothing yet.
    Nothing,
    /// Some rows, or all: its call leaves out their ids.
    Some,
    /// Nothing any more: such rows could not be joined with others.
    Never,
}

/// The stage of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It waits for its slot: its answer will be younger than every request that joins now.
    Waiting,
    /// It left at this time.
    Departed(Instant),
    /// It accepts no more waiters: it has ended, or all its waiters were gone before it left.
    Over,
}

/// What becomes of a slot that a flight has been granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// The flight's first attempt leaves, in no batch yet: it may take members now.
    First,
    /// Another attempt leaves, or one of a flight that shares no calls any more.
    Repeated,
    /// The flight needs no call of its own: another flight's call has taken it along in this
    /// moment, or its last waiter has left.
    Cancelled,
}

impl State {
    pub(super) fn set_stage(&mut self, stage: Stage) {
        self.stage = stage;
        self.is_under_way = matches!(stage, Stage::Departed(_));
        self.tell_observer();
    }

    /// Departed → Waiting, for a slot that comes so soon that who waits for the answer elsewhere does
    /// not hear of it.
    pub(super) fn waits_briefly(&mut self) {
        self.stage = Stage::Waiting;
    }

    fn tell_observer(&mut self) {
        if self.stage == Stage::Over {
            self.observer = None;
        } else if let Some(observer) = &self.observer {
            observer.has_left(self.is_under_way);
        }
    }

    /// When the last waiter asked, if rows that have come since may be taken. They may be too old
    /// for those who wait for the answer in other flights.
    pub(super) fn rows_since(&self) -> Option<Instant> {
        let may_take = self.part == Part::Nothing && self.equals.is_empty();
        self.waiters.all_entered().filter(|_| may_take)
    }

    /// The next call asks for all ids again, or takes other rows.
    pub(super) fn forget_part(&mut self) {
        if self.part == Part::Some {
            self.part = Part::Nothing;
        }
    }
}

impl Flight {
    /// One more call for all remaining waiters after a failed one, instead of one for each.
    const RESTARTS: u8 = 1;
    /// The waiter with the latest deadline becomes the leader, so a second election needs a joiner
    /// with a still later deadline or another name. The limit bounds what other reasons could cost.
    const ELECTIONS: u8 = 4;
    /// Each batch that answers none of its members makes the next one smaller. Where that does not
    /// help, all of them ask alone.
    pub(super) const REJOINS: u8 = 4;

    /// A flight with its first waiter, which is its leader.
    pub(super) fn new(
        request: Arc<Request>,
        batcher: Option<Arc<Batcher>>,
        cache_sink: Arc<dyn CacheSink>,
        caller: &Arc<Caller>,
        now: Instant,
    ) -> (Self, u64, ResultReceiver) {
        let flight = Self {
            request,
            batcher,
            cache_sink,
            state: Mutex::new(State {
                stage: Stage::Waiting,
                is_under_way: false,
                observer: None,
                batch_role: BatchRole::Solo,
                never_batches: false,
                equals: Vec::new(),
                waiters: Waiters::new(caller),
                restarts: Self::RESTARTS,
                elections: Self::ELECTIONS,
                rejoins: Self::REJOINS,
                part: Part::Nothing,
                start: None,
                lacks_place: false,
                stays_back: None,
                refusal: None,
                rows: 0,
                trace: trace::Call::None,
            }),
            cancelled: Notify::new(),
        };
        let (id, receiver) = flight.state().waiters.add(caller, now);
        (flight, id, receiver)
    }

    /// Somebody else has to hear where the call is.
    pub(super) fn is_observed(&self, observer: Box<dyn CallObserver>) {
        let mut state = self.state();
        // Dropped last, so that a call that has left is not taken for one that waits in between.
        let _replaced = state.observer.replace(observer);
        state.tell_observer();
    }

    /// Removes a waiter. `true` when it was the last one and the call, which has not left yet, is
    /// given up.
    pub(super) fn leave(&self, id: u64) -> bool {
        let mut state = self.state();
        if !state.waiters.remove(id) || !state.waiters.is_empty() || state.stage != Stage::Waiting {
            return false;
        }
        // Waiting → Over: its place in the queue is free for others.
        state.set_stage(Stage::Over);
        self.cancelled.notify_one();
        true
    }

    /// Resolves when the flight has to leave the queue: no waiter is left, or it has become a
    /// member of a batch.
    pub(super) async fn cancelled(&self) {
        loop {
            {
                let state = self.state();
                if state.stage == Stage::Over || matches!(state.batch_role, BatchRole::Member(_)) {
                    return;
                }
            }
            self.cancelled.notified().await;
        }
    }

    pub(super) fn stage(&self) -> Stage {
        self.state().stage
    }

    pub(super) fn is_storable(&self) -> bool {
        self.state().waiters.storable
    }

    /// The leader. `None` when all waiters have gone.
    pub(super) fn leader(&self) -> Option<Leader> {
        let mut state = self.state();
        let leader = state.waiters.leader_or_elect();
        if leader.is_none() {
            // Waiting → Over: no request may join a flight that will not be made.
            state.set_stage(Stage::Over);
        }
        leader
    }

    /// Nobody is told of the queue's last refusal: the flight joins another call, or asks again.
    pub(super) fn withdraw_refusal(&self) {
        let refusal = self.state().refusal.take();
        if let Some(refusal) = refusal {
            refusal.withdraw();
        }
    }

    /// Hands the answer to all waiters.
    pub(super) fn complete(&self, response: FlightResponse) {
        let response = Arc::new(response);
        let waiters = {
            let mut state = self.state();
            // Departed → Over.
            state.set_stage(Stage::Over);
            state.waiters.take(|_, _| true)
        };
        tell(waiters, &Ok(response));
    }

    /// Hands a failure to the waiters that it concerns, or an answer that another attempt would
    /// have followed if the leader were not out of time; whom the queue would refuse in another name
    /// than the leader's, asks it itself. Returns the leader for whom the call is
    /// made again; `None` when all waiters have their result, or none is left.
    pub(super) fn fail(&self, result: &FlightResult, failed: &Leader, now: Instant) -> Option<Leader> {
        let mut state = self.state();
        let leader = state.waiters.leader;
        let departed = matches!(state.stage, Stage::Departed(_));
        let is_out_of_time = result.is_ok();
        let allowance = if departed && !is_out_of_time {
            &mut state.restarts
        } else {
            &mut state.elections
        };
        let exhausted = *allowance == 0;
        *allowance = allowance.saturating_sub(1);
        let failure = result.as_ref().err().and_then(Shared::find::<Failure>);
        let hopeless = departed && failure.is_some_and(|failure| failure.again == RetryHint::Never);
        let is_concerned = |id, waiter: &Waiter| {
            id == leader
                || exhausted
                || hopeless
                || waiter.caller.deadline <= now
                // There was no time for another attempt; or it was rejected before it left, because
                // of the leader's deadline or a limit on the leader's name: a waiter with the same
                // name and no later deadline would be rejected too.
                || waiter.caller.deadline <= failed.caller.deadline
                    && (is_out_of_time || !departed && waiter.caller.name == failed.caller.name)
        };
        // What the queue refuses, and when it says to come back, is about one name.
        let is_refusal = !departed && failure.is_some_and(|failure| failure.delivery == Delivery::NoSlot);
        let is_others = |id, waiter: &Waiter| is_refusal && id != leader && waiter.caller.name != failed.caller.name;
        let left = state
            .waiters
            .take(|id, waiter| is_concerned(id, waiter) && is_others(id, waiter));
        let told = state.waiters.take(is_concerned);
        let leader = state.waiters.elect_leader();
        state.set_stage(match leader {
            // Departed → Waiting: the next call leaves later, so requests with `no-cache` may join
            // again.
            Some(_) => Stage::Waiting,
            // Any → Over: all waiters have the failure or had left.
            None => Stage::Over,
        });
        // The next leader asks the queue anew.
        state.lacks_place = false;
        let refusal = state.refusal.take();
        drop(state);
        let is_told = told.values().any(|waiter| !waiter.caller.has_fallback);
        // Dropped here, it counts before anybody is told.
        if let Some(refusal) = refusal.filter(|_| !is_told) {
            refusal.withdraw();
        }
        tell(told, result);
        tell(left, &Err(Shared::new(LeftBehind.into())));
        leader
    }

    /// The names of all waiters that share the call: nobody when it gave its slot back, or another
    /// flight's call is made for it. `None` when all have hung up in this moment.
    pub(super) fn cost_sharers(&self) -> Option<Vec<Name>> {
        let (mut names, companions) = {
            let state = self.state();
            if state.stage == Stage::Over || matches!(state.batch_role, BatchRole::Member(_)) {
                return Some(Vec::new());
            }
            (state.waiters.names(), state.companions())
        };
        for companion in companions {
            names.extend(companion.state().waiters.names());
        }
        names.sort_unstable();
        names.dedup();
        (!names.is_empty()).then_some(names)
    }

    /// The queue's refusal, until it is known whether anybody is told.
    pub(super) fn refused(&self, refusal: Box<dyn Refusal>) {
        self.state().refusal = Some(refusal);
    }

    /// Drops all waiters that are left; they get `FlightDropped`.
    pub(super) fn close(&self) {
        self.release_equals();
        let waiters = {
            let mut state = self.state();
            // Any → Over.
            state.set_stage(Stage::Over);
            state.waiters.take(|_, _| true)
        };
        drop(waiters);
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock panics halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Flight")
            .field("key", self.request.key())
            .field("stage", &state.stage)
            .field("waiters", &state.waiters.len())
            .finish_non_exhaustive()
    }
}
