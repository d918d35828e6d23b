//! Memory for requests that the cache could not answer: as many may wait as there is memory for,
//! and the others are told so at once.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tower::Service;

use crate::BoxError;
use crate::memory::{ALLOCATED_PER_BYTE, Exhausted, MemoryBudget, REQUEST};
use crate::scan::{Call, ServedResponse};

/// Lets requests by that find memory in a budget.
#[derive(Clone, Debug)]
pub struct Layer(Arc<MemoryBudget>);

impl Layer {
    /// Takes from `budget`.
    pub fn new(budget: Arc<MemoryBudget>) -> Self {
        Self(budget)
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = RequestMemory<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestMemory {
            inner,
            budget: Arc::clone(&self.0),
        }
    }
}

/// See [`Layer`].
#[derive(Clone, Debug)]
pub struct RequestMemory<S> {
    inner: S,
    budget: Arc<MemoryBudget>,
}

impl<S> Service<Call> for RequestMemory<S>
where
    S: Service<Call, Response = ServedResponse, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = ServedResponse;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<ServedResponse, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        // The ids as they came in, and once more as they go out.
        let bytes = REQUEST + call.request.key().len() * ALLOCATED_PER_BYTE;
        let Some(reservation) = self.budget.try_reserve(bytes) else {
            return Box::pin(async { Err(Exhausted { of: "requests" }.into()) });
        };
        let answer = self.inner.call(call);
        Box::pin(async move {
            let served = answer.await;
            drop(reservation);
            served
        })
    }
}
