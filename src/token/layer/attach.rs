//! Attaches the token, and looks at what Defender thinks of it.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use http::StatusCode;
use tokio::time::Instant;
use tower::Service;

use crate::attempt::{Again, Failure, Fate, Routed, Signed};
use crate::scan::Answer;
use crate::telemetry::trace;
use crate::token::{Bearer, Error, Keeper, Verdict};

/// How long past the caller's deadline a call that holds its slot may wait for a token: giving up would waste the wait so far.
const GRACE: Duration = Duration::from_secs(3);

/// Puts [`Attach`] around a service.
#[derive(Clone, Debug)]
pub struct Layer {
    keeper: Keeper,
}

impl Layer {
    /// A layer that takes tokens from `keeper`.
    #[must_use]
    pub fn new(keeper: Keeper) -> Self {
        Self { keeper }
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Attach<S>;

    fn layer(&self, inner: S) -> Attach<S> {
        Attach {
            keeper: self.keeper.clone(),
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
    keeper: Keeper,
    inner: S,
}

impl<S> Service<Routed> for Attach<S>
where
    S: Service<Signed, Response = Answer, Error = Failure> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Answer;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, routed: Routed) -> Self::Future {
        let spare = self.inner.clone();
        // The one that was made ready is the one to call.
        let inner = std::mem::replace(&mut self.inner, spare);
        Box::pin(attached(self.keeper.clone(), inner, routed))
    }
}

async fn attached<S>(keeper: Keeper, mut inner: S, routed: Routed) -> Result<Answer, Failure>
where
    S: Service<Signed, Response = Answer, Error = Failure>,
{
    if let Some(delegated) = routed.outgoing.request.delegated() {
        let bearer = delegated.secret().clone();
        return inner.call(Signed { routed, bearer }).await;
    }
    let until = routed.outgoing.caller.deadline + GRACE;
    let bearer = bearer(&keeper, until, &routed.outgoing.trace)
        .await
        .map_err(|error| Failure {
            fate: Fate::Unsent,
            again: Again::Never,
            answer: None,
            source: error.into(),
        })?;
    let signed = Signed {
        routed,
        bearer: bearer.secret().clone(),
    };
    let answer = inner.call(signed).await?;
    if answer.status == StatusCode::UNAUTHORIZED && keeper.rejected(&bearer) == Verdict::TryAgain {
        return Err(Failure {
            fate: Fate::Answered,
            again: Again::Once,
            answer: Some(answer),
            source: Rejected.into(),
        });
    }
    Ok(answer)
}

/// The token, with a span if it has to be waited for.
async fn bearer(keeper: &Keeper, until: Instant, call: &trace::Call) -> Result<Bearer, Error> {
    let mut bearer = pin!(keeper.bearer(until));
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
