//! Caches the last request of a connection: a caller that polls sends the same bytes again, which
//! need not be parsed again.

use std::hash::{BuildHasher as _, Hash};
use std::sync::Arc;

use bytes::Bytes;
use foldhash::quality::FixedState;

use crate::memory::{MemoryBudget, Reservation};
use crate::scan::{Request, Target};

/// What a request is parsed from, except a caller's own token.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawRequest<'a> {
    pub(super) target: &'a Target,
    pub(super) query: Option<&'a str>,
    pub(super) body: &'a [u8],
}

impl RawRequest<'_> {
    /// The parts in which most requests differ. Hashing them costs a fraction of hashing a large
    /// body, and is enough to guess that a request is repeated; a wrong guess costs a copy.
    fn fingerprint(&self) -> impl Hash {
        const END: usize = 256;
        let body = self.body;
        let (head, tail) = (&body[..body.len().min(END)], &body[body.len().saturating_sub(END)..]);
        (self.target, self.query, body.len(), head, tail)
    }
}

/// Caches a request once it has come twice in a row; others are not worth a copy of their bodies.
#[derive(Debug)]
pub(super) struct LastRequestCache {
    hash: u64,
    cached: Option<CachedRequest>,
    budget: Arc<MemoryBudget>,
}

#[derive(Debug)]
struct CachedRequest {
    target: Target,
    query: Option<Box<str>>,
    body: Bytes,
    request: Arc<Request>,
    _share: Reservation,
}

impl LastRequestCache {
    /// All caches with the same `budget` share its bytes.
    pub(super) fn new(budget: Arc<MemoryBudget>) -> Self {
        Self {
            hash: 0,
            cached: None,
            budget,
        }
    }

    /// The parsed request for exactly these bytes, if it is cached.
    pub(super) fn get(&self, raw_request: RawRequest<'_>) -> Option<Arc<Request>> {
        let cached = self.cached.as_ref().filter(|cached| cached.is(raw_request))?;
        Some(Arc::clone(&cached.request))
    }

    /// Records a request that was parsed. Only valid ones come here; an invalid one is parsed and
    /// rejected again.
    pub(super) fn record(&mut self, raw_request: RawRequest<'_>, request: &Arc<Request>) {
        let hash = FixedState::default().hash_one(raw_request.fingerprint());
        self.cached = (self.hash == hash)
            .then(|| CachedRequest::new(raw_request, request, &self.budget))
            .flatten();
        self.hash = hash;
    }
}

impl CachedRequest {
    /// `None` when all caches together would use too much memory.
    fn new(raw_request: RawRequest<'_>, request: &Arc<Request>, budget: &Arc<MemoryBudget>) -> Option<Self> {
        // The body, and about as much again for the parsed request.
        let share = budget.try_reserve(2 * raw_request.body.len())?;
        Some(Self {
            target: raw_request.target.clone(),
            query: raw_request.query.map(Box::from),
            body: Bytes::copy_from_slice(raw_request.body),
            request: Arc::clone(request),
            _share: share,
        })
    }

    fn is(&self, raw_request: RawRequest<'_>) -> bool {
        self.body == raw_request.body
            && self.target == *raw_request.target
            && self.query.as_deref() == raw_request.query
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Endpoint, ParseError};

    /// The request, and whether it had to be parsed.
    fn ask(
        memo: &mut LastRequestCache,
        endpoint: Endpoint,
        query: Option<&str>,
        body: &str,
    ) -> (Result<Arc<Request>, ParseError>, bool) {
        let body = body.as_bytes();
        let target = Target { endpoint, id: None };
        let raw_request = RawRequest {
            target: &target,
            query,
            body,
        };
        if let Some(request) = memo.get(raw_request) {
            return (Ok(request), false);
        }
        let request = Request::parse(endpoint, query, body).map(Arc::new);
        if let Ok(request) = &request {
            memo.record(raw_request, request);
        }
        (request, true)
    }

    #[test]
    fn a_repeated_request_is_parsed_twice_and_then_cached() {
        let mut memo = LastRequestCache::new(MemoryBudget::new(1000));
        let body = r#"{"ScanDefinitionIds":["b","a"]}"#;
        let mut asked = || ask(&mut memo, Endpoint::HISTORY, None, body);
        let (first, second, third) = (asked(), asked(), asked());
        assert_eq!((first.1, second.1, third.1), (true, true, false));
        assert_eq!(first.0, third.0);
        // An error is never cached.
        assert!(ask(&mut memo, Endpoint::HISTORY, None, "{}").0.is_err());
        assert!(ask(&mut memo, Endpoint::HISTORY, None, "{}").0.is_err());
    }

    #[test]
    fn other_bytes_are_another_request() {
        let mut memo = LastRequestCache::new(MemoryBudget::new(1000));
        let body = |id| format!(r#"{{"ScanDefinitionIds":["{id}"]}}"#);
        let cases = [
            (Endpoint::HISTORY, None, body("a")),
            (Endpoint::HISTORY_V1, None, body("a")),
            (Endpoint::HISTORY, Some("$top=1"), body("a")),
            (Endpoint::HISTORY, Some("$skip=1"), body("a")),
            (Endpoint::HISTORY, None, body("b")),
        ];
        for (version, query, body) in &cases {
            for _ in 0..3 {
                let (request, _) = ask(&mut memo, *version, *query, body);
                assert_eq!(
                    *request.unwrap(),
                    Request::parse(*version, *query, body.as_bytes()).unwrap()
                );
            }
        }
    }

    #[test]
    fn large_requests_that_differ_in_the_middle_only_are_told_apart() {
        let mut memo = LastRequestCache::new(MemoryBudget::new(1 << 20));
        let body = |middle| {
            let long = "x".repeat(200);
            format!(r#"{{"ScanDefinitionIds":["a{long}","b{long}","{middle}","y{long}","z{long}"]}}"#)
        };
        for middle in ["m", "n", "m", "m", "n"] {
            let (request, _) = ask(&mut memo, Endpoint::HISTORY, None, &body(middle));
            assert!(request.unwrap().ids().any(|id| id == middle));
        }
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        let budget = MemoryBudget::new(100);
        let mut memo = LastRequestCache::new(Arc::clone(&budget));
        let small = r#"{"ScanDefinitionIds":["a"]}"#;
        let large = format!(r#"{{"ScanDefinitionIds":["{}"]}}"#, "x".repeat(50));
        for (body, left) in [
            (small, 100 - 2 * small.len()),
            (&*large, 100),
            (small, 100 - 2 * small.len()),
        ] {
            for _ in 0..3 {
                ask(&mut memo, Endpoint::HISTORY, None, body).0.unwrap();
            }
            assert_eq!(budget.left(), left);
        }
        drop(memo);
        assert_eq!(budget.left(), 100);
    }
}
