//! The rows of some ids of a request that came with other calls while the request waited for its
//! own.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, header};
use tokio::time::Instant;

use crate::cache::memory_store::Cache;
use crate::cache::partial_hit::PartialHit;
use crate::scan::{Request, Rows, StoredRows, UpstreamResponse};

/// Fragments that came while a request waited, and a request for the rest.
#[derive(Debug)]
struct RowsSince {
    partial_hit: PartialHit,
    missing: Option<Request>,
}

impl Cache {
    /// What has come for a request since that moment.
    pub(super) fn find_rows_since(&self, request: &Arc<Request>, since: Instant) -> Option<Box<dyn StoredRows>> {
        let partial_hit = PartialHit::since(self, request, since)?;
        let missing = if partial_hit.has_all() {
            None
        } else {
            Some(partial_hit.missing_of_all()?)
        };
        Some(Box::new(RowsSince { partial_hit, missing }))
    }
}

impl StoredRows for RowsSince {
    fn missing(&self) -> Option<&Request> {
        self.missing.as_ref()
    }

    fn complete(&self, rest: Option<&UpstreamResponse>) -> Option<(UpstreamResponse, Instant)> {
        let now = Instant::now();
        let assembled = match (&self.missing, rest) {
            (None, _) => self.partial_hit.whole()?,
            (Some(missing), Some(rest)) => {
                let stored = now.checked_sub(rest.age())?;
                let unused = |_: &Rows| vec![Duration::ZERO; missing.ids().len()];
                self.partial_hit
                    .clone()
                    .with_rows(missing, rest, stored, unused)
                    .inspect_err(|split_error| {
                        tracing::debug!(reason = split_error.as_str(), "rows of two calls could not be joined");
                    })
                    .ok()?
            }
            (Some(_), None) => return None,
        };
        // Rounded up, so that nothing is taken to be fresher than it is.
        let age = now.saturating_duration_since(assembled.stored);
        let seconds = age.as_secs() + u64::from(age.subsec_nanos() > 0);
        let fields = assembled.answer.headers.iter();
        let fields = fields.map(|(name, value)| (name.clone(), value.clone()));
        let answer = UpstreamResponse {
            headers: fields.chain([(header::AGE, HeaderValue::from(seconds))]).collect(),
            ..assembled.answer
        };
        Some((answer, assembled.asked))
    }
}
