//! Whether a flight is as good for a waiter as one of its own would be: when it comes, when the
//! call gets a place in the queue, and when the waiter's time is over.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::attempt::Attempt;
use crate::caller::Caller;
use crate::single_flight::batch_role::BatchRole;
use crate::single_flight::error::LeftBehind;
use crate::single_flight::flight::{Flight, Part, Stage, State};
use crate::single_flight::waiter::{ResultReceiver, Waiter, tell};
use crate::single_flight::{PredictedWait, Shared};

/// A slot may come so much later than it was predicted. The queue allows as much.
const UNPUNCTUAL: Duration = Duration::from_secs(1);

/// A flight that has just begun asks for its slot within this time.
const MOMENT: Duration = Duration::from_millis(10);

/// So many slots are clearly before another one.
const CLEARLY: u32 = 2;

impl PredictedWait {
    /// Whether the caller's own turn would come clearly before the call leaves that it has joined.
    pub(super) fn has_earlier_turn(&self, flight: &Flight, caller: &Caller) -> bool {
        let now = Instant::now();
        let start = flight.start_in_other_name(caller).filter(|start| *start > now);
        let Some(start) = start else { return false };
        let payer = flight.request.payer();
        let clearly = (self.scarcity)(payer).interval * CLEARLY;
        let has_room = !clearly.is_zero() && now + clearly < start;
        has_room && now + (self.turn)(payer, caller) + clearly < start
    }
}

/// How long a waiter whose time is over stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    /// Until it has its result.
    ToTheEnd,
    /// Until then, when it looks again; if that has passed, it leaves.
    Until(Instant),
}

impl State {
    /// The earliest moment at which the call leaves, as far as that is known.
    fn leaves(&self) -> Option<Instant> {
        self.start.max(self.stays_back)
    }
}

impl Flight {
    /// Adds a waiter. `None` if the waiter needs an answer that is younger than this call's, or
    /// than the rows that its answer will also be made of; or if the call still waits and leaves
    /// too late for it, or it is more urgent than the call, whose turn may come later than its own;
    /// or if the queue had no place for the call, and may have one for the waiter.
    pub(super) fn join(&self, caller: &Arc<Caller>, now: Instant) -> Option<(u64, ResultReceiver)> {
        let mut state = self.state();
        let is_unsuited = match state.stage {
            Stage::Waiting => {
                let latest = caller.deadline.max(now);
                caller.urgency < state.waiters.leader_caller.urgency
                    || state.leaves().is_some_and(|leaves| leaves > latest)
                    || state.lacks_place && !state.waiters.leads_for(caller)
            }
            Stage::Departed(_) => caller.cache_directives.no_cache || state.part == Part::Some,
            Stage::Over => true,
        };
        (!is_unsuited).then(|| state.waiters.add(caller, now))
    }

    /// When the call is predicted to leave, if it waits in its turn in another name than this
    /// caller's.
    fn start_in_other_name(&self, caller: &Caller) -> Option<Instant> {
        let state = self.state();
        let is_others = state.stage == Stage::Waiting && state.waiters.leader_caller.name != caller.name;
        state.start.filter(|_| is_others)
    }

    /// How long a waiter whose time is over stays. It had time until `deadline`, and one attempt
    /// takes `attempt` at most.
    pub(super) fn stay(&self, id: u64, deadline: Instant, attempt: Duration, now: Instant) -> Stay {
        let state = self.state();
        match state.stage {
            // The queue itself rejects the leader's call, and says exactly when to come back.
            _ if state.waiters.leader == id => Stay::ToTheEnd,
            // The result is just being sent.
            Stage::Over => Stay::ToTheEnd,
            Stage::Departed(at) => Stay::Until(at + attempt),
            // It had the same time as the leader, about whom the queue is just deciding.
            Stage::Waiting if state.waiters.leader_caller.deadline <= deadline => Stay::Until(now + UNPUNCTUAL),
            Stage::Waiting if state.start.is_some_and(|start| start <= deadline) => Stay::Until(deadline + UNPUNCTUAL),
            Stage::Waiting => Stay::Until(deadline + MOMENT),
        }
    }

    /// Whether its leader may still wait for a slot. One that may not is told what became of the call
    /// that was to answer it, if that took its time and brought nothing.
    pub(super) fn has_time(&self, now: Instant) -> bool {
        self.state().waiters.leader_caller.deadline + UNPUNCTUAL >= now
    }

    /// The call does not ask for a slot before then, unless another has just taken it along.
    pub(super) fn stays_back(&self, until: Instant) {
        let now = Instant::now();
        let mut state = self.state();
        if state.stage != Stage::Waiting || !matches!(state.batch_role, BatchRole::Solo) {
            return;
        }
        state.stays_back = Some(until);
        self.leave_behind(state, |deadline| until > deadline.max(now));
    }

    /// The call waits for a slot, perhaps again after an attempt without an answer. It is predicted
    /// to leave at `start`, if it has a place in the queue.
    pub(super) fn wait_again(&self, now: Instant, start: Option<Instant>) {
        self.release_companions(now, start);
        let mut state = self.state();
        state.start = start;
        state.lacks_place = start.is_none();
        state.stays_back = None;
        if !matches!(state.batch_role, BatchRole::Solo) || state.stage == Stage::Over {
            return;
        }
        let had_left = matches!(state.stage, Stage::Departed(_));
        // Departed → Waiting, unless it is waiting already: requests with `no-cache` may join
        // again, and nobody waits for an answer who would not wait for this slot.
        if had_left && start.is_some_and(|start| start <= now + Attempt::GRACE) {
            // Elsewhere it is not known whose time was over before this attempt.
            state.waits_briefly();
        } else {
            state.set_stage(Stage::Waiting);
        }
        state.forget_part();
        self.leave_behind(state, |deadline| {
            let started_in_time = had_left && deadline <= now;
            let grace = if started_in_time {
                Attempt::GRACE
            } else {
                Duration::ZERO
            };
            start.is_some_and(|start| start > (deadline + grace).max(now))
        });
    }

    /// Sends the waiters away for whose deadlines the call `is_late`, all but the leader.
    fn leave_behind(&self, mut state: MutexGuard<'_, State>, is_late: impl Fn(Instant) -> bool) {
        let leader = state.waiters.leader;
        let is_left = |id, waiter: &Waiter| id != leader && is_late(waiter.caller.deadline);
        let left = state.waiters.take(is_left);
        if state.waiters.is_empty() {
            // Waiting → Over: its place in the queue is free for others.
            state.set_stage(Stage::Over);
            self.cancelled.notify_one();
        }
        drop(state);
        tell(left, &Err(Shared::new(LeftBehind.into())));
    }
}
