//! A call under way, and those who wait for it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::attempt::{Again, Failure, Load, Place};
use crate::caller::{Caller, Name};
use crate::scan::{Payer, Request};
use crate::single_flight::Shared;
use crate::single_flight::batch_role::BatchRole;
use crate::single_flight::batcher::Batcher;
use crate::single_flight::flight_result::{FlightResponse, ResultReceiver, WaiterResponse, WaiterRole};
use crate::single_flight::waiter::{Lead, Waiters};
use crate::telemetry::trace;

/// A call for one question. It is led by one of its waiters: the queue below knows it under the lead's name, deadline and place.
pub(super) struct Flight {
    request: Arc<Request>,
    /// Where it may take others aboard, and be taken; `None` when it has to go alone anyway.
    pool: Option<Arc<Batcher>>,
    state: Mutex<State>,
    pub(super) recalled: Notify,
}

pub(super) struct State {
    pub(super) stage: Stage,
    pub(super) trip: BatchRole,
    pub(super) waiters: Waiters,
    /// The call's place in a trace, from its departure to its end.
    pub(super) trace: trace::Call,
    /// How many more calls may be made after failures that are not the fault of those who still wait.
    restarts: u8,
    /// How many more waiters may take the lead after a refusal of the lead.
    successions: u8,
    /// How many more shared calls it may be part of after one that did not answer it.
    pub(super) rejoins: u8,
    /// How many rows it was found to have, while it is not known whether an answer of its own could hold so many.
    pub(super) rows: usize,
}

/// Where the call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waiting for its slot: an answer will be younger than everybody who joins now.
    Waiting,
    /// It has left, at this time.
    Departed(Instant),
    /// It takes nobody in any more: it has ended, or nobody wanted it before it had left.
    Over,
}

/// What to do after a failure.
#[derive(Debug)]
pub(super) enum Next {
    /// Call again, in this name.
    Again(Lead),
    /// Everybody has been told, or nobody is left.
    Over,
}

impl Flight {
    /// One call more, for all who still wait, after one that was lost; not one for each.
    const RESTARTS: u8 = 1;
    /// The one with the latest deadline succeeds, so a second succession needs a still later joiner or another name. The limit is for
    /// reasons that nobody thought of.
    const SUCCESSIONS: u8 = 4;
    /// Each shared call that answers nobody makes the next one smaller. Where that does not help, everybody asks alone.
    pub(super) const REJOINS: u8 = 4;

    /// A flight with its first waiter, who leads it.
    pub(super) fn new(
        request: Arc<Request>,
        pool: Option<Arc<Batcher>>,
        caller: &Arc<Caller>,
        now: Instant,
    ) -> (Self, u64, ResultReceiver) {
        let flight = Self {
            request,
            pool,
            state: Mutex::new(State {
                stage: Stage::Waiting,
                trip: BatchRole::Own,
                waiters: Waiters::new(caller),
                restarts: Self::RESTARTS,
                successions: Self::SUCCESSIONS,
                rejoins: Self::REJOINS,
                rows: 0,
                trace: trace::Call::None,
            }),
            recalled: Notify::new(),
        };
        let (id, inbox) = flight.state().waiters.admit(caller, now);
        (flight, id, inbox)
    }

    /// Takes in another waiter, unless the waiter needs an answer to a later question than this one.
    pub(super) fn join(&self, caller: &Arc<Caller>, now: Instant) -> Option<(u64, ResultReceiver)> {
        let mut state = self.state();
        let late = match state.stage {
            Stage::Waiting => false,
            Stage::Departed(_) => caller.freshness.no_cache,
            Stage::Over => true,
        };
        (!late).then(|| state.waiters.admit(caller, now))
    }

    /// Strikes a waiter off. `true` when that was the last one and the call, not having left, is abandoned.
    pub(super) fn leave(&self, id: u64) -> bool {
        let mut state = self.state();
        if !state.waiters.remove(id) || !state.waiters.is_empty() || state.stage != Stage::Waiting {
            return false;
        }
        // Waiting → Over: the place in the queue goes to somebody who wants it.
        state.stage = Stage::Over;
        self.recalled.notify_one();
        true
    }

    /// Resolves when the flight is not to queue any more: nobody wants it, or another has taken it aboard.
    pub(super) async fn recalled(&self) {
        loop {
            {
                let state = self.state();
                if state.stage == Stage::Over || matches!(state.trip, BatchRole::Aboard(_)) {
                    return;
                }
            }
            self.recalled.notified().await;
        }
    }

    /// Where it meets others that wait.
    pub(super) fn pool(&self) -> Option<&Arc<Batcher>> {
        self.pool.as_ref()
    }

    pub(super) fn request(&self) -> &Arc<Request> {
        &self.request
    }

    pub(super) fn stage(&self) -> Stage {
        self.state().stage
    }

    pub(super) fn is_led_by(&self, id: u64) -> bool {
        self.state().waiters.lead_id() == id
    }

    pub(super) fn is_storable(&self) -> bool {
        self.state().waiters.are_storable()
    }

    /// In whose name to call; `None` when the first waiter is gone already and nobody else has come.
    pub(super) fn lead(&self) -> Option<Lead> {
        let mut state = self.state();
        let lead = state.waiters.lead_or_successor();
        if lead.is_none() {
            // Waiting → Over: nobody must join a flight that will not be made.
            state.stage = Stage::Over;
        }
        lead
    }

    /// Tells everybody the answer.
    pub(super) fn land(&self, landing: FlightResponse) {
        let landing = Arc::new(landing);
        let (lead, waiters) = {
            let mut state = self.state();
            // Departed → Over.
            state.stage = Stage::Over;
            (state.waiters.lead_id(), state.waiters.take(|_, _| true))
        };
        for (id, waiter) in waiters {
            let role = if id == lead {
                WaiterRole::Lead
            } else {
                WaiterRole::Joined
            };
            // A waiter who has just hung up needs no answer.
            let _ = waiter.tell.send(Ok(WaiterResponse {
                landing: Arc::clone(&landing),
                role,
            }));
        }
    }

    /// Tells a failure to those whom it concerns, and says how to go on for the others.
    pub(super) fn fail(&self, error: &Shared, failed: &Lead, now: Instant) -> Next {
        let mut state = self.state();
        let lead = state.waiters.lead_id();
        let departed = matches!(state.stage, Stage::Departed(_));
        let allowance = if departed {
            &mut state.restarts
        } else {
            &mut state.successions
        };
        let exhausted = *allowance == 0;
        *allowance = allowance.saturating_sub(1);
        let hopeless = departed
            && error
                .find::<Failure>()
                .is_some_and(|failure| failure.again == Again::Never);
        let told = state.waiters.take(|id, waiter| {
            id == lead
                || exhausted
                || hopeless
                || waiter.caller.deadline <= now
                // Refused before it left: by the lead's deadline, or by a limit on the lead's name. Nobody with the same name and no more
                // time would fare better.
                || !departed && waiter.caller.name == failed.caller.name && waiter.caller.deadline <= failed.caller.deadline
        });
        for (_, waiter) in told {
            let _ = waiter.tell.send(Err(error.clone()));
        }
        if let Some(lead) = state.waiters.succeed() {
            // Departed → Waiting: the next call leaves later, so whoever insists on a later answer may join again.
            state.stage = Stage::Waiting;
            return Next::Again(lead);
        }
        // Any → Over: everybody has been told, or had left.
        state.stage = Stage::Over;
        Next::Over
    }

    /// Lets go of everybody who is still waiting; they learn that the flight is lost.
    pub(super) fn close(&self) {
        let waiters = {
            let mut state = self.state();
            // Any → Over.
            state.stage = Stage::Over;
            state.waiters.take(|_, _| true)
        };
        drop(waiters);
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load for Flight {
    fn request(&self) -> Arc<Request> {
        if let Some(pool) = &self.pool {
            return pool.depart(self);
        }
        self.depart(Instant::now());
        self.question()
    }

    fn queues(&self, place: Place, start: Instant) {
        if let Some(pool) = &self.pool {
            pool.queues(self, place, start);
        }
    }

    fn payer(&self) -> Payer {
        self.request.payer()
    }

    fn beneficiaries(&self) -> Vec<Name> {
        let (mut names, members) = {
            let state = self.state();
            (state.waiters.names(), state.trip.members())
        };
        for member in members {
            names.extend(member.state().waiters.names());
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    fn trace(&self) -> trace::Call {
        self.traced()
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
