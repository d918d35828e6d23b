//! What does not change from one call of a host to the next.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{StatusCode, Uri};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use url::Url;

use crate::scan::{Request, Version};
use crate::upstream::Metrics;
use crate::upstream::metrics::Status;

/// A host that calls go to.
#[derive(Debug)]
pub(super) struct Door {
    base: Arc<Url>,
    region: Arc<str>,
    /// By version, without options; `None` when the base address cannot be put into a request.
    addresses: [Option<Uri>; Version::ALL.len()],
    /// Its calls that were answered with 200, and the times of all: looked up when the first such answer has come.
    good: OnceLock<(Counter, Histogram)>,
}

impl Door {
    pub(super) fn new(base: Arc<Url>, region: Arc<str>) -> Self {
        Self {
            addresses: Version::ALL.map(|version| address(&base, version.path(), None)),
            base,
            region,
            good: OnceLock::new(),
        }
    }

    /// The region's name.
    pub(super) fn region(&self) -> &Arc<str> {
        &self.region
    }

    /// Where to ask `question`: the operation's fixed path on the host, with the paging options and nothing else. No other path can be
    /// built here.
    pub(super) fn address(&self, question: &Request) -> Option<Uri> {
        match question.query() {
            None => self.addresses[question.version() as usize].clone(),
            Some(query) => address(&self.base, question.upstream_path(), Some(&query)),
        }
    }

    /// Counts a call.
    pub(super) fn count(&self, metrics: &Metrics, status: Status, took: Duration) {
        if let Status::Answer(StatusCode::OK) = status {
            let (calls, duration) = self.good.get_or_init(|| metrics.look_up(&self.region, status));
            calls.inc();
            duration.observe(took.as_secs_f64());
        } else {
            let (calls, duration) = metrics.look_up(&self.region, status);
            calls.inc();
            duration.observe(took.as_secs_f64());
        }
    }
}

fn address(base: &Url, path: &str, query: Option<&str>) -> Option<Uri> {
    let mut url = base.clone();
    url.set_path(path);
    url.set_fragment(None);
    url.set_query(query);
    url.as_str().parse().ok()
}
