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
use crate::coalesce::board::{Board, Boarding, Seat};
use crate::coalesce::flight::Stage;
use crate::coalesce::journey::Journey;
use crate::coalesce::lead::Lead;
use crate::coalesce::merge::Pool;
use crate::coalesce::news::{Arrival, Company, Inbox, Role};
use crate::coalesce::{Lost, Merge, Metrics, Overdue};
use crate::scan::{Answer, Call, Keep, Lore, Outcome, Payer, Served, Status};
use crate::task::Tasks;

/// What those who share calls need to know of slots, for calls that are paid for so.
#[derive(Clone)]
pub struct Outlook {
    /// How long a request that comes now would wait for its slot.
    pub wait: Arc<dyn Fn(Payer) -> Duration + Send + Sync>,
    /// How scarce slots are.
    pub scarcity: Arc<dyn Fn(Payer) -> Scarcity + Send + Sync>,
    /// How many slots come until a moment, whoever gets them, as far as the given number.
    pub slots: Arc<dyn Fn(Payer, Instant, usize) -> usize + Send + Sync>,
}

impl fmt::Debug for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlook").finish_non_exhaustive()
    }
}

/// The settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How questions are united; `None` when they are not.
    pub merge: Option<Merge>,
    /// The longest that one attempt can take once it has left. Who has joined waits that long past the deadline, which is about leaving.
    pub attempt: Duration,
}

/// Puts shared calls in front of the service that makes them.
#[derive(Clone)]
pub struct Layer {
    ground: Arc<Ground>,
    board: Arc<Board>,
}

/// What all flights have in common.
struct Ground {
    config: Config,
    tasks: Tasks,
    keep: Arc<dyn Keep>,
    lore: Arc<Lore>,
    outlook: Outlook,
    metrics: Metrics,
}

impl Ground {
    fn board(&self) -> Board {
        let pool = |merge| {
            let (keep, lore) = (Arc::clone(&self.keep), Arc::clone(&self.lore));
            Arc::new(Pool::new(merge, keep, lore, self.outlook.clone(), self.metrics.clone()))
        };
        Board::new(self.config.merge.map(pool))
    }
}

impl Layer {
    /// Flights that their first waiter leaves run as `tasks`. They give their answers to `keep` and learn from them for `lore`; `outlook`
    /// tells those who leave early when to come back.
    #[must_use]
    pub fn new(
        config: Config,
        tasks: Tasks,
        keep: Arc<dyn Keep>,
        lore: Arc<Lore>,
        outlook: Outlook,
        metrics: Metrics,
    ) -> Self {
        let ground = Ground {
            config,
            tasks,
            keep,
            lore,
            outlook,
            metrics,
        };
        Self {
            board: Arc::new(ground.board()),
            ground: Arc::new(ground),
        }
    }

    /// Where the flights are counted.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.ground.metrics.clone()
    }

    /// A layer with other settings that gives its answers to `keep` and learns for `lore`. Calls under way can still be joined, unless it is
    /// now another matter who may share one.
    #[must_use]
    pub fn reconfigured(&self, config: Config, keep: Arc<dyn Keep>, lore: Arc<Lore>) -> Self {
        let old = &self.ground;
        let ground = Ground {
            config,
            tasks: old.tasks.clone(),
            outlook: old.outlook.clone(),
            metrics: old.metrics.clone(),
            keep,
            lore,
        };
        let is_same = config.merge == old.config.merge && Arc::ptr_eq(&ground.lore, &old.lore);
        Self {
            board: if is_same {
                Arc::clone(&self.board)
            } else {
                // Whoever meets anew has nothing to rest from.
                ground.metrics.go_on();
                Arc::new(ground.board())
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
    type Service = Flights<S>;

    fn layer(&self, inner: S) -> Flights<S> {
        Flights {
            ground: Arc::clone(&self.ground),
            board: Arc::clone(&self.board),
            inner,
        }
    }
}

/// Makes one call for all who ask the same at the same time. It is always ready; clones share the flights.
#[derive(Clone)]
pub struct Flights<S> {
    ground: Arc<Ground>,
    board: Arc<Board>,
    inner: S,
}

impl<S> Flights<S> {
    /// How many questions have a call under way that may be joined.
    #[must_use]
    pub fn len(&self) -> usize {
        self.board.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<S> fmt::Debug for Flights<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights")
            .field("board", &self.board)
            .finish_non_exhaustive()
    }
}

impl<S> Service<Call> for Flights<S>
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
        let Boarding { seat, inbox, start } = self.board.board(&call.request, &call.caller);
        if let Some(flight) = start {
            let journey = Journey::new(
                Arc::clone(&self.board),
                flight,
                Arc::clone(&self.ground.keep),
                Arc::clone(&self.ground.lore),
            );
            let journey = journey.run(self.inner.clone());
            return Either::Left(Lead::new(seat, inbox, journey, self.ground.tasks.clone()));
        }
        Either::Right(Box::pin(wait(seat, inbox, call.caller, Arc::clone(&self.ground))))
    }
}

/// Waits for a flight, for as long as its caller would wait for a call of its own.
async fn wait(seat: Seat, mut inbox: Inbox, caller: Arc<Caller>, ground: Arc<Ground>) -> Result<Served, BoxError> {
    let mut until = caller.deadline;
    let news = loop {
        tokio::select! {
            biased;
            news = &mut inbox => break news.map_err(|_| Lost)?,
            () = sleep_until(until) => {}
        }
        // The queue itself refuses the lead, and says exactly when to come back.
        if seat.flight.is_led_by(seat.id) {
            break inbox.await.map_err(|_| Lost)?;
        }
        match seat.flight.stage() {
            Stage::Departed(at) if at + ground.config.attempt > until => until = at + ground.config.attempt,
            // The news is being handed out.
            Stage::Over => break inbox.await.map_err(|_| Lost)?,
            Stage::Waiting | Stage::Departed(_) => {
                let retry_after = (ground.outlook.wait)(seat.flight.request().payer());
                return Err(Overdue { retry_after }.into());
            }
        }
    };
    Ok(served(&news?))
}

pub(super) fn served(arrival: &Arrival) -> Served {
    let landing = &arrival.landing;
    let joined = arrival.role == Role::Joined;
    Served {
        may_link: true,
        answer: landing.answer.clone(),
        outcome: match arrival.role {
            _ if landing.company != Company::None => Outcome::Merged,
            Role::Joined => Outcome::Collapsed,
            Role::Lead => Outcome::Forwarded,
        },
        status: Status {
            stored: landing.kept.is_some(),
            ttl: landing.kept.map(|ttl| i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)),
            collapsed: joined || landing.company == Company::Passenger,
            detail: (landing.company != Company::None).then_some("merged"),
            ..Status::default()
        },
        age: Some(landing.answer.age()).filter(|age| !age.is_zero()),
    }
}
