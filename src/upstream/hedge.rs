//! A second attempt at another region when the first one is late.

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Either, select};
use tokio::time::{Instant, sleep_until};
use tower::{Layer, Service, ServiceExt as _};

use crate::attempt::{Failure, Granted, Leg, Load, Route, Try};
use crate::caller::Name;
use crate::scan::{Answer, Holder, Request};
use crate::telemetry::trace;
use crate::upstream::Metrics;
use crate::upstream::metrics::Hedge as Outcome;
use crate::upstream::retry::is_server_trouble;
use crate::upstream::usual::Usual;

/// Where the slot for a second attempt comes from, with the token of that holder: one that nobody waits for, or `None`.
pub type Spare<P> = Arc<dyn Fn(Option<Holder>) -> Option<P> + Send + Sync>;

/// Puts [`Hedge`] in front of a service. `P` is the quota's permit.
pub struct HedgeLayer<P> {
    on: Option<Arc<On<P>>>,
}

struct On<P> {
    spare: Spare<P>,
    usual: Mutex<Usual>,
    metrics: Metrics,
}

impl<P> HedgeLayer<P> {
    /// Passes everything on.
    #[must_use]
    pub fn off() -> Self {
        Self { on: None }
    }

    /// Pays for second attempts with what `spare` gives.
    #[must_use]
    pub fn new(spare: Spare<P>, metrics: Metrics) -> Self {
        Self {
            on: Some(Arc::new(On {
                spare,
                usual: Mutex::default(),
                metrics,
            })),
        }
    }
}

impl<P, S> Layer<S> for HedgeLayer<P> {
    type Service = Hedge<P, S>;

    fn layer(&self, inner: S) -> Hedge<P, S> {
        Hedge {
            inner,
            layer: self.clone(),
        }
    }
}

/// When an answer is later than 95 % of its host's answers, asks another region the same thing, once, if the quota has a slot to spare.
///
/// The first good answer wins. The other attempt is dropped, and its permit with it, which keeps it charged: it may have arrived.
pub struct Hedge<P, S> {
    inner: S,
    layer: HedgeLayer<P>,
}

impl<P, S> Service<Granted<P>> for Hedge<P, S>
where
    P: Send + 'static,
    S: Service<Granted<P>, Response = Answer, Error = Failure> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = Failure;
    type Future = Either<S::Future, BoxFuture<'static, Result<Answer, Failure>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, granted: Granted<P>) -> Self::Future {
        let Some(on) = self.layer.on.clone() else {
            return Either::Left(self.inner.call(granted));
        };
        let attempt = Try {
            load: Arc::new(Bound {
                load: granted.attempt.load,
                request: OnceLock::new(),
            }),
            ..granted.attempt
        };
        let route = granted.route.watched();
        let first = self.inner.call(Granted {
            attempt: attempt.clone(),
            permit: granted.permit,
            route: route.clone(),
        });
        Either::Right(on.run(first, route, attempt, self.inner.clone()).boxed())
    }
}

impl<P> On<P> {
    async fn run<S>(self: Arc<Self>, first: S::Future, route: Route, attempt: Try, inner: S) -> Result<Answer, Failure>
    where
        S: Service<Granted<P>, Response = Answer, Error = Failure>,
    {
        let mut first = pin!(first);
        let late = tokio::select! {
            biased;
            result = first.as_mut() => {
                self.learn(&route, &result);
                return result;
            }
            late = self.overdue(&route) => late,
        };
        let Some(permit) = self.spare(&attempt) else {
            let result = first.await;
            self.learn(&route, &result);
            return result;
        };
        let request_id = attempt.caller.request_id.as_str();
        tracing::debug!(request_id, late_at = late.base.host_str(), "a second attempt elsewhere");
        let second_route = Route::avoiding(late.base);
        let second = pin!(inner.oneshot(Granted {
            attempt: attempt.clone(),
            permit,
            route: second_route.clone(),
        }));
        let (first, second) = match select(first, second).await {
            Either::Left((result, second)) => {
                self.learn(&route, &result);
                if is_good(&result) {
                    self.give_up(&second_route, Outcome::Lost);
                    return result;
                }
                let other = second.await;
                self.learn(&second_route, &other);
                (result, other)
            }
            Either::Right((result, first)) => {
                self.learn(&second_route, &result);
                if is_good(&result) {
                    self.give_up(&route, Outcome::Won);
                    return result;
                }
                let other = first.await;
                self.learn(&route, &other);
                (other, result)
            }
        };
        self.metrics.hedged(match (is_good(&first), is_good(&second)) {
            (true, _) => Outcome::Lost,
            (false, true) => Outcome::Won,
            (false, false) => Outcome::Failed,
        });
        if is_better(&second, &first) { second } else { first }
    }

    /// Resolves when the attempt has been at its host for longer than usual.
    async fn overdue(&self, route: &Route) -> Leg {
        loop {
            let leg = route.leg();
            let overdue = async {
                let at = leg.as_ref().and_then(|leg| self.usual().overdue(leg));
                match (leg.clone(), at) {
                    (Some(leg), Some(at)) => {
                        sleep_until(at).await;
                        leg
                    }
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                leg = overdue => return leg,
                () = route.turned() => {}
            }
        }
    }

    /// A slot for a second attempt that could still start in time.
    fn spare(&self, attempt: &Try) -> Option<P> {
        (Instant::now() <= attempt.caller.deadline)
            .then(|| (self.spare)(attempt.load.holder()))
            .flatten()
    }

    /// Remembers how long an answer took.
    fn learn(&self, route: &Route, result: &Result<Answer, Failure>) {
        let Some(leg) = route.leg() else { return };
        let now = Instant::now();
        match result {
            Ok(answer) if answer.status.is_success() => self.usual().answered(&leg, now),
            // Errors have times of their own.
            Ok(_) => {}
            Err(_) => self.usual().given_up(&leg, now),
        }
    }

    /// Nobody waits for this attempt any longer.
    fn give_up(&self, route: &Route, outcome: Outcome) {
        self.metrics.hedged(outcome);
        if let Some(leg) = route.leg() {
            self.usual().given_up(&leg, Instant::now());
        }
    }

    fn usual(&self) -> MutexGuard<'_, Usual> {
        // Every change is complete before anything can panic.
        self.usual.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer that is worth nothing less than another one.
fn is_good(result: &Result<Answer, Failure>) -> bool {
    result.as_ref().is_ok_and(|answer| !is_server_trouble(answer.status))
}

/// Whether the second attempt's result says more than the first one's: a good answer, any answer, an answer within a failure.
fn is_better(second: &Result<Answer, Failure>, first: &Result<Answer, Failure>) -> bool {
    let worth = |result: &Result<Answer, Failure>| match result {
        Ok(_) if is_good(result) => 3,
        Ok(_) => 2,
        Err(failure) => u8::from(failure.answer.is_some()),
    };
    worth(second) > worth(first)
}

/// Both attempts ask the same: what is bound for the first is not bound anew for the second.
#[derive(Debug)]
struct Bound {
    load: Arc<dyn Load>,
    request: OnceLock<Arc<Request>>,
}

impl Load for Bound {
    fn request(&self) -> Arc<Request> {
        Arc::clone(self.request.get_or_init(|| self.load.request()))
    }

    fn holder(&self) -> Option<Holder> {
        self.load.holder()
    }

    fn beneficiaries(&self) -> Vec<Name> {
        self.load.beneficiaries()
    }

    fn trace(&self) -> trace::Call {
        self.load.trace()
    }
}

impl<P> Clone for HedgeLayer<P> {
    fn clone(&self) -> Self {
        Self { on: self.on.clone() }
    }
}

impl<P, S: Clone> Clone for Hedge<P, S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: self.layer.clone(),
        }
    }
}

impl<P> fmt::Debug for HedgeLayer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgeLayer").field("on", &self.on.is_some()).finish()
    }
}

impl<P, S: fmt::Debug> fmt::Debug for Hedge<P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hedge")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}
