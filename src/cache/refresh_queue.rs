//! Which stale entry is refreshed next.
//!
//! Spare quota comes one call at a time. If every stale entry took it when it happens to be asked
//! for, entries that are asked for just after the quota arrives would be refreshed again and again,
//! and others never. So the request that finds spare quota uses it for the entry that has been
//! stale for longest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
    next_sweep: Option<Instant>,
}

/// The answer itself is not held, which would keep it in memory after the cache has evicted it.
#[derive(Debug)]
struct StaleRequest {
    request: Arc<Request>,
    caller: Arc<Caller>,
    fresh_until: Instant,
    /// When it was last asked for.
    asked: Instant,
}

impl RefreshQueue {
    /// The most requests in the queue. A minute's spare quota refreshes a few dozen; a request that
    /// finds the queue full is queued again when it is next asked for.
    const MAX_REQUESTS: usize = 1024;
    /// The most bytes of keys, for requests with thousands of ids.
    const MAX_KEY_BYTES: usize = 1 << 20;
    /// A request that nobody asks for so long leaves the queue. Only requests of the same payer take
    /// one out, and the payer may be a token that has expired.
    const UNASKED: Duration = Duration::from_mins(10);
    /// How often such requests are looked for.
    const SWEEP: Duration = Duration::from_mins(1);

    /// Adds a request, asked for at `now`, whose answer has been stale since `fresh_until`.
    pub(super) fn push(&self, call: &Call, fresh_until: Instant, now: Instant) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = &mut *guard;
        waiting.sweep(now);
        let key = call.request.key();
        if let Some(known) = waiting.requests.get_mut(key) {
            known.fresh_until = fresh_until;
            known.asked = now;
        } else if waiting.requests.len() < Self::MAX_REQUESTS && waiting.bytes + key.len() <= Self::MAX_KEY_BYTES {
            waiting.bytes += key.len();
            let stale_request = StaleRequest {
                request: Arc::clone(&call.request),
                caller: Arc::clone(&call.caller),
                fresh_until,
                asked: now,
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

impl QueuedRequests {
    /// Removes the requests that nobody has asked for in a while.
    fn sweep(&mut self, now: Instant) {
        if self.next_sweep.is_some_and(|next| now < next) {
            return;
        }
        self.next_sweep = Some(now + RefreshQueue::SWEEP);
        self.requests
            .retain(|_, request| now.saturating_duration_since(request.asked) < RefreshQueue::UNASKED);
        self.bytes = self.requests.keys().map(Key::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::fixture::call;
    use super::*;
    use crate::caller::CacheDirectives;
    use crate::operation::Operation;
    use crate::scan::{CallerToken, Endpoint};

    #[tokio::test(start_paused = true)]
    async fn the_stalest_comes_first_and_few_wait() {
        let queue = RefreshQueue::default();
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        let ask = |id: &str| call(id, CacheDirectives::default());
        let session = Request::plain(Endpoint::latest(Operation::HistoryBySession), ["s"]).unwrap();
        let session = Call {
            request: Arc::new(session),
            ..ask("s")
        };
        let now = Instant::now();
        queue.push(&session, at(0), now);
        for (id, seconds) in [("b", 2), ("a", 1), ("c", 3), ("a", 9)] {
            queue.push(&ask(id), at(seconds), now);
        }
        let mut order = Vec::new();
        while let Some(call) = queue.pop_stalest(Payer::HISTORY) {
            order.extend(call.request.ids().map(str::to_owned));
        }
        assert_eq!(order, ["b", "c", "a"]);
        assert!(queue.pop_stalest(session.request.payer()).is_some(), "of another payer");
        let long = "x".repeat(100);
        for n in 0..20_000 {
            queue.push(&ask(&format!("{n}{long}")), at(0), now);
        }
        let count = std::iter::from_fn(|| queue.pop_stalest(Payer::HISTORY)).count();
        assert_eq!(count, RefreshQueue::MAX_REQUESTS);
        assert_eq!(queue.0.lock().unwrap().bytes, 0);
        for n in 0..1_000 {
            let ids: Vec<_> = (0..20).map(|id| format!("{n}.{id}{long}")).collect();
            let request = Request::plain(Endpoint::HISTORY, ids.iter().map(String::as_str)).unwrap();
            let request = Arc::new(request);
            queue.push(&Call { request, ..ask("x") }, at(0), now);
        }
        let bytes = queue.0.lock().unwrap().bytes;
        assert!(bytes > 1_000_000 && bytes <= RefreshQueue::MAX_KEY_BYTES, "{bytes}");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_of_a_token_that_is_gone_make_room() {
        let queue = RefreshQueue::default();
        let ask = |id: &str| call(id, CacheDirectives::default());
        let push = |call: &Call| queue.push(call, Instant::now(), Instant::now());
        for n in 0..RefreshQueue::MAX_REQUESTS {
            let request = Request::plain(Endpoint::HISTORY, [&*n.to_string()]).unwrap();
            let request = Arc::new(request.with_token(CallerToken::new("gone").unwrap()));
            push(&Call { request, ..ask("x") });
        }
        push(&ask("own"));
        assert!(queue.pop_stalest(Payer::HISTORY).is_none(), "the queue is full");
        tokio::time::advance(RefreshQueue::UNASKED).await;
        push(&ask("own"));
        assert!(queue.pop_stalest(Payer::HISTORY).is_some());
        let waiting = queue.0.lock().unwrap();
        assert_eq!((waiting.requests.len(), waiting.bytes), (0, 0), "nor is the token held");
    }
}
