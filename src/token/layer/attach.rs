//! Attaches the token, and looks at what Defender thinks of it.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Either};
use http::StatusCode;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use crate::attempt::{Again, Delivery, Failure, Routed, Signed};
use crate::scan::Answer;
use crate::telemetry::trace;
use crate::token::{Bearer, Error, TokenSource, Verdict};

/// How long past the caller's deadline a call that holds its slot may wait for a token: giving up would waste the wait so far.
const GRACE: Duration = Duration::from_secs(3);

/// The longest that a call holds its slot while it waits for a token. Who can wait for longer gives it back and asks for another one: the
/// ledger's charge of a call that has not left must not end before it leaves.
pub const MAX_PERMIT_HOLD: Duration = Duration::from_secs(10);

/// Puts [`Attach`] around a service.
#[derive(Clone, Debug)]
pub struct Layer {
    keeper: Arc<TokenSource>,
}

impl Layer {
    /// A layer that takes tokens from `keeper`.
    #[must_use]
    pub fn new(keeper: TokenSource) -> Self {
        Self {
            keeper: Arc::new(keeper),
        }
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Attach<S>;

    fn layer(&self, inner: S) -> Attach<S> {
        Attach {
            keeper: Arc::clone(&self.keeper),
            inner,
        }
    }
}

/// Attaches the token to each call.
///
/// A call without a token fails before a byte is sent. A 401 comes back as a failure that is worth one more attempt if a newer token
/// is there or on its way, and as an ordinary answer if not: then it is not about the token but about the licence or the app.
///
/// A call with its caller's own token keeps that one: the keeper is not asked, and a 401 is the caller's affair.
#[derive(Clone, Debug)]
pub struct Attach<S> {
    keeper: Arc<TokenSource>,
    inner: S,
}

impl<S> Service<Routed> for Attach<S>
where
    S: Service<Signed, Response = Answer, Error = Failure> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Answer;
    type Error = Failure;
    type Future = Either<Checked<S::Future>, BoxFuture<'static, Result<Answer, Failure>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, routed: Routed) -> Self::Future {
        if let Some(caller_token) = routed.outgoing.request.caller_token() {
            let bearer = caller_token.secret().clone();
            let answer = self.inner.call(Signed { routed, bearer });
            return Either::Left(Checked { answer, token: None });
        }
        if let Some(bearer) = self.keeper.current() {
            return Either::Left(checked(&mut self.inner, &self.keeper, routed, bearer));
        }
        let spare = self.inner.clone();
        // The one that was made ready is the one to call.
        let mut inner = std::mem::replace(&mut self.inner, spare);
        let keeper = Arc::clone(&self.keeper);
        Either::Right(Box::pin(async move {
            let deadline = routed.outgoing.caller.deadline;
            let until = (deadline + GRACE).min(Instant::now() + MAX_PERMIT_HOLD);
            let waited = bearer(&keeper, (until, deadline), &routed.outgoing.trace).await;
            let bearer = waited.map_err(|error| without_token(error, until, deadline))?;
            checked(&mut inner, &keeper, routed, bearer).await
        }))
    }
}

/// There was no token by `until`: the call was not sent. It waits on, without its slot, while its deadline allows that.
fn without_token(error: Error, until: Instant, deadline: Instant) -> Failure {
    let now = Instant::now();
    let passes = matches!(error, Error::Unavailable { .. });
    Failure {
        delivery: Delivery::Unsent,
        // Who is told something earlier has nothing to wait for.
        again: if passes && until <= now && now < deadline {
            Again::WhenAllowed
        } else {
            Again::Never
        },
        answer: None,
        source: error.into(),
    }
}

/// The call with this token.
fn checked<S>(inner: &mut S, keeper: &Arc<TokenSource>, routed: Routed, bearer: Bearer) -> Checked<S::Future>
where
    S: Service<Signed>,
{
    let signed = Signed {
        routed,
        bearer: bearer.secret().clone(),
    };
    Checked {
        answer: inner.call(signed),
        token: Some((Arc::clone(keeper), bearer)),
    }
}

pin_project! {
    /// A call under way, and the keeper's token that it is made with.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct Checked<F> {
        #[pin]
        answer: F,
        token: Option<(Arc<TokenSource>, Bearer)>,
    }
}

impl<F> Future for Checked<F>
where
    F: Future<Output = Result<Answer, Failure>>,
{
    type Output = Result<Answer, Failure>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.answer.poll(context))?;
        if let Some((keeper, bearer)) = this.token
            && answer.status == StatusCode::UNAUTHORIZED
            && keeper.rejected(bearer) == Verdict::TryAgain
        {
            return Poll::Ready(Err(Failure {
                delivery: Delivery::Answered,
                again: Again::Once,
                answer: Some(answer),
                source: Rejected.into(),
            }));
        }
        Poll::Ready(Ok(answer))
    }
}

/// The token, with a span if it has to be waited for.
async fn bearer(keeper: &TokenSource, times: (Instant, Instant), call: &trace::Call) -> Result<Bearer, Error> {
    let (until, patience) = times;
    let mut bearer = pin!(keeper.bearer_within(until, patience));
    if let Some(at_hand) = bearer.as_mut().now_or_never() {
        return at_hand;
    }
    let mut span = call.child("wait for sign-in", trace::SpanKind::Internal);
    let bearer = bearer.await;
    if let Err(error) = &bearer {
        span.fail(match error {
            Error::Refused { .. } => "refused",
            Error::Unavailable { .. } => "unavailable",
        });
    }
    bearer
}

/// Defender answered 401, and a newer token is there or on its way.
#[derive(Debug, thiserror::Error)]
#[error("the upstream rejected the token")]
pub struct Rejected;
