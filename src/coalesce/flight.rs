//! A call under way, and those who wait for it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::attempt::{Again, Failure, Load, Place};
use crate::caller::{Caller, Name};
use crate::coalesce::Shared;
use crate::scan::{Answer, Request};

/// What a waiter gets.
pub(super) type News = Result<Arrival, Shared>;

/// Where a waiter gets it.
pub(super) type Inbox = oneshot::Receiver<News>;

/// An answer, as one waiter sees it.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) landing: Arc<Landing>,
    pub(super) role: Role,
}

/// An answer for all.
#[derive(Debug)]
pub(super) struct Landing {
    pub(super) answer: Answer,
    /// For how long it is kept, if it is.
    pub(super) kept: Option<Duration>,
}

/// Whose call it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The waiter's own.
    Lead,
    /// Somebody else's.
    Joined,
}

/// A call for one question. It is led by one of its waiters: the queue below knows it under the lead's name, deadline and place.
pub(super) struct Flight {
    request: Arc<Request>,
    state: Mutex<State>,
    abandoned: Notify,
}

struct State {
    stage: Stage,
    waiters: BTreeMap<u64, Waiter>,
    next_id: u64,
    lead: u64,
    lead_name: Name,
    /// Somebody who waits or waited has not forbidden storing the answer.
    storable: bool,
    /// How many more calls may be made after failures that are not the fault of those who still wait.
    restarts: u8,
    /// How many more waiters may take the lead after a refusal of the lead.
    successions: u8,
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

struct Waiter {
    caller: Arc<Caller>,
    place: Place,
    tell: oneshot::Sender<News>,
}

/// In whose name the call is made.
#[derive(Clone, Debug)]
pub(super) struct Lead {
    pub(super) caller: Arc<Caller>,
    pub(super) place: Place,
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

    /// A flight with its first waiter, who leads it.
    pub(super) fn new(request: Arc<Request>, caller: &Arc<Caller>, now: Instant) -> (Self, u64, Inbox) {
        let flight = Self {
            request,
            state: Mutex::new(State {
                stage: Stage::Waiting,
                waiters: BTreeMap::new(),
                next_id: 0,
                lead: 0,
                lead_name: caller.name.clone(),
                storable: false,
                restarts: Self::RESTARTS,
                successions: Self::SUCCESSIONS,
            }),
            abandoned: Notify::new(),
        };
        let (id, inbox) = flight.state().admit(caller, now);
        (flight, id, inbox)
    }

    /// Takes in another waiter, unless the waiter needs an answer to a later question than this one.
    pub(super) fn join(&self, caller: &Arc<Caller>, now: Instant) -> Option<(u64, Inbox)> {
        let mut state = self.state();
        let late = match state.stage {
            Stage::Waiting => false,
            Stage::Departed(_) => caller.freshness.no_cache,
            Stage::Over => true,
        };
        (!late).then(|| state.admit(caller, now))
    }

    /// Strikes a waiter off. `true` when that was the last one and the call, not having left, is abandoned.
    pub(super) fn leave(&self, id: u64) -> bool {
        let mut state = self.state();
        if state.waiters.remove(&id).is_none() || !state.waiters.is_empty() || state.stage != Stage::Waiting {
            return false;
        }
        // Waiting → Over: the place in the queue goes to somebody who wants it.
        state.stage = Stage::Over;
        self.abandoned.notify_one();
        true
    }

    /// Resolves when the last waiter has left before the call did.
    pub(super) async fn abandoned(&self) {
        self.abandoned.notified().await;
    }

    pub(super) fn request(&self) -> &Arc<Request> {
        &self.request
    }

    pub(super) fn stage(&self) -> Stage {
        self.state().stage
    }

    pub(super) fn is_led_by(&self, id: u64) -> bool {
        self.state().lead == id
    }

    pub(super) fn is_storable(&self) -> bool {
        self.state().storable
    }

    /// In whose name to call first; `None` when the first waiter is gone already and nobody else has come.
    pub(super) fn lead(&self) -> Option<Lead> {
        let mut state = self.state();
        if let Some(waiter) = state.waiters.get(&state.lead) {
            return Some(waiter.lead());
        }
        state.succeed()
    }

    /// Tells everybody the answer.
    pub(super) fn land(&self, landing: Landing) {
        let landing = Arc::new(landing);
        let (lead, waiters) = {
            let mut state = self.state();
            // Departed → Over.
            state.stage = Stage::Over;
            (state.lead, std::mem::take(&mut state.waiters))
        };
        for (id, waiter) in waiters {
            let role = if id == lead { Role::Lead } else { Role::Joined };
            // A waiter who has just hung up needs no answer.
            let _ = waiter.tell.send(Ok(Arrival {
                landing: Arc::clone(&landing),
                role,
            }));
        }
    }

    /// Tells a failure to those whom it concerns, and says how to go on for the others.
    pub(super) fn fail(&self, error: &Shared, failed: &Lead, now: Instant) -> Next {
        let mut state = self.state();
        let lead = state.lead;
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
        let told = state.take(|id, waiter| {
            id == lead
                || exhausted
                || hopeless
                || waiter.caller.deadline <= now
                // Refused before it left: by the lead's deadline, or by a limit on the lead's name. Nobody with the same name and no more
                // time would fare better.
                || !departed && waiter.caller.name == failed.caller.name && waiter.caller.deadline <= failed.caller.deadline
        });
        for waiter in told {
            let _ = waiter.tell.send(Err(error.clone()));
        }
        if let Some(lead) = state.succeed() {
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
            std::mem::take(&mut state.waiters)
        };
        drop(waiters);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load for Flight {
    fn request(&self) -> Arc<Request> {
        let mut state = self.state();
        // Waiting → Departed; again for another attempt. A flight that is over is about to be dropped, whatever it is told here.
        if state.stage != Stage::Over {
            state.stage = Stage::Departed(Instant::now());
        }
        Arc::clone(&self.request)
    }

    fn beneficiaries(&self) -> Vec<Name> {
        self.state().names()
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

impl State {
    fn admit(&mut self, caller: &Arc<Caller>, now: Instant) -> (u64, Inbox) {
        let (tell, inbox) = oneshot::channel();
        let id = self.next_id;
        self.next_id += 1;
        self.storable |= !caller.freshness.no_store;
        let waiter = Waiter {
            caller: Arc::clone(caller),
            place: Place::new(now),
            tell,
        };
        self.waiters.insert(id, waiter);
        (id, inbox)
    }

    /// Removes the waiters whom `concerns` picks.
    fn take(&mut self, concerns: impl Fn(u64, &Waiter) -> bool) -> Vec<Waiter> {
        let (told, kept) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(id, waiter)| concerns(*id, waiter));
        self.waiters = kept;
        told.into_values().collect()
    }

    /// Makes the waiter with the latest deadline the lead; among equals the one who came first.
    fn succeed(&mut self) -> Option<Lead> {
        let (id, waiter) = self
            .waiters
            .iter()
            .max_by_key(|(_, waiter)| (waiter.caller.deadline, std::cmp::Reverse(waiter.place)))?;
        self.lead = *id;
        self.lead_name = waiter.caller.name.clone();
        Some(waiter.lead())
    }

    /// Each caller once; the lead's name even when the lead has hung up and nobody is left to pay.
    fn names(&self) -> Vec<Name> {
        let mut names: Vec<_> = self.waiters.values().map(|waiter| waiter.caller.name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            names.push(self.lead_name.clone());
        }
        names
    }
}

impl Waiter {
    fn lead(&self) -> Lead {
        Lead {
            caller: Arc::clone(&self.caller),
            place: self.place,
        }
    }
}
