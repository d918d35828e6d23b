//! What is the same for all calls to one host.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{StatusCode, Uri};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use url::Url;

use crate::operation::Input;
use crate::scan::{Endpoint, Operation, Request};
use crate::upstream::Metrics;
use crate::upstream::metrics::Status;

/// A host that calls go to.
#[derive(Debug)]
pub(super) struct HostCalls {
    base: Arc<Url>,
    region: Arc<str>,
    /// By endpoint, without options and ids; `None` when the base address cannot be put into a
    /// request.
    addresses: Vec<Option<Uri>>,
    /// By operation: the counter of its calls that were answered with 200, and the histogram of
    /// all; resolved when the first such answer has come.
    good: [OnceLock<(Counter, Histogram)>; Operation::ALL.len()],
}

impl HostCalls {
    pub(super) fn new(base: Arc<Url>, region: Arc<str>) -> Self {
        Self {
            addresses: Endpoint::all()
                .map(|endpoint| address(&base, &endpoint.path(None), None))
                .collect(),
            base,
            region,
            good: <_>::default(),
        }
    }

    /// The region's name.
    pub(super) fn region(&self) -> &Arc<str> {
        &self.region
    }

    /// The address of a request: the operation's own path on the host, with the request's query and
    /// nothing else. No other path can be built here.
    pub(super) fn address(&self, request: &Request) -> Option<Uri> {
        let is_usual = request.endpoint().operation.declaration().input != Input::Path;
        match request.query() {
            None if is_usual => self.addresses.get(request.endpoint().index())?.clone(),
            query => address(&self.base, &request.upstream_path(), query.as_deref()),
        }
    }

    /// Counts a call.
    pub(super) fn count(&self, metrics: &Metrics, operation: Operation, status: Status, took: Duration) {
        let look_up = || metrics.look_up(&self.region, operation, status);
        let (calls, duration) = match status {
            Status::Answer(StatusCode::OK) => self.good[operation as usize].get_or_init(look_up),
            _ => &look_up(),
        };
        calls.inc();
        duration.observe(took.as_secs_f64());
    }
}

fn address(base: &Url, path: &str, query: Option<&str>) -> Option<Uri> {
    let mut url = base.clone();
    url.set_path(path);
    url.set_fragment(None);
    url.set_query(None);
    match query {
        None => url.as_str().parse().ok(),
        // Unchanged, because a URL parser would escape other characters than the caller did.
        Some(query) => format!("{url}?{query}").parse().ok(),
    }
}
