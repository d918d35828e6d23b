//! Names every request, before anything can go wrong with it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{HeaderName, HeaderValue, Request, Response};
use pin_project_lite::pin_project;
use tower::Service;

use crate::respond::RequestId;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Puts a [`RequestId`] on the request, the caller's if it is sane, and the same on the answer.
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

impl<S, B, T, E> Service<Request<B>> for Named<S>
where
    S: Service<Request<B>, Response = Response<T>, Error = E>,
{
    type Response = Response<T>;
    type Error = E;
    type Future = Naming<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let id = from_caller(&request).unwrap_or_else(RequestId::random);
        request.extensions_mut().insert(id.clone());
        Naming {
            answer: self.0.call(request),
            id,
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

fn from_caller<B>(request: &Request<B>) -> Option<RequestId> {
    RequestId::from_caller(request.headers().get(X_REQUEST_ID)?.to_str().ok()?)
}
