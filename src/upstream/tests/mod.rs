//! Calls over real sockets, and the retry policy in paused time.

mod client;
mod memory;
mod retry;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::caller::{CacheDirectives, Caller, Name, RequestId, Urgency};

fn caller(deadline: Duration) -> Arc<Caller> {
    Arc::new(Caller {
        name: Name::new("test"),
        urgency: Urgency::default(),
        deadline: Instant::now() + deadline,
        wait: None,
        cache_directives: CacheDirectives::default(),
        request_id: RequestId::from_caller("id-1").unwrap(),
        trace: crate::telemetry::trace::Trace::None,
        has_fallback: false,
    })
}
