//! A panic costs one request, not the connection with the others on it.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
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
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Caught<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        // The state behind the stack is shared, and may have been left half changed. It is kept behind locks that are never held
        // while foreign code runs. The panicking service itself is its connection's own, and keeps nothing from one call to the next. So
        // going on is sound.
        let answer = catch_unwind(AssertUnwindSafe(|| self.inner.call(request)));
        Caught {
            answer: answer.ok(),
            panics: self.panics.clone(),
        }
    }
}

pin_project! {
    /// An answer, or that there was a panic instead.
    #[derive(Debug)]
    pub struct Caught<F> {
        // `None` once it has panicked: it must not be polled again.
        #[pin]
        answer: Option<F>,
        panics: Counter,
    }
}

impl<F, T> Future for Caught<F>
where
    F: Future<Output = Result<T, BoxError>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let polled = this
            .answer
            .as_mut()
            .as_pin_mut()
            .and_then(|answer| catch_unwind(AssertUnwindSafe(|| answer.poll(context))).ok());
        polled.unwrap_or_else(|| {
            this.answer.set(None);
            this.panics.inc();
            Poll::Ready(Err(Panicked.into()))
        })
    }
}
