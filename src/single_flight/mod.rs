//! Single flight (request collapsing): one upstream call for all equal requests at the same time.
//!
//! The first request starts a flight; an equal request that comes before the flight ends joins it,
//! unless it would fare better alone: then it starts a flight of its own, and the first answer
//! serves both. The flight is a task of its own, so that the other waiters are not
//! affected when the first caller hangs up. Different requests that wait at the same time can be
//! united into one call, which is called batching (see `batcher.rs`). This module never answers
//! from memory, which is the task of the cache above it, and never decides when a call may leave,
//! which is the task of the queue below it.
//!
//! Who joins a call on the same replica fares no worse than if it had asked alone: it keeps its own
//! time, its own urgency and its own place in the order. So a request does not join a call that
//! still waits if it is more urgent, if the call leaves after its deadline, or if its own turn
//! would come clearly before, as far as that is known when it comes, or if the queue has no place
//! for the call; and it leaves a call that turns out to be too late, when the call gets a later
//! place or at the request's own deadline, and asks for itself (`patience.rs`). Then the queue
//! gives it a slot, or refuses it and says exactly which wait would have been enough, as it would
//! have done alone; nobody is refused here, nor in another name. An answer that is final only
//! because the leader was out of time, such as a 429, goes to those who are out of time too, and
//! the others go on with what it has taught the quota.
//!
//! What this costs is places in the queue and no calls: when one of the equal flights leaves, it
//! takes the others along, which give their places back and wait for its answer. If it brings none,
//! or not before it has to wait for a slot again, they take their places again, as if they had gone
//! on waiting, and ask for themselves; who is out of time by then is told what became of the call,
//! and waits for no further one. Each flight that begins because its turn comes before has its turn
//! clearly before, so there are few.
//!
//! Invariant: a waiter with `no-cache` is answered by a call that left after the waiter asked, and
//! no waiter gets an error that concerns another waiter only, as long as it does not concern all of
//! them.

mod batch_role;
mod batch_share;
mod batch_size;
mod batch_split;
mod batcher;
mod comparison;
mod driver;
mod error;
mod flight;
mod flight_table;
mod patience;
mod pending;
mod queueing;
mod rejected;
#[cfg(test)]
mod tests;
mod waiter;

use std::any::Any;
use std::fmt;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::BoxError;
use crate::attempt::Scarcity;
use crate::caller::Caller;
use crate::memory::AnswerMemory;
use crate::middleware::Middleware;
use crate::scan::{CacheSink, Call, Outcome, Payer, ServedResponse, SplitError, Status, UpstreamProfile};
use crate::task::Tasks;
use crate::telemetry::{Counters, metrics};

pub use batcher::BatchConfig;
pub use error::Shared;

use driver::{Below, FlightDriver};
use error::{FlightDropped, LeftBehind};
use flight::Flight;
use flight_table::{FlightTable, WaiterGuard};
use patience::Stay;
use waiter::{BatchKind, FlightResponse, ResultReceiver};

/// Forecasts of the queue and the quota, for calls charged to a payer.
#[derive(Clone)]
pub struct PredictedWait {
    /// How long a request of a new caller that comes now would wait for its slot.
    pub wait: Arc<dyn Fn(Payer) -> Duration + Send + Sync>,
    /// How long a request of this caller that comes now would wait for its slot.
    pub turn: PredictedTurn,
    /// How scarce slots are.
    pub scarcity: Arc<dyn Fn(Payer) -> Scarcity + Send + Sync>,
    /// How many slots there will be until a moment, whichever request gets them; counting stops at
    /// the given number.
    pub slots: Arc<dyn Fn(Payer, Instant, usize) -> usize + Send + Sync>,
    /// Whether there is quota to spare.
    pub has_surplus: Arc<dyn Fn(Payer) -> bool + Send + Sync>,
}

/// A forecast of the queue for one caller.
pub type PredictedTurn = Arc<dyn Fn(Payer, &Caller) -> Duration + Send + Sync>;

impl fmt::Debug for PredictedWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PredictedWait").finish_non_exhaustive()
    }
}

/// The settings of single flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The settings of batching.
    pub merge: BatchConfig,
    /// The longest that one attempt can take once it has left. The deadline of a request is about
    /// when its call leaves, so a request that has joined waits this much longer for the answer.
    pub attempt: Duration,
}

/// Gives what the service below needs in the background, which goes on while that is kept.
pub type KeepUp = Arc<dyn Fn() -> Box<dyn Any + Send> + Send + Sync>;

/// Makes one call for all equal requests at the same time. Clones share the flights.
#[derive(Clone)]
pub struct SingleFlight {
    config: Config,
    tasks: Tasks,
    keep_up: KeepUp,
    /// For the parts of the answers to batches; `None` when they are not counted.
    memory: Option<AnswerMemory>,
    cache_sink: Arc<dyn CacheSink>,
    predicted_wait: PredictedWait,
    flight_table: Arc<FlightTable>,
}

impl SingleFlight {
    /// Flights run as `tasks`. Their answers go to `cache_sink`, and `upstream_profile` learns from
    /// them; `predicted_wait` says when a request that leaves early should come back.
    pub fn new(
        config: Config,
        tasks: Tasks,
        cache_sink: Arc<dyn CacheSink>,
        upstream_profile: Arc<UpstreamProfile>,
        predicted_wait: PredictedWait,
        metrics: Metrics,
    ) -> Self {
        let flight_table = FlightTable::new(config.merge, upstream_profile, predicted_wait.clone(), metrics);
        Self {
            config,
            tasks,
            keep_up: Arc::new(|| Box::new(())),
            memory: None,
            cache_sink,
            predicted_wait,
            flight_table: Arc::new(flight_table),
        }
    }

    /// The same, where each flight keeps what `keep_up` gives until it ends: the request that began
    /// it may end before.
    pub fn keeping_up(self, keep_up: KeepUp) -> Self {
        Self { keep_up, ..self }
    }

    /// The same, where each part of the answer to a batch reserves its memory in `memory`.
    pub fn with_memory(self, memory: AnswerMemory) -> Self {
        Self {
            memory: Some(memory),
            ..self
        }
    }

    /// The metrics of batching.
    pub fn metrics(&self) -> Metrics {
        self.flight_table.metrics.clone()
    }

    /// The same with other settings, whose answers go to `cache_sink` and `upstream_profile`. Calls
    /// under way can still be joined if they are made as new ones are (`is_same_way`), unless other
    /// requests may now share calls.
    pub fn reconfigured(
        &self,
        config: Config,
        cache_sink: Arc<dyn CacheSink>,
        upstream_profile: Arc<UpstreamProfile>,
        is_same_way: bool,
    ) -> Self {
        let table = &self.flight_table;
        let is_same_profile = Arc::ptr_eq(&upstream_profile, &table.upstream_profile);
        let is_same = is_same_way && is_same_profile && config.merge.is_equivalent(&self.config.merge);
        let flight_table = if is_same {
            Arc::clone(table)
        } else {
            // A new batcher starts without a pause.
            table.metrics.resume();
            let (predicted_wait, metrics) = (self.predicted_wait.clone(), self.metrics());
            Arc::new(FlightTable::new(
                config.merge,
                upstream_profile,
                predicted_wait,
                metrics,
            ))
        };
        Self {
            config,
            cache_sink,
            flight_table,
            ..self.clone()
        }
    }
}

impl fmt::Debug for SingleFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SingleFlight")
            .field("config", &self.config)
            .field("flight_table", &self.flight_table)
            .finish_non_exhaustive()
    }
}

/// # Cancel safety
///
/// Dropping the future leaves the flight to the other waiters. If there are none and the call has
/// not left yet, the call is given up.
impl Middleware<Call, Below, ServedResponse, BoxError> for SingleFlight {
    async fn call(&self, call: Call, next: &Below) -> Result<ServedResponse, BoxError> {
        let mut left = Vec::new();
        loop {
            let (guard, receiver, is_new) = self.flight_table.join(&call, &left, &self.cache_sink);
            if !call.caller.cache_directives.no_store
                && let Some(observer) = self.cache_sink.observer(&call.request)
            {
                guard.flight.is_observed(observer);
            }
            let task = is_new.then(|| self.start(Arc::clone(&guard.flight), next.clone()));
            let result = if task.is_none() && self.predicted_wait.has_earlier_turn(&guard.flight, &call.caller) {
                Err(LeftBehind.into())
            } else {
                self.wait(&guard, receiver, &call.caller).await
            };
            match result {
                // Another may have become the leader before the one that began the call is told.
                Ok(response) => return Ok(served(&response, is_new || guard.leads())),
                Err(error) if error.is::<FlightDropped>() => return Err(lost(task, error).await),
                Err(error) if is_new || !LeftBehind::is(&error) => return Err(error),
                Err(_) => left.push(Arc::clone(&guard.flight)),
            }
        }
    }
}

impl SingleFlight {
    /// Starts a new flight.
    fn start(&self, flight: Arc<Flight>, next: Below) -> JoinHandle<()> {
        let driver = FlightDriver {
            flight_table: Arc::clone(&self.flight_table),
            flight,
            memory: self.memory.clone(),
        };
        let kept_up = (self.keep_up)();
        self.tasks.spawn("flight", async move {
            driver.run(next).await;
            drop(kept_up);
        })
    }

    /// Waits for a flight, as long as it is as good for the caller as one of its own.
    async fn wait(
        &self,
        guard: &WaiterGuard,
        mut receiver: ResultReceiver,
        caller: &Caller,
    ) -> Result<Arc<FlightResponse>, BoxError> {
        let deadline = caller.deadline.max(Instant::now());
        let mut until = deadline;
        loop {
            tokio::select! {
                biased;
                result = &mut receiver => return Ok(result.map_err(|_| FlightDropped)??),
                () = sleep_until(until) => {}
            }
            let now = Instant::now();
            match guard.flight.stay(guard.id, deadline, self.config.attempt, now) {
                Stay::ToTheEnd => break,
                Stay::Until(later) if later > now => until = later,
                Stay::Until(_) => return Err(LeftBehind.into()),
            }
        }
        Ok(receiver.await.map_err(|_| FlightDropped)??)
    }
}

metrics! {
    /// The counters of batches. Clones count together.
    #[derive(Clone, Debug)]
    pub struct Metrics {
        /// Upstream calls that asked for several requests at once.
        merged_calls: Counter = "merged_calls",
        /// Requests answered by such calls.
        merged_requests: Counter = "merged_requests",
        /// Upstream calls for ids that requests lacked.
        calls_by_id: Counter = "calls_by_id",
        /// Ids that upstream calls asked for because requests lacked them.
        asked_ids: Counter = "asked_ids",
        /// Such calls whose answer could not be taken apart with certainty.
        split_errors: Counters<SplitError> = "merge_doubts" => by("reason"),
        /// 1 from the doubt that switched merging off until a merged call goes well again.
        paused: Gauge = "merge_resting",
        pause: Arc<Mutex<Option<(Instant, SplitError)>>>,
    }
}

impl Metrics {
    /// Upstream calls that asked for several requests at once.
    pub fn merged_calls(&self) -> u64 {
        self.merged_calls.get()
    }

    /// Requests answered by such calls.
    pub fn merged_requests(&self) -> u64 {
        self.merged_requests.get()
    }

    /// How much longer batching is paused, and the failed split that paused it; `None` when it is
    /// not paused.
    pub fn resting(&self) -> Option<(Duration, SplitError)> {
        let (until, split_error) = (*self.pause.lock().unwrap_or_else(PoisonError::into_inner))?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some((left, split_error))
    }

    fn pause(&self, until: Instant, split_error: SplitError) {
        self.paused.set(1);
        *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = Some((until, split_error));
    }

    fn resume(&self) {
        self.paused.set(0);
        *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Upstream calls for ids that requests lacked, and how many ids these were.
    pub fn asked_ids(&self) -> (u64, u64) {
        (self.calls_by_id.get(), self.asked_ids.get())
    }
}

/// The error of a waiter whose flight ended without a result. A panic of the flight goes on in the
/// request that started it, so that the request is counted as one that panicked.
async fn lost(task: Option<JoinHandle<()>>, error: BoxError) -> BoxError {
    if let Some(task) = task
        && let Err(ended) = task.await
        && let Ok(panic) = ended.try_into_panic()
    {
        resume_unwind(panic);
    }
    error
}

fn served(response: &FlightResponse, leads: bool) -> ServedResponse {
    let FlightResponse {
        answer,
        kept,
        batch_kind,
    } = response;
    let is_batch = matches!(batch_kind, BatchKind::Carrier | BatchKind::Member);
    let is_others = matches!(batch_kind, BatchKind::Member | BatchKind::Equal);
    ServedResponse {
        may_link: true,
        answer: answer.clone(),
        outcome: if is_batch {
            Outcome::Merged
        } else if leads && !is_others {
            Outcome::Forwarded
        } else {
            Outcome::Collapsed
        },
        status: Status {
            stored: kept.is_some(),
            ttl: kept.map(|ttl| i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)),
            collapsed: !leads || is_others,
            detail: is_batch.then_some("merged"),
            ..Status::default()
        },
        age: Some(answer.age()).filter(|age| !age.is_zero()),
    }
}
