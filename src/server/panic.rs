//! A panic costs one request, not the connection with the others on it.

use std::panic::AssertUnwindSafe;
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, FutureExt as _};
use prometheus_client::metrics::counter::Counter;
use tower::Service;

use crate::BoxError;
use crate::respond::Panicked;

/// Turns a panic below into [`Panicked`], and counts it.
#[derive(Clone, Debug)]
pub struct Layer {
    panics: Counter,
}

impl Layer {
    /// `panics` is [`Metrics::panics`](super::count::Metrics::panics).
    #[must_use]
    pub fn new(panics: Counter) -> Self {
        Self { panics }
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Catch<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Catch {
            inner,
            panics: self.panics.clone(),
        }
    }
}

/// The service of [`Layer`].
#[derive(Clone, Debug)]
pub struct Catch<S> {
    inner: S,
    panics: Counter,
}

impl<S, R> Service<R> for Catch<S>
where
    S: Service<R, Error = BoxError>,
    S::Future: Send + 'static,
    S::Response: 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        // The state behind the stack is shared, and may have been left half changed. It is kept behind locks that are never held
        // while foreign code runs, and the panicking service itself is a clone made for this request, so going on is sound.
        let started = std::panic::catch_unwind(AssertUnwindSafe(|| self.inner.call(request)));
        let panics = self.panics.clone();
        Box::pin(async move {
            let ended = match started {
                Ok(future) => AssertUnwindSafe(future).catch_unwind().await,
                Err(panic) => Err(panic),
            };
            ended.unwrap_or_else(|_| {
                panics.inc();
                Err(Panicked.into())
            })
        })
    }
}
