//! A call for one request, made without a flight.

use std::sync::Arc;

use crate::attempt::LateBoundRequest;
use crate::caller::Name;
use crate::scan::{Payer, Request};

/// One caller's request, for calls that are not shared.
#[derive(Clone, Debug)]
pub struct SingleRequest {
    request: Arc<Request>,
    name: Name,
}

impl SingleRequest {
    /// `request` on behalf of `name`.
    #[must_use]
    pub fn new(request: Arc<Request>, name: Name) -> Self {
        Self { request, name }
    }
}

impl LateBoundRequest for SingleRequest {
    fn bind(&self) -> Arc<Request> {
        Arc::clone(&self.request)
    }

    fn payer(&self) -> Payer {
        self.request.payer()
    }

    fn cost_sharers(&self) -> Option<Vec<Name>> {
        Some(vec![self.name.clone()])
    }
}
