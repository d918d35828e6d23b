//! The part a flight plays in a call: its own request only, the carrier's call for several flights,
//! or a member of another flight's call, for a batch or for the same request.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::attempt::Attempt;
use crate::scan::{Request, StoredRows, UpstreamResponse};
use crate::single_flight::Shared;
use crate::single_flight::batch_share::BatchShare;
use crate::single_flight::batcher::{Batch, BatchMember, release};
use crate::single_flight::flight::{Departure, Flight, Part, Stage, State};
use crate::telemetry::trace;

/// The part a flight plays in a call.
#[derive(Debug)]
pub(super) enum BatchRole {
    /// It asks for its own request, or has not left yet.
    Solo,
    /// Its call also asks for the members of this batch.
    Carrier(Batch),
    /// Another flight's call asks for it; its part of the answer arrives here.
    Member(Option<oneshot::Receiver<MemberOutcome>>),
}

/// What a member gets when the call is over.
#[derive(Debug)]
pub(super) enum MemberOutcome {
    /// The answer to the batch, to take the member's part out of it.
    Share(Box<BatchShare>),
    /// The member's part of the answer, joined with rows that had come before.
    Response(MemberResponse),
    /// The answer to an equal request, which another flight asked for alone.
    Equal(MemberResponse),
    /// The call brought no answer, but this error or response, and the member's time is over.
    Failed(Result<UpstreamResponse, Shared>),
    /// The call did not answer the member, or waits for a slot again. The member has been put back
    /// to where it waits for a slot itself, and may even be a member of another call already.
    WaitsAgain,
}

/// A member's part of an answer.
#[derive(Debug)]
pub(super) struct MemberResponse {
    pub(super) answer: UpstreamResponse,
    /// When the batch's call left.
    pub(super) asked: Instant,
}

impl State {
    /// The flights that this flight's call is also made for: the members of its batch, and those for
    /// the same request.
    pub(super) fn companions(&self) -> Vec<Arc<Flight>> {
        let members = match &self.batch_role {
            BatchRole::Carrier(batch) => &*batch.members,
            BatchRole::Solo | BatchRole::Member(_) => &[],
        };
        let all = members.iter().chain(&self.equals);
        all.map(|member| Arc::clone(&member.flight)).collect()
    }

    /// Whether it may still join a batch or carry one.
    fn can_batch(&self) -> bool {
        matches!(self.batch_role, BatchRole::Solo) && !self.never_batches
    }

    /// It waits again at its old place, in no batch.
    fn wait_solo(&mut self) {
        self.batch_role = BatchRole::Solo;
        self.forget_part();
        self.lacks_place = false;
        if self.stage != Stage::Over {
            // Departed → Waiting.
            self.set_stage(Stage::Waiting);
        }
    }
}

impl Flight {
    /// Records that the slot has been granted.
    pub(super) fn start(&self, now: Instant) -> Departure {
        let (departure, companions) = {
            let mut state = self.state();
            if state.stage == Stage::Over || matches!(state.batch_role, BatchRole::Member(_)) {
                return Departure::Cancelled;
            }
            // Waiting → Departed, and Departed → Departed for a further attempt.
            state.set_stage(Stage::Departed(now));
            let departure = if state.can_batch() {
                Departure::First
            } else {
                Departure::Repeated
            };
            (departure, state.companions())
        };
        for companion in companions {
            let mut state = companion.state();
            if state.stage != Stage::Over {
                state.set_stage(Stage::Departed(now));
            }
        }
        departure
    }

    /// The request to send: the batch's, if there is one.
    pub(super) fn request_to_send(&self) -> Arc<Request> {
        match &self.state().batch_role {
            BatchRole::Carrier(batch) => Arc::clone(&batch.request),
            BatchRole::Solo | BatchRole::Member(_) => Arc::clone(&self.request),
        }
    }

    /// Makes a flight that is still waiting a member of a call that leaves, or has left, at
    /// `departed`. It leaves the queue, and its part of the answer is to be sent to the returned
    /// sender, joined with rows that have come since `rows_since`, if given: when the flight's last
    /// waiter asked.
    pub(super) fn take_result_sender(
        &self,
        departed: Instant,
        rows_since: Option<Instant>,
    ) -> Option<oneshot::Sender<MemberOutcome>> {
        let mut state = self.state();
        // Flights for the same request that wait for its answer may have come after such a call left.
        let is_too_old = departed < Instant::now() && !state.equals.is_empty();
        if is_too_old || !state.can_batch() || rows_since.is_some() && rows_since != state.waiters.all_entered() {
            return None;
        }
        let sender = self.become_member(&mut state, departed)?;
        if rows_since.is_some() {
            state.part = Part::Some;
        }
        Some(sender)
    }

    /// The same for the call of an equal flight, whose answer needs not be split.
    pub(super) fn take_equal_sender(&self, departed: Instant) -> Option<oneshot::Sender<MemberOutcome>> {
        let mut state = self.state();
        if !matches!(state.batch_role, BatchRole::Solo) {
            return None;
        }
        self.become_member(&mut state, departed)
    }

    fn become_member(&self, state: &mut State, departed: Instant) -> Option<oneshot::Sender<MemberOutcome>> {
        if state.stage != Stage::Waiting || state.waiters.is_empty() || !state.waiters.accept_answers_from(departed) {
            return None;
        }
        let (sender, share) = oneshot::channel();
        // Waiting → Departed, as a member.
        state.set_stage(Stage::Departed(departed));
        state.batch_role = BatchRole::Member(Some(share));
        self.cancelled.notify_one();
        Some(sender)
    }

    pub(super) fn is_member(&self) -> bool {
        matches!(self.state().batch_role, BatchRole::Member(_))
    }

    /// Where the part of the answer arrives, for a flight that has become a member.
    pub(super) fn take_response_receiver(&self) -> Option<oneshot::Receiver<MemberOutcome>> {
        match &mut self.state().batch_role {
            BatchRole::Member(share) => share.take(),
            BatchRole::Solo | BatchRole::Carrier(_) => None,
        }
    }

    /// Makes this flight the carrier of `batch`.
    pub(super) fn attach(&self, batch: Batch) {
        self.state().batch_role = BatchRole::Carrier(batch);
    }

    /// What other calls have brought for it since its last waiter asked, and when that was.
    pub(super) fn stored_rows(&self) -> Option<(Instant, Box<dyn StoredRows>)> {
        let since = self.state().rows_since()?;
        Some((since, self.cache_sink.rows_since(&self.request, since)?))
    }

    /// The same for a flight whose call leaves now: nobody joins it any more, unless it turns out
    /// to take no such rows. It makes a call even if nothing is missing.
    pub(super) fn stored_for_carrier(&self) -> Option<Box<dyn StoredRows>> {
        let since = {
            let mut state = self.state();
            let since = state.rows_since()?;
            state.part = Part::Some;
            since
        };
        let stored = self.cache_sink.rows_since(&self.request, since);
        let stored = stored.filter(|stored| stored.missing().is_some());
        if stored.is_none() {
            // It takes no rows of other calls after all.
            self.state().forget_part();
        }
        stored
    }

    /// Whether its answer also holds rows that other calls brought.
    pub(super) fn has_stored_rows(&self) -> bool {
        self.state().part == Part::Some
    }

    /// Whether its call is predicted to leave by then.
    pub(super) fn leaves_by(&self, deadline: Instant) -> bool {
        let state = self.state();
        state.stage == Stage::Waiting && state.start.is_some_and(|start| start <= deadline)
    }

    /// Takes the flights for the same request along in the call that has just left.
    pub(super) fn take_along(&self, equals: Vec<BatchMember>) {
        self.state().equals.extend(equals);
    }

    /// The flights for the same request that wait for its answer.
    pub(super) fn take_equals(&self) -> Vec<BatchMember> {
        std::mem::take(&mut self.state().equals)
    }

    /// Lets the flights for the same request wait for themselves: there is no answer for them, or
    /// not soon.
    pub(super) fn release_equals(&self) {
        release(self.take_equals());
    }

    /// From now on the flight asks for all of its ids.
    pub(super) fn ask_for_all(&self) {
        self.state().part = Part::Never;
    }

    /// Takes the batch out, once its answer has arrived.
    pub(super) fn take_batch(&self) -> Option<Batch> {
        let mut state = self.state();
        match std::mem::replace(&mut state.batch_role, BatchRole::Solo) {
            BatchRole::Carrier(batch) => Some(batch),
            other => {
                state.batch_role = other;
                None
            }
        }
    }

    /// Lets the flights that share the call wait for themselves. If it leaves now, only those whose
    /// time has been over for a while: they have no place in the queue that would tell their leaders
    /// so.
    pub(super) fn release_companions(&self, now: Instant, start: Option<Instant>) {
        let mut gone = {
            let state = self.state();
            if !matches!(state.batch_role, BatchRole::Carrier(_)) && state.equals.is_empty() {
                return;
            }
            state.companions()
        };
        let leaves_now = start.is_some_and(|start| start <= now);
        if leaves_now {
            gone.retain(|companion| companion.state().waiters.leader_caller.deadline + Attempt::GRACE <= now);
            if gone.is_empty() {
                return;
            }
        }
        self.end_trace(true);
        let is_gone = |member: &BatchMember| gone.iter().any(|flight| Arc::ptr_eq(flight, &member.flight));
        let mut released: Vec<_> = self.state().equals.extract_if(.., |equal| is_gone(equal)).collect();
        if let Some(mut batch) = self.take_batch() {
            released.extend(batch.members.extract_if(.., |member| is_gone(member)));
            if leaves_now && let Some(batch) = batch.of_the_rest(self) {
                self.attach(batch);
            }
        }
        if leaves_now {
            // They ask for themselves as soon as they see that their senders are dropped: the call,
            // which leaves before, is not to take them along again.
            drop(released);
        } else {
            release(released);
        }
    }

    /// The flight waits for a slot itself, as long as its own callers may, and whichever of those
    /// that shared the call gets one first may take the others along.
    pub(super) fn released(&self) {
        self.state().wait_solo();
    }

    /// From now on the flight asks for its own request only.
    pub(super) fn leave_batch(&self) {
        let mut state = self.state();
        state.wait_solo();
        state.never_batches = true;
    }

    /// The flight was a member of a call that did not answer it, and may join another batch. `rows`
    /// is how many rows it was found to have, if any were counted.
    pub(super) fn rejoin(&self, rows: usize) {
        {
            let mut state = self.state();
            if let Some(left) = state.rejoins.checked_sub(1) {
                state.rejoins = left;
                state.rows = rows;
                state.wait_solo();
                return;
            }
        }
        self.leave_batch();
    }

    /// How many rows it was found to have by a batch that did not answer it; `None` if there was no
    /// such batch.
    pub(super) fn rejoined(&self) -> Option<usize> {
        let state = self.state();
        (state.rejoins < Self::REJOINS).then_some(state.rows)
    }

    /// Whether it may still join a batch or carry one.
    pub(super) fn can_batch(&self) -> bool {
        self.state().can_batch()
    }

    /// The call's span in a trace. The first attempt, which leaves now, creates it.
    pub(super) fn trace_call(&self) -> trace::Call {
        {
            let state = self.state();
            if !matches!(state.trace, trace::Call::None) {
                return state.trace.clone();
            }
            if !state.waiters.are_traced() && state.companions().is_empty() {
                return trace::Call::None;
            }
        }
        let call = trace::Call::start(&self.participants(), Instant::now());
        self.state().trace = call.clone();
        call
    }

    /// Records in the trace that the call has ended. It has to be called before any waiter gets its
    /// result.
    pub(super) fn end_trace(&self, failed: bool) {
        let call = std::mem::take(&mut self.state().trace);
        if !matches!(call, trace::Call::None) {
            call.finish(&self.participants(), self.request_to_send().ids().len(), failed);
        }
    }

    /// The trace participants of all waiters that share the call.
    fn participants(&self) -> Vec<trace::Participant> {
        let (mut participants, companions) = {
            let state = self.state();
            (state.waiters.participants(), state.companions())
        };
        for companion in companions {
            participants.extend(companion.state().waiters.participants());
        }
        participants
    }

    /// Whether it asks for its own request only, after a batch that could not be split.
    pub(super) fn never_batches(&self) -> bool {
        self.state().never_batches
    }

    pub(super) fn waiter_count(&self) -> usize {
        self.state().waiters.len()
    }
}
