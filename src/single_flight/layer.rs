//! Single flight as a layer.

use std::fmt;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::BoxError;
use crate::attempt::Scarcity;
use crate::caller::Caller;
use crate::middleware::Middleware;
use crate::scan::{CacheSink, Call, Outcome, Payer, ServedResponse, Status, UpstreamProfile};
use crate::single_flight::driver::{Below, FlightDriver};
use crate::single_flight::flight::Stage;
use crate::single_flight::flight_table::{FlightTable, Joined, WaiterGuard};
use crate::single_flight::waiter::{BatchKind, FlightResponse, ResultReceiver, WaiterRole};
use crate::single_flight::{BatchConfig, DeadlineExceeded, FlightDropped, Metrics};
use crate::task::Tasks;

/// Forecasts of the queue and the quota, for calls charged to a payer.
#[derive(Clone)]
pub struct PredictedWait {
    /// How long a request that comes now would wait for its slot.
    pub wait: Arc<dyn Fn(Payer) -> Duration + Send + Sync>,
    /// How scarce slots are.
    pub scarcity: Arc<dyn Fn(Payer) -> Scarcity + Send + Sync>,
    /// How many slots there will be until a moment, whichever request gets them; counting stops at
    /// the given number.
    pub slots: Arc<dyn Fn(Payer, Instant, usize) -> usize + Send + Sync>,
    /// Whether there is quota to spare.
    pub has_surplus: Arc<dyn Fn(Payer) -> bool + Send + Sync>,
}

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

/// Makes one call for all equal requests at the same time. Clones share the flights.
#[derive(Clone)]
pub struct SingleFlight {
    config: Config,
    tasks: Tasks,
    cache_sink: Arc<dyn CacheSink>,
    predicted_wait: PredictedWait,
    pub(super) flight_table: Arc<FlightTable>,
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
            cache_sink,
            predicted_wait,
            flight_table: Arc::new(flight_table),
        }
    }

    /// The metrics of batching.
    pub fn metrics(&self) -> Metrics {
        self.flight_table.metrics.clone()
    }

    /// The same with other settings, whose answers go to `cache_sink` and `upstream_profile`. Calls
    /// under way can still be joined, unless other requests may now share calls.
    pub fn reconfigured(
        &self,
        config: Config,
        cache_sink: Arc<dyn CacheSink>,
        upstream_profile: Arc<UpstreamProfile>,
    ) -> Self {
        let (before, table) = (self.clone(), &self.flight_table);
        if config.merge.is_equivalent(&before.config.merge) && Arc::ptr_eq(&upstream_profile, &table.upstream_profile) {
            return Self {
                config,
                cache_sink,
                ..before
            };
        }
        // A new batcher starts without a pause.
        table.metrics.resume();
        let (tasks, predicted_wait) = (before.tasks, before.predicted_wait);
        Self::new(
            config,
            tasks,
            cache_sink,
            upstream_profile,
            predicted_wait,
            self.metrics(),
        )
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
        let Joined { guard, receiver, start } = self.flight_table.join(&call, &self.cache_sink);
        let task = start.map(|flight| {
            let flight_table = Arc::clone(&self.flight_table);
            let driver = FlightDriver { flight_table, flight };
            self.tasks.spawn("flight", driver.run(next.clone()))
        });
        match self.wait(&guard, receiver, &call.caller).await {
            Ok(response) => Ok(served(&response, guard.role())),
            Err(error) if error.is::<FlightDropped>() => Err(lost(task, error).await),
            Err(error) => Err(error),
        }
    }
}

impl SingleFlight {
    /// Waits for a flight, for as long as its caller would wait for a call of its own.
    async fn wait(
        &self,
        guard: &WaiterGuard,
        mut receiver: ResultReceiver,
        caller: &Caller,
    ) -> Result<Arc<FlightResponse>, BoxError> {
        let mut until = caller.deadline;
        loop {
            tokio::select! {
                biased;
                result = &mut receiver => return Ok(result.map_err(|_| FlightDropped)??),
                () = sleep_until(until) => {}
            }
            match guard.flight.stage() {
                // The queue itself rejects the leader's call, and says exactly when to come back.
                _ if guard.flight.is_leader(guard.id) => break,
                Stage::Departed(at) if at + self.config.attempt > until => until = at + self.config.attempt,
                // The result is just being sent.
                Stage::Over => break,
                Stage::Waiting | Stage::Departed(_) => {
                    let retry_after = (self.predicted_wait.wait)(guard.flight.request().payer());
                    return Err(DeadlineExceeded { retry_after }.into());
                }
            }
        }
        Ok(receiver.await.map_err(|_| FlightDropped)??)
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

fn served(response: &FlightResponse, role: WaiterRole) -> ServedResponse {
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
        outcome: match role {
            _ if is_batch => Outcome::Merged,
            WaiterRole::Leader if !is_others => Outcome::Forwarded,
            WaiterRole::Leader | WaiterRole::Joined => Outcome::Collapsed,
        },
        status: Status {
            stored: kept.is_some(),
            ttl: kept.map(|ttl| i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)),
            collapsed: role == WaiterRole::Joined || is_others,
            detail: is_batch.then_some("merged"),
            ..Status::default()
        },
        age: Some(answer.age()).filter(|age| !age.is_zero()),
    }
}
