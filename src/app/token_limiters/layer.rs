//! The layer that puts each try on its limiter.

use tower::util::BoxCloneSyncService;
use tower::{Service, service_fn};

use super::TokenLimiters;
use crate::attempt::{Admitted, Attempt, Delivery, Failure, RetryHint};
use crate::quota;
use crate::scan::UpstreamResponse;

/// Wraps a service that needs a slot into one that waits for it, in the queue of the token that the
/// call will be made with.
#[derive(Clone, Debug)]
pub struct Layer(TokenLimiters);

impl Layer {
    /// Slots come from `token_limiters`.
    pub fn new(token_limiters: TokenLimiters) -> Self {
        Self(token_limiters)
    }
}

impl<S> tower::Layer<S> for Layer
where
    S: Service<Admitted<quota::Permit>, Response = UpstreamResponse, Error = Failure> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    type Service = BoxCloneSyncService<Attempt, UpstreamResponse, Failure>;

    fn layer(&self, inner: S) -> Self::Service {
        let token_limiters = self.0.clone();
        BoxCloneSyncService::new(service_fn(move |attempt| {
            serve(token_limiters.clone(), attempt, inner.clone())
        }))
    }
}

async fn serve<S>(token_limiters: TokenLimiters, attempt: Attempt, inner: S) -> Result<UpstreamResponse, Failure>
where
    S: Service<Admitted<quota::Permit>, Response = UpstreamResponse, Error = Failure>,
{
    let limiter = token_limiters
        .enter(attempt.request.payer())
        .map_err(|refused| Failure {
            delivery: Delivery::NotSent,
            again: RetryHint::Never,
            answer: None,
            source: refused.into(),
        })?;
    // The limiter is held until the answer is there: one that somebody is on is not forgotten.
    limiter.queue.clone().serve(attempt, inner).await
}
