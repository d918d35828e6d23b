//! Layers below the cache, written as plain async functions.
//!
//! Hits do not get there, and of the rest only some dozen a minute become calls, so a box for each
//! layer costs nothing that anybody could notice, and no layer has to repeat the types and bounds
//! of a service.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tower::layer::layer_fn;
use tower::{Service, ServiceExt as _};

use crate::attempt::Failure;
use crate::scan::UpstreamResponse;

/// What a layer does with requests `R`, and with the service below, `N`.
pub trait Middleware<R, N, T = UpstreamResponse, E = Failure>: Send + Sync + 'static {
    /// Answers a request, mostly by calling `next`.
    fn call(&self, request: R, next: &N) -> impl Future<Output = Result<T, E>> + Send;
}

/// The tower layer that puts `middleware` in front of a service.
pub fn layer<M, R, N, T, E>(middleware: M) -> impl tower::Layer<N, Service = Next<R, T, E>> + Clone
where
    M: Middleware<R, N, T, E>,
    R: Send + 'static,
    N: Clone + Send + Sync + 'static,
    T: 'static,
    E: 'static,
{
    let middleware = Arc::new(middleware);
    layer_fn(move |next: N| {
        let middleware = Arc::clone(&middleware);
        Next(Arc::new(move |request| {
            let (middleware, next) = (Arc::clone(&middleware), next.clone());
            async move { middleware.call(request, &next).await }.boxed()
        }))
    })
}

/// A service of any kind that is always ready. Cloning it copies one pointer.
pub struct Next<R, T = UpstreamResponse, E = Failure>(Arc<Call<R, T, E>>);

type Call<R, T, E> = dyn Fn(R) -> BoxFuture<'static, Result<T, E>> + Send + Sync;

impl<R, T, E> Next<R, T, E> {
    /// Each request is answered by a clone of `service`, once that is ready.
    pub fn new<S>(service: S) -> Self
    where
        S: Service<R, Response = T, Error = E> + Clone + Send + Sync + 'static,
        S::Future: Send,
        R: Send + 'static,
    {
        Self(Arc::new(move |request| service.clone().oneshot(request).boxed()))
    }

    /// Answers a request.
    pub fn call(&self, request: R) -> BoxFuture<'static, Result<T, E>> {
        (self.0)(request)
    }
}

impl<R, T, E> Clone for Next<R, T, E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<R, T, E> Service<R> for Next<R, T, E> {
    type Response = T;
    type Error = E;
    type Future = BoxFuture<'static, Result<T, E>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        (self.0)(request)
    }
}
