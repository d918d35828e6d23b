//! Memory for requests that the cache could not answer: as many may wait as there is memory for,
//! and the others are told so at once.

use std::sync::Arc;

use crate::BoxError;
use crate::memory::{ALLOCATED_PER_BYTE, Exhausted, MemoryBudget, REQUEST};
use crate::middleware::{Middleware, Next};
use crate::scan::{Call, ServedResponse};

/// Lets requests by that find memory in a budget.
#[derive(Clone, Debug)]
pub struct RequestMemory(pub(super) Arc<MemoryBudget>);

impl Middleware<Call, Next<Call, ServedResponse, BoxError>, ServedResponse, BoxError> for RequestMemory {
    async fn call(&self, call: Call, next: &Next<Call, ServedResponse, BoxError>) -> Result<ServedResponse, BoxError> {
        // The ids as they came in, and once more as they go out.
        let bytes = REQUEST + call.request.key().len() * ALLOCATED_PER_BYTE;
        let _reservation = self.0.try_reserve(bytes).ok_or(Exhausted { of: "requests" })?;
        next.call(call).await
    }
}
