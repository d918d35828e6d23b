//! Names every request, before anything can go wrong with it.

use std::task::{Context, Poll};

use futures_util::future::{FutureExt as _, Map};
use http::{HeaderName, HeaderValue, Request, Response};
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

type Label<T, E> = Box<dyn FnOnce(Result<Response<T>, E>) -> Result<Response<T>, E> + Send>;

impl<S, B, T, E> Service<Request<B>> for Named<S>
where
    S: Service<Request<B>, Response = Response<T>, Error = E>,
{
    type Response = Response<T>;
    type Error = E;
    type Future = Map<S::Future, Label<T, E>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let id = from_caller(&request).unwrap_or_else(RequestId::random);
        request.extensions_mut().insert(id.clone());
        self.0.call(request).map(Box::new(move |answer| {
            let mut answer = answer?;
            if let Ok(value) = HeaderValue::from_str(id.as_str()) {
                answer.headers_mut().insert(X_REQUEST_ID, value);
            }
            Ok(answer)
        }))
    }
}

fn from_caller<B>(request: &Request<B>) -> Option<RequestId> {
    RequestId::from_caller(request.headers().get(X_REQUEST_ID)?.to_str().ok()?)
}
