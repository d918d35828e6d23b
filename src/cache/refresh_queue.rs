//! The queue of stale entries that wait for a refresh.
//!
//! Spare quota comes one call at a time. If every stale entry took it when it happens to be asked
//! for, entries that are asked for just after the quota arrives would be refreshed again and again,
//! and others never. So the request that finds spare quota uses it for the entry that has been
//! stale for longest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::caller::Caller;
use crate::scan::{Call, Key, Payer, Request};

/// Requests that were answered with a stale entry.
#[derive(Debug, Default)]
pub(super) struct RefreshQueue(Mutex<QueuedRequests>);

#[derive(Debug, Default)]
struct QueuedRequests {
    requests: HashMap<Key, StaleRequest>,
    /// The size of the keys; the rest of a queued request is small.
    bytes: usize,
}

/// The answer itself is not held, which would keep it in memory after the cache has evicted it.
#[derive(Debug)]
struct StaleRequest {
    request: Arc<Request>,
    caller: Arc<Caller>,
    fresh_until: Instant,
}

impl RefreshQueue {
    /// The most requests in the queue. A minute's spare quota refreshes a few dozen; a request that
    /// finds the queue full is queued again when it is next asked for.
    const MAX_REQUESTS: usize = 1024;
    /// The most bytes of keys, for requests with thousands of ids.
    const MAX_KEY_BYTES: usize = 1 << 20;

    /// Adds a request whose answer has been stale since `fresh_until`.
    pub(super) fn push(&self, call: &Call, fresh_until: Instant) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = &mut *guard;
        let key = call.request.key();
        if let Some(known) = waiting.requests.get_mut(key) {
            known.fresh_until = fresh_until;
        } else if waiting.requests.len() < Self::MAX_REQUESTS && waiting.bytes + key.len() <= Self::MAX_KEY_BYTES {
            waiting.bytes += key.len();
            let stale_request = StaleRequest {
                request: Arc::clone(&call.request),
                caller: Arc::clone(&call.caller),
                fresh_until,
            };
            waiting.requests.insert(key.clone(), stale_request);
        }
    }

    /// Removes the request of this payer whose answer has been stale for longest.
    pub(super) fn pop_stalest(&self, payer: Payer) -> Option<Call> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = waiting
            .requests
            .iter()
            .filter(|(_, stale_request)| stale_request.request.payer() == payer)
            .min_by_key(|(_, stale_request)| stale_request.fresh_until)
            .map(|(key, _)| key.clone())?;
        waiting.bytes -= key.len();
        let StaleRequest { request, caller, .. } = waiting.requests.remove(&key)?;
        Some(Call { request, caller })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::fixture::call;
    use super::*;
    use crate::caller::CacheDirectives;

    #[tokio::test(start_paused = true)]
    async fn the_stalest_comes_first_and_few_wait() {
        let queue = RefreshQueue::default();
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        let ask = |id: &str| call(id, CacheDirectives::default());
        for (id, seconds) in [("b", 2), ("a", 1), ("c", 3), ("a", 9)] {
            queue.push(&ask(id), at(seconds));
        }
        let mut order = Vec::new();
        while let Some(call) = queue.pop_stalest(Payer::HISTORY) {
            order.extend(call.request.ids().map(str::to_owned));
        }
        assert_eq!(order, ["b", "c", "a"]);
        let long = "x".repeat(100);
        for n in 0..20_000 {
            queue.push(&ask(&format!("{n}{long}")), at(0));
        }
        let count = std::iter::from_fn(|| queue.pop_stalest(Payer::HISTORY)).count();
        assert_eq!(count, RefreshQueue::MAX_REQUESTS);
        assert_eq!(queue.0.lock().unwrap().bytes, 0);
    }
}
