//! A flight in company: taken aboard, or taking others aboard.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::scan::Request;
use crate::single_flight::batcher::{Batch, Told};
use crate::single_flight::flight::{Flight, Stage};
use crate::telemetry::trace;

/// In whose company it flies.
#[derive(Debug)]
pub(super) enum BatchRole {
    /// Its own, or not known yet.
    Own,
    /// It asks for others too.
    Carrying(Batch),
    /// Another asks for it; here comes its share.
    Aboard(Option<oneshot::Receiver<Told>>),
    /// Its own, after a united call in doubt; never again in company.
    SingleRequest,
}

impl BatchRole {
    /// Those who are aboard.
    pub(super) fn members(&self) -> Vec<Arc<Flight>> {
        match self {
            Self::Carrying(batch) => batch.members.iter().map(|member| Arc::clone(&member.flight)).collect(),
            Self::Own | Self::Aboard(_) | Self::SingleRequest => Vec::new(),
        }
    }
}

impl Flight {
    /// Notes that the slot has been granted. `true` when the flight may take others aboard now: it is the first attempt, and its own.
    pub(super) fn depart(&self, now: Instant) -> bool {
        let members = {
            let mut state = self.state();
            // Waiting → Departed; again for another attempt. A flight that is over is about to be dropped, whatever it is told here.
            if state.stage == Stage::Over {
                return false;
            }
            state.stage = Stage::Departed(now);
            if matches!(state.trip, BatchRole::Own) {
                return true;
            }
            state.trip.members()
        };
        for member in members {
            let mut state = member.state();
            if state.stage != Stage::Over {
                state.stage = Stage::Departed(now);
            }
        }
        false
    }

    /// What to ask: the united question, if there is one.
    pub(super) fn question(&self) -> Arc<Request> {
        match &self.state().trip {
            BatchRole::Carrying(batch) => Arc::clone(&batch.request),
            BatchRole::Own | BatchRole::Aboard(_) | BatchRole::SingleRequest => Arc::clone(self.request()),
        }
    }

    /// Takes a flight that is still waiting off the queue, for a call that leaves, or has left, at `departed`; its share is to be sent to
    /// where this returns.
    pub(super) fn take_result_sender(&self, departed: Instant) -> Option<oneshot::Sender<Told>> {
        let mut state = self.state();
        if state.stage != Stage::Waiting
            || state.waiters.is_empty()
            || !matches!(state.trip, BatchRole::Own)
            || !state.waiters.accept_answers_from(departed)
        {
            return None;
        }
        let (tell, share) = oneshot::channel();
        // Waiting → Departed, in company.
        state.stage = Stage::Departed(departed);
        state.trip = BatchRole::Aboard(Some(share));
        self.recalled.notify_one();
        Some(tell)
    }

    pub(super) fn is_member(&self) -> bool {
        matches!(self.state().trip, BatchRole::Aboard(_))
    }

    /// Where the share arrives, for a flight that has been taken aboard.
    pub(super) fn passage(&self) -> Option<oneshot::Receiver<Told>> {
        match &mut self.state().trip {
            BatchRole::Aboard(share) => share.take(),
            BatchRole::Own | BatchRole::Carrying(_) | BatchRole::SingleRequest => None,
        }
    }

    /// Takes others aboard.
    pub(super) fn attach(&self, batch: Batch) {
        self.state().trip = BatchRole::Carrying(batch);
    }

    /// What was asked for others too, once the answer is here.
    pub(super) fn split(&self) -> Option<Batch> {
        let mut state = self.state();
        match std::mem::replace(&mut state.trip, BatchRole::Own) {
            BatchRole::Carrying(batch) => Some(batch),
            other => {
                state.trip = other;
                None
            }
        }
    }

    /// From now on it asks for itself only.
    pub(super) fn leave_batch(&self) {
        let mut state = self.state();
        state.trip = BatchRole::SingleRequest;
        if state.stage != Stage::Over {
            // Departed → Waiting, in the old place.
            state.stage = Stage::Waiting;
        }
    }

    /// It was part of a call that did not answer it, and may be part of another: it was found to have so many rows, if any were counted.
    pub(super) fn rejoin(&self, rows: usize) {
        {
            let mut state = self.state();
            if let Some(left) = state.rejoins.checked_sub(1) {
                state.rejoins = left;
                state.rows = rows;
                state.trip = BatchRole::Own;
                if state.stage != Stage::Over {
                    // Departed → Waiting, in the old place.
                    state.stage = Stage::Waiting;
                }
                return;
            }
        }
        self.leave_batch();
    }

    /// Whether it was part of a call that did not answer it, and how many rows it was found to have.
    pub(super) fn rejoined(&self) -> Option<usize> {
        let state = self.state();
        (state.rejoins < Self::REJOINS).then_some(state.rows)
    }

    /// Whether it may share a call with other questions.
    pub(super) fn can_batch(&self) -> bool {
        matches!(self.state().trip, BatchRole::Own)
    }

    /// The call's place in a trace; the first attempt, which leaves now, gives it one.
    pub(super) fn traced(&self) -> trace::Call {
        {
            let state = self.state();
            if !matches!(state.trace, trace::Call::None) {
                return state.trace.clone();
            }
            if !state.waiters.are_traced() && matches!(state.trip, BatchRole::Own | BatchRole::SingleRequest) {
                return trace::Call::None;
            }
        }
        let call = trace::Call::depart(&self.participants(), Instant::now());
        self.state().trace = call.clone();
        call
    }

    /// The call that was made has ended, well or not. To be called before anybody is told.
    pub(super) fn untrace(&self, failed: bool) {
        let call = std::mem::take(&mut self.state().trace);
        if !matches!(call, trace::Call::None) {
            call.land(&self.participants(), self.question().ids().len(), failed);
        }
    }

    /// The places in traces of all who get something of its call.
    fn participants(&self) -> Vec<trace::Participant> {
        let (mut participants, members) = {
            let state = self.state();
            (state.waiters.participants(), state.trip.members())
        };
        for member in members {
            participants.extend(member.state().waiters.participants());
        }
        participants
    }

    /// Whether it asks for itself after a united call in doubt.
    pub(super) fn was_sent_off(&self) -> bool {
        matches!(self.state().trip, BatchRole::SingleRequest)
    }

    /// How many wait for it.
    pub(super) fn waiting(&self) -> usize {
        self.state().waiters.len()
    }
}
