//! What a flight does: it makes the call, again where that helps those who still wait, until it lands or nobody is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::StatusCode;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, sleep, sleep_until};
use tower::{Service, ServiceExt as _};

use crate::BoxError;
use crate::attempt::{Again, Failure, Load, Retries, Try};
use crate::coalesce::Shared;
use crate::coalesce::board::Board;
use crate::coalesce::flight::{Flight, Next, Stage};
use crate::coalesce::merge::{Cargo, Pool, Share, Told, count, share};
use crate::coalesce::news::{Company, Landing};
use crate::coalesce::waiter::Lead;
use crate::scan::{Answer, Doubt, Keep, Lore, Request, ResponseKind, Rows};

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
    Carried(Option<Told>),
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
                Leg::Carried(Some(Told::Rejoin(rows))) => {
                    self.flight.rejoin(rows);
                    self.flight.lead()
                }
                Leg::Carried(Some(Told::Share(share))) => {
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
            let call = async {
                let Some(pool) = pool else {
                    return inner.oneshot(attempt).await;
                };
                let rejoined = self.flight.rejoined();
                if let Some(rows) = rejoined {
                    pool.settled(&self.flight, rows).await;
                }
                let _berth = pool.enter(&self.flight, led.place);
                // Who has no time to gather company, such as `wait=0`, goes at once, and so does who has waited already.
                if rejoined.is_none()
                    && let Some(gather) = pool.gathers(&self.flight, &attempt.caller.name)
                    && Instant::now() + gather < attempt.caller.deadline
                {
                    sleep(gather).await;
                }
                self.queue_in_company(pool, inner, attempt).await
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
        let mut is_refused = false;
        loop {
            // From before the queue is asked, so that no slot is lost unseen.
            let moved = pool.moved();
            if is_refused
                && pool.expects_call(&self.flight, deadline)
                && let Some(again) = pool.offers_lift(&self.flight, deadline)
            {
                wait_for(moved, again).await;
                continue;
            }
            let result = inner.clone().oneshot(attempt.clone()).await;
            let lacks_slot = result.as_ref().err().and_then(|error| error.downcast_ref::<Failure>());
            if !lacks_slot.is_some_and(|failure| failure.again == Again::InCompany) {
                return result;
            }
            pool.queues_not(&self.flight, place);
            let Some(again) = pool.offers_lift(&self.flight, deadline) else {
                return result;
            };
            is_refused = true;
            // Taken aboard, it is recalled. Left behind, or at the end of its time, it asks the queue again, which knows when to come back.
            wait_for(moved, again).await;
        }
    }

    /// Hands the parts of a united answer out. Where it may be cut off, everybody shares another, smaller call; in any other doubt all
    /// ask alone.
    fn unload(&self, cargo: Cargo, result: &Result<Answer, BoxError>) -> Option<Lead> {
        let Some(pool) = self.flight.pool() else {
            return self.alone();
        };
        match (pool.unload(&cargo, result), result, self.flight.stage()) {
            (Ok(rows), Ok(answer), Stage::Departed(asked)) => self.distribute(cargo, pool, &rows, (answer, asked)),
            (Err(Doubt::Longest | Doubt::FullPage | Doubt::NextLink), ..) if !cargo.passengers.is_empty() => {
                for passenger in cargo.passengers {
                    // A passenger's task that is gone, with the runtime, needs nothing.
                    let _ = passenger.tell.send(Told::Rejoin(0));
                }
                self.flight.rejoin(0);
                self.flight.lead()
            }
            _ => {
                // The passengers see that nothing comes for them.
                drop(cargo);
                self.alone()
            }
        }
    }

    fn distribute(&self, cargo: Cargo, pool: &Pool, rows: &Rows, (answer, asked): (&Answer, Instant)) -> Option<Lead> {
        let whole = Arc::clone(&cargo.request);
        self.keep_rows(&cargo, rows, answer, asked);
        let own = count(&whole, self.flight.request(), rows);
        let late = pool.catch_up(&whole, rows, asked);
        let has_company = !cargo.passengers.is_empty() || !late.is_empty();
        let passengers = cargo.passengers.into_iter().chain(late);
        let passengers: Vec<_> = passengers
            .map(|passenger| (count(&whole, passenger.flight.request(), rows), passenger))
            .collect();
        // Alone, a question with more rows than any before might have been cut off. The one with most of them finds out.
        let longest = passengers
            .iter()
            .map(|(rows, _)| *rows)
            .chain([own])
            .max()
            .unwrap_or(own);
        let is_own_sure = pool.fits(&self.flight, own);
        let mut is_asked = !is_own_sure && own == longest;
        let mut answered = if is_own_sure { self.flight.waiting() } else { 0 };
        for (count, passenger) in passengers {
            let told = if pool.fits(&passenger.flight, count) {
                answered += passenger.flight.waiting();
                let answer = share(&whole, passenger.flight.request(), rows, answer);
                Told::Share(Share { answer, asked })
            } else if count == longest && !std::mem::replace(&mut is_asked, true) {
                // It sees that nothing comes for it.
                continue;
            } else {
                Told::Rejoin(count)
            };
            let _ = passenger.tell.send(told);
        }
        if has_company {
            pool.count(answered);
        }
        if is_own_sure {
            let company = if has_company { Company::Carrier } else { Company::None };
            self.land(share(&whole, self.flight.request(), rows, answer), Some(asked), company);
            return None;
        }
        if own == longest {
            return self.alone();
        }
        self.flight.rejoin(own);
        self.flight.lead()
    }

    /// Keeps what may be kept of a united answer by id, all of it as the one answer that it is.
    fn keep_rows(&self, cargo: &Cargo, rows: &Rows, answer: &Answer, asked: Instant) {
        let whole = &cargo.request;
        let flights = cargo.passengers.iter().map(|passenger| &passenger.flight);
        let (kept, not): (Vec<_>, Vec<_>) = flights.chain([&self.flight]).partition(|flight| flight.is_storable());
        if not.is_empty() {
            self.keep.keep_rows(whole, cargo.prefetched.as_ref(), answer, asked);
            return;
        }
        let ids = kept.iter().flat_map(|flight| flight.request().ids());
        let ids = ids.chain(cargo.prefetched.iter().flat_map(Request::ids));
        if let Ok(part) = Request::all(whole.endpoint(), ids) {
            let answer = share(whole, &part, rows, answer);
            self.keep.keep_rows(&part, cargo.prefetched.as_ref(), &answer, asked);
        }
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
            && request.is_whole()
            && let Some(rows) = Rows::certain(request, &answer.body)
        {
            if request.asks_for_all() {
                self.lore.learn_all(request.endpoint(), &rows);
            } else {
                self.lore.learn(request.endpoint(), &rows);
            }
            if let Some(pool) = self.flight.pool() {
                pool.has_learned();
            }
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

/// Waits for a call to leave, at most until then.
async fn wait_for(moved: Notified<'_>, until: Instant) {
    tokio::select! {
        () = moved => {}
        () = sleep_until(until) => {}
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
