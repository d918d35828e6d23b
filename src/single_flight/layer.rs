//! The service that lets requests share calls.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, Either};
use tokio::time::{Instant, sleep_until};
use tower::Service;

use crate::BoxError;
use crate::attempt::{Scarcity, Try};
use crate::caller::Caller;
use crate::scan::{Answer, Call, Keep, Outcome, Payer, Served, Status, UpstreamProfile};
use crate::single_flight::batcher::Batcher;
use crate::single_flight::driver::FlightDriver;
use crate::single_flight::flight::Stage;
use crate::single_flight::flight_result::{BatchKind, ResultReceiver, WaiterResponse, WaiterRole};
use crate::single_flight::flight_table::{FlightTable, Joined, WaiterGuard};
use crate::single_flight::lead::Lead;
use crate::single_flight::{BatchConfig, DeadlineExceeded, FlightDropped, Metrics};
use crate::task::Tasks;

/// What those who share calls need to know of slots, for calls that are paid for so.
#[derive(Clone)]
pub struct PredictedWait {
    /// How long a request that comes now would wait for its slot.
    pub wait: Arc<dyn Fn(Payer) -> Duration + Send + Sync>,
    /// How scarce slots are.
    pub scarcity: Arc<dyn Fn(Payer) -> Scarcity + Send + Sync>,
    /// How many slots come until a moment, whoever gets them, as far as the given number.
    pub slots: Arc<dyn Fn(Payer, Instant, usize) -> usize + Send + Sync>,
}

impl fmt::Debug for PredictedWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlook").finish_non_exhaustive()
    }
}

/// The settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How questions are united; `None` when they are not.
    pub merge: Option<BatchConfig>,
    /// The longest that one attempt can take once it has left. Who has joined waits that long past the deadline, which is about leaving.
    pub attempt: Duration,
}

/// Puts shared calls in front of the service that makes them.
#[derive(Clone)]
pub struct Layer {
    ground: Arc<Shared>,
    flight_table: Arc<FlightTable>,
}

/// What all flights have in common.
struct Shared {
    config: Config,
    tasks: Tasks,
    keep: Arc<dyn Keep>,
    upstream_profile: Arc<UpstreamProfile>,
    outlook: PredictedWait,
    metrics: Metrics,
}

impl Shared {
    fn join(&self) -> FlightTable {
        let pool = |merge| {
            let (keep, upstream_profile) = (Arc::clone(&self.keep), Arc::clone(&self.upstream_profile));
            Arc::new(Batcher::new(
                merge,
                keep,
                upstream_profile,
                self.outlook.clone(),
                self.metrics.clone(),
            ))
        };
        FlightTable::new(self.config.merge.map(pool))
    }
}

impl Layer {
    /// Flights that their first waiter leaves run as `tasks`. They give their answers to `keep` and learn from them for `upstream_profile`; `outlook`
    /// tells those who leave early when to come back.
    #[must_use]
    pub fn new(
        config: Config,
        tasks: Tasks,
        keep: Arc<dyn Keep>,
        upstream_profile: Arc<UpstreamProfile>,
        outlook: PredictedWait,
        metrics: Metrics,
    ) -> Self {
        let ground = Shared {
            config,
            tasks,
            keep,
            upstream_profile,
            outlook,
            metrics,
        };
        Self {
            flight_table: Arc::new(ground.join()),
            ground: Arc::new(ground),
        }
    }

    /// Where the flights are counted.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.ground.metrics.clone()
    }

    /// A layer with other settings that gives its answers to `keep` and learns for `upstream_profile`. Calls under way can still be joined, unless it is
    /// now another matter who may share one.
    #[must_use]
    pub fn reconfigured(&self, config: Config, keep: Arc<dyn Keep>, upstream_profile: Arc<UpstreamProfile>) -> Self {
        let old = &self.ground;
        let ground = Shared {
            config,
            tasks: old.tasks.clone(),
            outlook: old.outlook.clone(),
            metrics: old.metrics.clone(),
            keep,
            upstream_profile,
        };
        let is_same = config.merge == old.config.merge && Arc::ptr_eq(&ground.upstream_profile, &old.upstream_profile);
        Self {
            flight_table: if is_same {
                Arc::clone(&self.flight_table)
            } else {
                // Whoever meets anew has nothing to rest from.
                ground.metrics.go_on();
                Arc::new(ground.join())
            },
            ground: Arc::new(ground),
        }
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer")
            .field("config", &self.ground.config)
            .finish_non_exhaustive()
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = SingleFlight<S>;

    fn layer(&self, inner: S) -> SingleFlight<S> {
        SingleFlight {
            ground: Arc::clone(&self.ground),
            flight_table: Arc::clone(&self.flight_table),
            inner,
        }
    }
}

/// Makes one call for all who ask the same at the same time. It is always ready; clones share the flights.
#[derive(Clone)]
pub struct SingleFlight<S> {
    ground: Arc<Shared>,
    flight_table: Arc<FlightTable>,
    inner: S,
}

impl<S> SingleFlight<S> {
    /// How many questions have a call under way that may be joined.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flight_table.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<S> fmt::Debug for SingleFlight<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights")
            .field("board", &self.flight_table)
            .finish_non_exhaustive()
    }
}

impl<S> Service<Call> for SingleFlight<S>
where
    S: Service<Try, Response = Answer, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Served;
    type Error = BoxError;
    type Future = Either<Lead, BoxFuture<'static, Result<Served, BoxError>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    /// # Cancel safety
    ///
    /// Dropping the future leaves the flight to the others; if there are none and the call has not left yet, the call is given up.
    fn call(&mut self, call: Call) -> Self::Future {
        let Joined { seat, inbox, start } = self.flight_table.join(&call.request, &call.caller);
        if let Some(flight) = start {
            let driver = FlightDriver::new(
                Arc::clone(&self.flight_table),
                flight,
                Arc::clone(&self.ground.keep),
                Arc::clone(&self.ground.upstream_profile),
            );
            let driver = driver.run(self.inner.clone());
            return Either::Left(Lead::new(seat, inbox, driver, self.ground.tasks.clone()));
        }
        Either::Right(Box::pin(wait(seat, inbox, call.caller, Arc::clone(&self.ground))))
    }
}

/// Waits for a flight, for as long as its caller would wait for a call of its own.
async fn wait(
    seat: WaiterGuard,
    mut inbox: ResultReceiver,
    caller: Arc<Caller>,
    ground: Arc<Shared>,
) -> Result<Served, BoxError> {
    let mut until = caller.deadline;
    let flight_result = loop {
        tokio::select! {
            biased;
            flight_result = &mut inbox => break flight_result.map_err(|_| FlightDropped)?,
            () = sleep_until(until) => {}
        }
        // The queue itself refuses the lead, and says exactly when to come back.
        if seat.flight.is_led_by(seat.id) {
            break inbox.await.map_err(|_| FlightDropped)?;
        }
        match seat.flight.stage() {
            Stage::Departed(at) if at + ground.config.attempt > until => until = at + ground.config.attempt,
            // The news is being handed out.
            Stage::Over => break inbox.await.map_err(|_| FlightDropped)?,
            Stage::Waiting | Stage::Departed(_) => {
                let retry_after = (ground.outlook.wait)(seat.flight.request().payer());
                return Err(DeadlineExceeded { retry_after }.into());
            }
        }
    };
    Ok(served(&flight_result?))
}

pub(super) fn served(arrival: &WaiterResponse) -> Served {
    let landing = &arrival.landing;
    let joined = arrival.role == WaiterRole::Joined;
    Served {
        may_link: true,
        answer: landing.answer.clone(),
        outcome: match arrival.role {
            _ if landing.company != BatchKind::None => Outcome::Merged,
            WaiterRole::Joined => Outcome::Collapsed,
            WaiterRole::Lead => Outcome::Forwarded,
        },
        status: Status {
            stored: landing.kept.is_some(),
            ttl: landing.kept.map(|ttl| i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)),
            collapsed: joined || landing.company == BatchKind::BatchMember,
            detail: (landing.company != BatchKind::None).then_some("merged"),
            ..Status::default()
        },
        age: Some(landing.answer.age()).filter(|age| !age.is_zero()),
    }
}
