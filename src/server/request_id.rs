//! Tells every caller the name of its request, whatever becomes of it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, HeaderName, HeaderValue, Response};
use pin_project_lite::pin_project;
use tower::Service;

use super::Arrival;
use crate::caller::RequestId;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Puts the request's [`RequestId`] on the answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layer;

impl<S> tower::Layer<S> for Layer {
    type Service = Named<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Named(inner)
    }
}

/// The service of [`Layer`].
#[derive(Clone, Debug)]
pub struct Named<S>(S);

impl<S, B, T, E> Service<Arrival<B>> for Named<S>
where
    S: Service<Arrival<B>, Response = Response<T>, Error = E>,
{
    type Response = Response<T>;
    type Error = E;
    type Future = Naming<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Arrival<B>) -> Self::Future {
        Naming {
            id: request.known().id.clone(),
            answer: self.0.call(request),
        }
    }
}

pin_project! {
    /// An answer that will carry its request's id.
    #[derive(Debug)]
    pub struct Naming<F> {
        #[pin]
        answer: F,
        id: RequestId,
    }
}

impl<F, T, E> Future for Naming<F>
where
    F: Future<Output = Result<Response<T>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.answer.poll(context))?;
        if let Ok(value) = HeaderValue::from_str(this.id.as_str()) {
            answer.headers_mut().insert(X_REQUEST_ID, value);
        }
        Poll::Ready(Ok(answer))
    }
}

/// The name that the caller gave its request, if it is sane.
pub(super) fn from_caller(fields: &HeaderMap) -> Option<RequestId> {
    RequestId::from_caller(fields.get(X_REQUEST_ID)?.to_str().ok()?)
}
