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
use crate::scan::{Answer, Request};
use crate::upstream::Metrics;
use crate::upstream::metrics::Hedge as Outcome;
use crate::upstream::retry::is_server_trouble;
use crate::upstream::usual::Usual;

/// Where the slot for a second attempt comes from: one that nobody waits for, or `None`.
pub type Spare<P> = Arc<dyn Fn() -> Option<P> + Send + Sync>;

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
    type Future = BoxFuture<'static, Result<Answer, Failure>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, granted: Granted<P>) -> Self::Future {
        let Some(on) = self.layer.on.clone() else {
            return self.inner.call(granted).boxed();
        };
        let attempt = Try {
            load: Arc::new(Bound {
                load: granted.attempt.load,
                request: OnceLock::new(),
            }),
            ..granted.attempt
        };
        let route = granted.route.clone();
        let first = self.inner.call(Granted {
            attempt: attempt.clone(),
            ..granted
        });
        on.run(first, route, attempt, self.inner.clone()).boxed()
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
            result = first.as_mut() => return self.learned(&route, result),
            late = self.overdue(&route) => late,
        };
        let Some(permit) = self.spare(&attempt) else {
            let result = first.await;
            return self.learned(&route, result);
        };
        let request_id = &*attempt.caller.request_id;
        tracing::debug!(request_id, late_at = %late.base, "a second attempt elsewhere");
        let second_route = Route::avoiding(late.base);
        let second = pin!(inner.oneshot(Granted {
            attempt: attempt.clone(),
            permit,
            route: second_route.clone(),
        }));
        match select(first, second).await {
            Either::Left((result, second)) => {
                let result = self.learned(&route, result);
                if is_good(&result) {
                    self.given_up(&second_route, Outcome::Lost);
                    return result;
                }
                let other = second.await;
                self.settled(result, self.learned(&second_route, other))
            }
            Either::Right((result, first)) => {
                let result = self.learned(&second_route, result);
                if is_good(&result) {
                    self.given_up(&route, Outcome::Won);
                    return result;
                }
                let other = first.await;
                self.settled(self.learned(&route, other), result)
            }
        }
    }

    /// Resolves when the attempt has been at its host for longer than usual.
    async fn overdue(&self, route: &Route) -> Leg {
        let mut legs = route.follow();
        loop {
            let leg = legs.borrow_and_update().clone();
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
                // It cannot fail: the sender is in `route`.
                _ = legs.changed() => {}
            }
        }
    }

    /// A slot for a second attempt that could still start in time.
    fn spare(&self, attempt: &Try) -> Option<P> {
        (Instant::now() <= attempt.caller.deadline)
            .then(|| (self.spare)())
            .flatten()
    }

    /// Remembers how long an answer took.
    fn learned(&self, route: &Route, result: Result<Answer, Failure>) -> Result<Answer, Failure> {
        if let Some(leg) = route.leg() {
            let now = Instant::now();
            match &result {
                Ok(answer) if answer.status.is_success() => self.usual().answered(&leg, now),
                // Errors have times of their own.
                Ok(_) => {}
                Err(_) => self.usual().given_up(&leg, now),
            }
        }
        result
    }

    /// Nobody waits for this attempt any longer.
    fn given_up(&self, route: &Route, outcome: Outcome) {
        self.metrics.hedged(outcome);
        if let Some(leg) = route.leg() {
            self.usual().given_up(&leg, Instant::now());
        }
    }

    /// Both have ended, and the one that ended first was not good.
    fn settled(&self, first: Result<Answer, Failure>, second: Result<Answer, Failure>) -> Result<Answer, Failure> {
        let second_is_better = match (&first, &second) {
            _ if is_good(&second) => !is_good(&first),
            (Err(_), Ok(_)) => true,
            (Err(first), Err(second)) => first.answer.is_none() && second.answer.is_some(),
            (Ok(_), _) => false,
        };
        self.metrics.hedged(match &second {
            second if second_is_better && is_good(second) => Outcome::Won,
            _ if is_good(&first) => Outcome::Lost,
            _ => Outcome::Failed,
        });
        if second_is_better { second } else { first }
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

    fn beneficiaries(&self) -> Vec<Name> {
        self.load.beneficiaries()
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
