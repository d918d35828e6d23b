//! What a flight does: it makes the call, again where that helps those who still wait, until it lands or nobody is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::StatusCode;
use tokio::time::{Instant, sleep, sleep_until};
use tower::{Service, ServiceExt as _};

use crate::BoxError;
use crate::attempt::{Again, Failure, Load, Retries, Try};
use crate::coalesce::Shared;
use crate::coalesce::board::Board;
use crate::coalesce::flight::{Flight, Next, Stage};
use crate::coalesce::merge::{Cargo, Pool, Share, share};
use crate::coalesce::news::{Company, Landing};
use crate::coalesce::waiter::Lead;
use crate::scan::{Answer, Keep, Lore, ResponseKind, Rows};

/// One flight under way. However it ends, the flight is off the board afterwards, and nobody waits for it.
pub(super) struct Journey {
    board: Arc<Board>,
    flight: Arc<Flight>,
    keep: Arc<dyn Keep>,
    lore: Arc<Lore>,
    /// Everybody has the answer, and nobody can join any more.
    landed: AtomicBool,
}

/// How far a try has brought the flight.
enum Leg {
    /// The call was made, for itself or for others too.
    Flown(Result<Answer, BoxError>),
    /// Another flight has taken it aboard, and this came of it; `None` when it has to go alone.
    Carried(Option<Share>),
    /// Nobody wants it any more.
    GivenUp,
}

impl Journey {
    pub(super) fn new(board: Arc<Board>, flight: Arc<Flight>, keep: Arc<dyn Keep>, lore: Arc<Lore>) -> Self {
        Self {
            board,
            flight,
            keep,
            lore,
            landed: AtomicBool::new(false),
        }
    }

    pub(super) async fn run<S>(self, inner: S)
    where
        S: Service<Try, Response = Answer, Error = BoxError> + Clone + Send + 'static,
        S::Future: Send,
    {
        let mut lead = self.flight.lead();
        while let Some(led) = lead {
            lead = match self.fly(&led, inner.clone()).await {
                Leg::GivenUp => None,
                Leg::Carried(Some(share)) => {
                    self.land(share.answer, Some(share.asked), Company::Passenger);
                    None
                }
                Leg::Carried(None) => {
                    self.flight.go_alone();
                    self.flight.lead()
                }
                Leg::Flown(result) => {
                    let good = result.as_ref().is_ok_and(|answer| answer.status.is_success());
                    self.flight.untrace(!good);
                    match self.flight.unload() {
                        Some(cargo) => self.unload(cargo, &result),
                        None => self.settle(result, &led),
                    }
                }
            };
        }
    }

    /// Queues for a slot and makes the call, unless the flight is recalled before.
    async fn fly<S>(&self, led: &Lead, inner: S) -> Leg
    where
        S: Service<Try, Response = Answer, Error = BoxError> + Clone,
    {
        let pool = self.flight.pool().filter(|_| self.flight.is_sociable());
        let attempt = Try {
            load: Arc::clone(&self.flight) as Arc<dyn Load>,
            caller: Arc::clone(&led.caller),
            place: led.place,
            retries: Retries::default(),
        };
        let flown = {
            let _berth = pool.map(|pool| pool.enter(&self.flight, led.place));
            let call = async {
                match pool {
                    Some(pool) => self.queue_in_company(pool, inner, attempt).await,
                    None => inner.oneshot(attempt).await,
                }
            };
            tokio::select! {
                biased;
                () = self.flight.recalled() => None,
                result = call => Some(result),
            }
        };
        // Out of the pool nobody takes it aboard any more; but somebody may have done so just before.
        match (self.flight.passage(), flown) {
            (Some(passage), _) => Leg::Carried(passage.await.ok()),
            (None, Some(result)) => Leg::Flown(result),
            (None, None) => Leg::GivenUp,
        }
    }

    /// Queues for a slot, and for a lift when the queue has none in time.
    async fn queue_in_company<S>(&self, pool: &Pool, inner: S, attempt: Try) -> Result<Answer, BoxError>
    where
        S: Service<Try, Response = Answer, Error = BoxError> + Clone,
    {
        let (place, deadline) = (attempt.place, attempt.caller.deadline);
        let gather = pool.merge().gather;
        // Who has no time to gather company, such as `wait=0`, goes at once.
        if Instant::now() + gather < deadline && !gather.is_zero() {
            sleep(gather).await;
        }
        loop {
            // From before the queue is asked, so that no slot is lost unseen.
            let moved = pool.moved();
            let result = inner.clone().oneshot(attempt.clone()).await;
            let lacks_slot = result.as_ref().err().and_then(|error| error.downcast_ref::<Failure>());
            if !lacks_slot.is_some_and(|failure| failure.again == Again::InCompany)
                || !pool.offers_lift(&self.flight, place, deadline)
            {
                return result;
            }
            // Taken aboard, it is recalled. Left behind, or at the end of its time, it asks the queue again, which knows when to come back.
            tokio::select! {
                () = moved => {}
                () = sleep_until(deadline) => {}
            }
        }
    }

    /// Hands the parts of a united answer out, or sends everybody off alone.
    fn unload(&self, cargo: Cargo, result: &Result<Answer, BoxError>) -> Option<Lead> {
        let Some(pool) = self.flight.pool() else {
            return self.alone();
        };
        let (Ok(rows), Ok(answer), Stage::Departed(asked)) = (pool.unload(&cargo, result), result, self.flight.stage())
        else {
            // The passengers see that nothing comes for them.
            drop(cargo);
            return self.alone();
        };
        self.distribute(cargo, pool, &rows, answer, asked);
        None
    }

    fn distribute(&self, cargo: Cargo, pool: &Pool, rows: &Rows, answer: &Answer, asked: Instant) {
        let mut requests = self.flight.waiting();
        for passenger in cargo.passengers {
            requests += passenger.flight.waiting();
            let part = share(&cargo.request, passenger.flight.request(), rows, answer);
            // A passenger's task that is gone, with the runtime, needs nothing.
            let _ = passenger.tell.send(Share { answer: part, asked });
        }
        pool.count(requests);
        let part = share(&cargo.request, self.flight.request(), rows, answer);
        self.land(part, Some(asked), Company::Carrier);
    }

    fn alone(&self) -> Option<Lead> {
        self.flight.go_alone();
        self.flight.lead()
    }

    /// Lands with the answer to the flight's own question, or decides how to go on without one.
    fn settle(&self, result: Result<Answer, BoxError>, led: &Lead) -> Option<Lead> {
        match result {
            Ok(answer) => {
                let asked = match self.flight.stage() {
                    Stage::Departed(asked) => Some(asked),
                    Stage::Waiting | Stage::Over => None,
                };
                self.note(&answer);
                // Before anybody has the answer: who puts its rows together with others must know what it says about their order.
                self.learn(&answer);
                self.land(answer, asked, Company::None);
                None
            }
            Err(error) => match self.flight.fail(&Shared::new(error), led, Instant::now()) {
                Next::Again(next) => Some(next),
                Next::Over => None,
            },
        }
    }

    /// Tells the pool how a question fared that was asked alone.
    fn note(&self, answer: &Answer) {
        let Some(pool) = self.flight.pool() else { return };
        match answer.status {
            // In Defender's words only: a front end that knows no such page says nothing about an id.
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND
                if ResponseKind::of(self.flight.request().endpoint(), answer).is_answer() =>
            {
                pool.suspect(self.flight.request());
            }
            StatusCode::OK if self.flight.was_sent_off() => pool.succeeded_alone(),
            _ => {}
        }
    }

    /// Learns from the answer to a question that was asked alone.
    fn learn(&self, answer: &Answer) {
        let request = self.flight.request();
        if answer.status == StatusCode::OK
            && answer.may_be_json()
            && request.is_plain()
            && let Some(rows) = Rows::certain(request, &answer.body)
        {
            self.lore.learn(request.endpoint(), &rows);
        }
    }

    fn land(&self, answer: Answer, asked: Option<Instant>, company: Company) {
        let kept = asked
            .filter(|_| self.flight.is_storable())
            .and_then(|asked| self.keep.keep(self.flight.request(), &answer, asked));
        self.board.remove(&self.flight);
        self.flight.land(Landing { answer, kept, company });
        self.landed.store(true, Ordering::Relaxed);
    }
}

impl Drop for Journey {
    fn drop(&mut self) {
        if !*self.landed.get_mut() {
            self.board.remove(&self.flight);
            self.flight.close();
        }
    }
}
