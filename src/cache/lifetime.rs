//! How long an answer is fresh, as a whole and for each id.

use std::time::Duration;

use http::{StatusCode, header};

use crate::cache::Config;
use crate::cache::memory_store::Cache;
use crate::operation::Lifetime;
use crate::scan::{Headers, Request, Rows, UpstreamResponse, finished};

/// How long an answer is fresh.
#[derive(Debug)]
pub(super) struct Lifetimes {
    /// As a whole: until the first of its ids is stale.
    pub(super) whole: Duration,
    /// By id.
    pub(super) ids: Vec<Duration>,
}

impl Lifetimes {
    pub(super) fn at_most(self, longest: Duration) -> Self {
        Self {
            whole: self.whole.min(longest),
            ids: self.ids.into_iter().map(|ttl| ttl.min(longest)).collect(),
        }
    }

    fn times(self, factor: f64) -> Self {
        Self {
            whole: self.whole.mul_f64(factor),
            ids: self.ids.into_iter().map(|ttl| ttl.mul_f64(factor)).collect(),
        }
    }
}

impl Cache {
    /// How long an answer is fresh; `None` when it must not be stored.
    pub(super) fn freshness(
        &self,
        request: &Request,
        answer: &UpstreamResponse,
        rows: Option<&Rows>,
    ) -> Option<Lifetimes> {
        let longest = match answer.status {
            StatusCode::OK => Duration::MAX,
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => Config::NEGATIVE_TTL,
            _ => return None,
        };
        if forbids_storing(&answer.headers) || answer.may_hold_secrets(request.endpoint()) {
            return None;
        }
        let factor = if self.prefetches(request.endpoint()) {
            // Answers that are refreshed together are refreshed in one call.
            1.0
        } else {
            1.0 - rand::random::<f64>() / 10.0
        };
        Some(self.lifetimes(request, rows).at_most(longest).times(factor))
    }

    /// How long an answer with these rows is fresh, as a whole and for each id.
    pub(super) fn lifetimes(&self, request: &Request, rows: Option<&Rows>) -> Lifetimes {
        let Config { ttl, finished_ttl, .. } = self.config;
        let can_finish = request.endpoint().operation.declaration().lifetime == Lifetime::Finished;
        let ids: Vec<_> = match rows {
            Some(rows) if can_finish => {
                let finished = finished(request, rows).into_iter();
                finished
                    .map(|finished| if finished { finished_ttl } else { ttl })
                    .collect()
            }
            _ => vec![ttl; request.ids().len()],
        };
        Lifetimes {
            whole: ids.iter().min().copied().unwrap_or(ttl),
            ids,
        }
    }
}

/// Only `no-store` is obeyed. Web frameworks send `no-cache` or `private` with every answer by
/// default, meant for browsers and shared proxies. This cache serves one application's own
/// requests, and the operator decides how long they are fresh.
fn forbids_storing(headers: &Headers) -> bool {
    headers
        .get_all(header::CACHE_CONTROL)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|directive| directive.trim().eq_ignore_ascii_case("no-store"))
}
