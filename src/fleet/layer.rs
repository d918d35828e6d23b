//! The service that looks for other replicas' answers.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, Either};
use http::StatusCode;
use tokio::time::{Instant, sleep_until};
use tower::{Service, ServiceExt as _};

use super::bell::{Bells, Word};
use super::board::{Board, Standing};
use super::depot::{Depot, Found, Regard, Sight};
use super::inquiry::{Means, Outcome, inquire};
use super::metrics::Lookup;
use super::outbox::{Outbox, deliver};
use super::upkeep::listen;
use super::{Config, Metrics};
use crate::BoxError;
use crate::scan::{self, Answer, Call, Request, ResponseKind, Served, Status};
use crate::task::Tasks;

/// When an answer was asked for and came, in this process's time, and for how long from then on it is fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// When the call left.
    pub asked: Instant,
    /// When its answer came.
    pub stored: Instant,
    /// How long it is fresh from then on.
    pub ttl: Duration,
}

/// Puts an answer of another replica into this one's memory.
pub type Adopt = Arc<dyn Fn(&Request, &Life, &Answer) + Send + Sync>;

/// This process as one of the fleet. Clones are the same member.
#[derive(Clone, Debug)]
pub struct Member(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) config: Config,
    pub(super) depot: Depot,
    pub(super) board: Arc<Board>,
    pub(super) bells: Arc<Bells>,
    pub(super) outbox: Outbox,
    pub(super) adopt: Adopt,
    pub(super) metrics: Metrics,
    pub(super) tasks: Tasks,
}

impl Member {
    /// Joins. Connecting and listening go on in the background, as `tasks`; nothing waits for them.
    #[must_use]
    pub fn join(config: Config, adopt: Adopt, tasks: &Tasks, metrics: Metrics) -> Self {
        let (outbox, parcels) = Outbox::new(metrics.clone());
        let inner = Arc::new(Inner {
            depot: Depot::new(config.clone(), tasks, metrics.clone()),
            config,
            board: Arc::default(),
            bells: Arc::default(),
            outbox,
            adopt,
            metrics,
            tasks: tasks.clone(),
        });
        tasks.spawn_upkeep("shared answers: listening", listen(Arc::clone(&inner)));
        tasks.spawn("shared answers: writing", deliver(Arc::clone(&inner), parcels));
        Self(inner)
    }

    /// What `/status` shows.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let metrics = &self.0.metrics;
        Snapshot {
            up: self.0.depot.is_up(),
            hits: metrics.looked_up(Lookup::Hit),
            followed: metrics.looked_up(Lookup::Followed),
            led: metrics.looked_up(Lookup::Led),
            alone: metrics.looked_up(Lookup::Alone),
            written: metrics.written(),
            unreadable: metrics.unreadable(),
        }
    }

    /// The outcome for one call, waited for no longer than its caller would wait for a slot.
    async fn inquire(&self, call: &Call) -> Outcome {
        let inner = &self.0;
        let name = inner.config.name(call.request.key());
        if call.caller.freshness.no_store {
            // It may take what is there, but others would wait in vain for what it gets.
            return match inner
                .depot
                .look(call.request.endpoint(), &name, None, Regard::Answers)
                .await
            {
                Sight::Found(found) => Outcome::Found(Arc::new(found), Means::Look),
                _ => Outcome::Alone,
            };
        }
        let standing = inner.board.stand(call.request.key(), |entry| {
            Box::pin(inquire(Arc::clone(inner), Arc::clone(&call.request), name, entry))
        });
        let inquiry = match standing {
            Standing::Led(lease) => return Outcome::Led(lease),
            Standing::Asking(inquiry) => inquiry,
        };
        // Who would not wait at all for a slot still gives the store the time to say what it has.
        let until = call.caller.deadline.max(Instant::now() + inner.config.look);
        tokio::select! {
            biased;
            outcome = inquiry => outcome,
            () = sleep_until(until) => Outcome::Alone,
        }
    }
}

/// What sharing has done so far, for `/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Whether answers are being shared; not while the store is left alone after a failure.
    pub up: bool,
    /// Requests answered by what was in the store.
    pub hits: u64,
    /// Requests answered by a call that another replica was making.
    pub followed: u64,
    /// Requests for which this replica asked, for all.
    pub led: u64,
    /// Requests for which it asked for itself.
    pub alone: u64,
    /// Answers written.
    pub written: u64,
    /// Values in the store that could not be used.
    pub unreadable: u64,
}

/// Puts the fleet in front of a service.
#[derive(Clone, Debug)]
pub struct Layer(Option<Member>);

impl Layer {
    /// Answers of others are had through `member`.
    #[must_use]
    pub fn new(member: Member) -> Self {
        Self(Some(member))
    }

    /// This process shares nothing.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Fleet<S>;

    fn layer(&self, inner: S) -> Fleet<S> {
        Fleet {
            member: self.0.clone(),
            inner,
        }
    }
}

/// Answers from the store, or waits for another replica's call, or asks the service below, which must be always ready.
#[derive(Clone, Debug)]
pub struct Fleet<S> {
    member: Option<Member>,
    inner: S,
}

impl<S> Service<Call> for Fleet<S>
where
    S: Service<Call, Response = Served, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Served;
    type Error = BoxError;
    type Future = Either<S::Future, BoxFuture<'static, Result<Served, BoxError>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    /// # Cancel safety
    ///
    /// Dropping the future leaves the look to the others, and gives a lease back if there are none.
    fn call(&mut self, call: Call) -> Self::Future {
        // An answer to a later question is wanted, or one that nobody else may see.
        let own = call.caller.freshness.no_cache || call.request.holder().is_some();
        match &self.member {
            Some(member) if !own => Either::Right(Box::pin(run(member.clone(), self.inner.clone(), call))),
            _ => Either::Left(self.inner.call(call)),
        }
    }
}

async fn run<S>(member: Member, below: S, call: Call) -> Result<Served, BoxError>
where
    S: Service<Call, Response = Served, Error = BoxError>,
{
    let metrics = &member.0.metrics;
    match member.inquire(&call).await {
        Outcome::Found(found, means) if found.suits(&call.caller.freshness, Instant::now()) => {
            metrics.looked(match means {
                Means::Look => Lookup::Hit,
                Means::Wait => Lookup::Followed,
            });
            Ok(served(&found, means, Instant::now()))
        }
        Outcome::Led(lease) => {
            metrics.looked(Lookup::Led);
            let endpoint = call.request.endpoint();
            let result = below.oneshot(call).await;
            // What was kept has ended the lease when it was written. An error may be this caller's only: the call goes on for others.
            if let Ok(served) = &result {
                let is_rows = served.answer.status == StatusCode::OK
                    && (served.status.stored || ResponseKind::of(endpoint, &served.answer).is_answer());
                lease.end(if is_rows { Word::Alone } else { Word::Failed });
            }
            result
        }
        Outcome::Found(..) | Outcome::Alone => {
            metrics.looked(Lookup::Alone);
            below.oneshot(call).await
        }
    }
}

fn served(found: &Found, means: Means, now: Instant) -> Served {
    let age = found.age(now);
    let left = found.ttl.saturating_sub(age).as_secs();
    Served {
        may_link: true,
        answer: found.answer.clone(),
        outcome: match means {
            Means::Look => scan::Outcome::Hit,
            Means::Wait => scan::Outcome::Collapsed,
        },
        status: Status {
            ttl: Some(i64::try_from(left).unwrap_or(i64::MAX)),
            collapsed: means == Means::Wait,
            stored: means == Means::Wait,
            detail: Some("shared"),
            ..Status::default()
        },
        age: Some(age),
    }
}

impl Found {
    pub(super) fn life(&self) -> Life {
        Life {
            asked: self.asked,
            stored: self.stored,
            ttl: self.ttl,
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
