//! Comparison calls: whether requests that are asked alone would be answered the same in a batch.
//! They are made from surplus quota while nobody waits, nobody is answered from them, and they cost
//! no caller anything.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::attempt::{Attempt, LateBoundRequest, QueuePosition, Refusal, Retries};
use crate::caller::{CacheDirectives, Caller, Name, RequestId, Urgency};
use crate::scan::{Comparison, Merging, Payer, Request, Rows, UpstreamProfile};
use crate::single_flight::batch_split::attributed_rows;
use crate::single_flight::batcher::Batcher;
use crate::single_flight::driver::Below;
use crate::telemetry::trace::Trace;

/// The request of a comparison call.
#[derive(Debug)]
struct ComparisonRequest {
    comparison: Comparison,
    upstream_profile: Arc<UpstreamProfile>,
}

impl LateBoundRequest for ComparisonRequest {
    fn bind(&self) -> Option<Arc<Request>> {
        self.upstream_profile.merge_evidence().record_call(&self.comparison);
        Some(Arc::clone(&self.comparison.request))
    }

    fn refused(&self, refusal: Box<dyn Refusal>) {
        // Nobody waits for it.
        refusal.withdraw();
    }

    fn payer(&self) -> Payer {
        self.comparison.request.payer()
    }

    fn cost_sharers(&self) -> Option<Vec<Name>> {
        Some(Vec::new())
    }
}

impl Batcher {
    /// Remembers the answer to a request that was asked alone, to be compared.
    pub(super) fn observe(&self, request: &Arc<Request>, rows: &Rows, body: &[u8], asked: Instant) {
        if self.merge.when == Merging::Auto {
            self.upstream_profile
                .merge_evidence()
                .observe(request, rows, body, asked);
        }
    }

    /// A comparison call, if one is due after `request` and costs nobody a slot.
    pub(super) fn begin_comparison(&self, request: &Request) -> Option<Comparison> {
        let payer = request.payer();
        let evidence = self.upstream_profile.merge_evidence();
        let is_wanted =
            self.merge.when == Merging::Auto && request.is_whole() && evidence.may_compare(request.endpoint());
        // These take locks that all calls need, so they come last.
        let is_spare =
            || (self.predicted_wait.has_surplus)(payer) && (self.predicted_wait.wait)(payer) == Duration::ZERO;
        if !is_wanted || !is_spare() {
            return None;
        }
        evidence.begin_comparison(request.endpoint(), self.merge.max_ids.get())
    }

    /// Makes a comparison call. It has no time to wait for a slot.
    pub(super) async fn compare(&self, comparison: Comparison, inner: Below) {
        let now = Instant::now();
        let attempt = Attempt {
            request: Arc::new(ComparisonRequest {
                comparison: comparison.clone(),
                upstream_profile: Arc::clone(&self.upstream_profile),
            }),
            caller: Arc::new(Caller {
                name: Name::of_gateway(),
                urgency: Urgency::LAST,
                deadline: now,
                wait: None,
                cache_directives: CacheDirectives::default(),
                request_id: RequestId::random(),
                trace: Trace::None,
                has_fallback: true,
            }),
            position: QueuePosition::new(now),
            retries: Retries::default(),
        };
        let result = inner.call(attempt).await;
        let rows = attributed_rows(&comparison.request, &result);
        if let Ok(rows) = &rows {
            self.upstream_profile.learn(&comparison.request, rows);
        }
        let fits = |request: &Request, rows: usize| self.upstream_profile.fits(request, rows);
        self.upstream_profile.merge_evidence().end_comparison(
            &comparison,
            rows.as_ref().map_err(|split_error| *split_error),
            fits,
        );
    }
}
