//! Which stale entries wait to be renewed, and which of them is next.
//!
//! Quota to spare comes a call at a time. If each stale entry took it when somebody happens to ask, those asked for just after it came would
//! be renewed again and again, and the others never. So whoever finds some gives it to the entry that has been stale for longest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::caller::Caller;
use crate::scan::{Call, Key, Payer, Request};

/// Questions to which somebody was given a stale answer.
#[derive(Debug, Default)]
pub(super) struct Wanted(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    questions: HashMap<Key, Question>,
    /// What their keys take; what else belongs to a question is small.
    bytes: usize,
}

/// The answer is not held: that would keep it in memory after the cache has let it go.
#[derive(Debug)]
struct Question {
    request: Arc<Request>,
    caller: Arc<Caller>,
    fresh_until: Instant,
}

impl Wanted {
    /// Most questions that wait. A minute's surplus renews a few dozen; who finds no place here comes back with the next request.
    const MOST: usize = 1024;
    /// Most that their keys may take, for questions of thousands of ids.
    const MOST_BYTES: usize = 1 << 20;

    /// Notes that the answer to a question was wanted, which has been stale since `fresh_until`.
    pub(super) fn note(&self, call: &Call, fresh_until: Instant) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = &mut *guard;
        let key = call.request.key();
        if let Some(known) = waiting.questions.get_mut(key) {
            known.fresh_until = fresh_until;
        } else if waiting.questions.len() < Self::MOST && waiting.bytes + key.len() <= Self::MOST_BYTES {
            waiting.bytes += key.len();
            let question = Question {
                request: Arc::clone(&call.request),
                caller: Arc::clone(&call.caller),
                fresh_until,
            };
            waiting.questions.insert(key.clone(), question);
        }
    }

    /// Takes out the one that has been stale for longest, of those that are paid for so.
    pub(super) fn next(&self, payer: Payer) -> Option<Call> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = waiting
            .questions
            .iter()
            .filter(|(_, question)| question.request.payer() == payer)
            .min_by_key(|(_, question)| question.fresh_until)
            .map(|(key, _)| key.clone())?;
        waiting.bytes -= key.len();
        let Question { request, caller, .. } = waiting.questions.remove(&key)?;
        Some(Call { request, caller })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::bench::call;
    use super::*;
    use crate::caller::Freshness;

    #[tokio::test(start_paused = true)]
    async fn the_stalest_comes_first_and_few_wait() {
        let wanted = Wanted::default();
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        let ask = |id: &str| call(id, Freshness::default());
        for (id, seconds) in [("b", 2), ("a", 1), ("c", 3), ("a", 9)] {
            wanted.note(&ask(id), at(seconds));
        }
        let mut order = Vec::new();
        while let Some(call) = wanted.next(Payer::HISTORY) {
            order.extend(call.request.ids().map(str::to_owned));
        }
        assert_eq!(order, ["b", "c", "a"]);
        let long = "x".repeat(100);
        for n in 0..20_000 {
            wanted.note(&ask(&format!("{n}{long}")), at(0));
        }
        let count = std::iter::from_fn(|| wanted.next(Payer::HISTORY)).count();
        assert_eq!(count, Wanted::MOST);
        assert_eq!(wanted.0.lock().unwrap().bytes, 0);
    }
}
