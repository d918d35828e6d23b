//! What a flight does: it makes the call, again where that helps those who still wait, until it lands or nobody is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::StatusCode;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, sleep, sleep_until};
use tower::{Service, ServiceExt as _};

use crate::BoxError;
use crate::attempt::{Again, Failure, Load, Retries, Try};
use crate::scan::{Answer, Keep, Request, ResponseKind, Rows, SplitError, UpstreamProfile};
use crate::single_flight::Shared;
use crate::single_flight::batcher::{Batch, Batcher, MemberResponse, Told, count, share};
use crate::single_flight::flight::{Flight, Next, Stage};
use crate::single_flight::flight_result::{BatchKind, FlightResponse};
use crate::single_flight::flight_table::FlightTable;
use crate::single_flight::waiter::Lead;

/// One flight under way. However it ends, the flight is off the board afterwards, and nobody waits for it.
pub(super) struct FlightDriver {
    flight_table: Arc<FlightTable>,
    flight: Arc<Flight>,
    keep: Arc<dyn Keep>,
    upstream_profile: Arc<UpstreamProfile>,
    /// Everybody has the answer, and nobody can join any more.
    landed: AtomicBool,
}

/// How far a try has brought the flight.
enum StepResult {
    /// The call was made, for itself or for others too.
    Flown(Result<Answer, BoxError>),
    /// Another flight has taken it aboard, and this came of it; `None` when it has to go alone.
    Carried(Option<Told>),
    /// Nobody wants it any more.
    GivenUp,
}

impl FlightDriver {
    pub(super) fn new(
        flight_table: Arc<FlightTable>,
        flight: Arc<Flight>,
        keep: Arc<dyn Keep>,
        upstream_profile: Arc<UpstreamProfile>,
    ) -> Self {
        Self {
            flight_table,
            flight,
            keep,
            upstream_profile,
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
                StepResult::GivenUp => None,
                StepResult::Carried(Some(Told::Rejoin(rows))) => {
                    self.flight.rejoin(rows);
                    self.flight.lead()
                }
                StepResult::Carried(Some(Told::MemberResponse(share))) => {
                    self.land(share.answer, Some(share.asked), BatchKind::BatchMember);
                    None
                }
                StepResult::Carried(None) => {
                    self.flight.leave_batch();
                    self.flight.lead()
                }
                StepResult::Flown(result) => {
                    let good = result.as_ref().is_ok_and(|answer| answer.status.is_success());
                    self.flight.untrace(!good);
                    match self.flight.split() {
                        Some(batch) => self.split(batch, &result),
                        None => self.settle(result, &led),
                    }
                }
            };
        }
    }

    /// Queues for a slot and makes the call, unless the flight is recalled before.
    async fn fly<S>(&self, led: &Lead, inner: S) -> StepResult
    where
        S: Service<Try, Response = Answer, Error = BoxError> + Clone,
    {
        let pool = self.flight.pool().filter(|_| self.flight.can_batch());
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
                self.queue_for_batch(pool, inner, attempt).await
            };
            tokio::select! {
                biased;
                () = self.flight.recalled() => None,
                result = call => Some(result),
            }
        };
        // Out of the pool nobody takes it aboard any more; but somebody may have done so just before.
        match (self.flight.passage(), flown) {
            (Some(passage), _) => StepResult::Carried(passage.await.ok()),
            (None, Some(result)) => StepResult::Flown(result),
            (None, None) => StepResult::GivenUp,
        }
    }

    /// Queues for a slot, and for a lift when the queue has none in time.
    async fn queue_for_batch<S>(&self, pool: &Batcher, inner: S, attempt: Try) -> Result<Answer, BoxError>
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
                && let Some(again) = pool.can_join_batch(&self.flight, deadline)
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
            let Some(again) = pool.can_join_batch(&self.flight, deadline) else {
                return result;
            };
            is_refused = true;
            // Taken aboard, it is recalled. Left behind, or at the end of its time, it asks the queue again, which knows when to come back.
            wait_for(moved, again).await;
        }
    }

    /// Hands the parts of a united answer out. Where it may be cut off, everybody shares another, smaller call; in any other doubt all
    /// ask alone.
    fn split(&self, batch: Batch, result: &Result<Answer, BoxError>) -> Option<Lead> {
        let Some(pool) = self.flight.pool() else {
            return self.alone();
        };
        match (pool.split(&batch, result), result, self.flight.stage()) {
            (Ok(rows), Ok(answer), Stage::Departed(asked)) => self.distribute(batch, pool, &rows, (answer, asked)),
            (Err(SplitError::Longest | SplitError::FullPage | SplitError::NextLink), ..)
                if !batch.members.is_empty() =>
            {
                for member in batch.members {
                    // A passenger's task that is gone, with the runtime, needs nothing.
                    let _ = member.tell.send(Told::Rejoin(0));
                }
                self.flight.rejoin(0);
                self.flight.lead()
            }
            _ => {
                // The passengers see that nothing comes for them.
                drop(batch);
                self.alone()
            }
        }
    }

    fn distribute(
        &self,
        batch: Batch,
        pool: &Batcher,
        rows: &Rows,
        (answer, asked): (&Answer, Instant),
    ) -> Option<Lead> {
        let whole = Arc::clone(&batch.request);
        self.keep_rows(&batch, rows, answer, asked);
        let own = count(&whole, self.flight.request(), rows);
        let late = pool.catch_up(&whole, rows, asked);
        let has_other_callers = !batch.members.is_empty() || !late.is_empty();
        let members = batch.members.into_iter().chain(late);
        let members: Vec<_> = members
            .map(|member| (count(&whole, member.flight.request(), rows), member))
            .collect();
        // Alone, a question with more rows than any before might have been cut off. The one with most of them finds out.
        let longest = members.iter().map(|(rows, _)| *rows).chain([own]).max().unwrap_or(own);
        let is_own_sure = pool.fits(&self.flight, own);
        let mut is_asked = !is_own_sure && own == longest;
        let mut answered = if is_own_sure { self.flight.waiting() } else { 0 };
        for (count, member) in members {
            let told = if pool.fits(&member.flight, count) {
                answered += member.flight.waiting();
                let answer = share(&whole, member.flight.request(), rows, answer);
                Told::MemberResponse(MemberResponse { answer, asked })
            } else if count == longest && !std::mem::replace(&mut is_asked, true) {
                // It sees that nothing comes for it.
                continue;
            } else {
                Told::Rejoin(count)
            };
            let _ = member.tell.send(told);
        }
        if has_other_callers {
            pool.count(answered);
        }
        if is_own_sure {
            let company = if has_other_callers {
                BatchKind::Carrier
            } else {
                BatchKind::None
            };
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
    fn keep_rows(&self, batch: &Batch, rows: &Rows, answer: &Answer, asked: Instant) {
        let whole = &batch.request;
        let flights = batch.members.iter().map(|member| &member.flight);
        let (kept, not): (Vec<_>, Vec<_>) = flights.chain([&self.flight]).partition(|flight| flight.is_storable());
        if not.is_empty() {
            self.keep.keep_rows(whole, batch.prefetched.as_ref(), answer, asked);
            return;
        }
        let ids = kept.iter().flat_map(|flight| flight.request().ids());
        let ids = ids.chain(batch.prefetched.iter().flat_map(Request::ids));
        if let Ok(part) = Request::all(whole.endpoint(), ids) {
            let answer = share(whole, &part, rows, answer);
            self.keep.keep_rows(&part, batch.prefetched.as_ref(), &answer, asked);
        }
    }

    fn alone(&self) -> Option<Lead> {
        self.flight.leave_batch();
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
                self.land(answer, asked, BatchKind::None);
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
                pool.reject(self.flight.request());
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
                self.upstream_profile.learn_all(request.endpoint(), &rows);
            } else {
                self.upstream_profile.learn(request.endpoint(), &rows);
            }
            if let Some(pool) = self.flight.pool() {
                pool.has_learned();
            }
        }
    }

    fn land(&self, answer: Answer, asked: Option<Instant>, company: BatchKind) {
        let kept = asked
            .filter(|_| self.flight.is_storable())
            .and_then(|asked| self.keep.keep(self.flight.request(), &answer, asked));
        self.flight_table.remove(&self.flight);
        self.flight.land(FlightResponse { answer, kept, company });
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

impl Drop for FlightDriver {
    fn drop(&mut self) {
        if !*self.landed.get_mut() {
            self.flight_table.remove(&self.flight);
            self.flight.close();
        }
    }
}
