//! What the requests of one connection share: the service below, and the last request.

use std::hash::{BuildHasher as _, Hash};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use bytes::Bytes;
use foldhash::quality::FixedState;
use tower::Service;

use super::Shared;
use crate::BoxError;
use crate::caller::Caller;
use crate::memory::{MemoryBudget, Reservation};
use crate::operation::Input;
use crate::response::Tag;
use crate::scan::{self, Call, CallerToken, ParseError, ServedResponse, Target};

/// What the requests of one connection share, so that a request needs one copy of a pointer instead
/// of one for each part.
#[derive(Debug)]
pub(super) struct ConnectionContext<S> {
    pub(super) shared: Arc<Shared>,
    service: Mutex<ConnectionService<S>>,
}

#[derive(Debug)]
struct ConnectionService<S> {
    last_request: LastRequestCache,
    inner: S,
}

impl<S> ConnectionContext<S> {
    pub(super) fn new(shared: Arc<Shared>, inner: S) -> Arc<Self> {
        let last_request = LastRequestCache::new(Arc::clone(&shared.last_request_budget));
        Arc::new(Self {
            shared,
            service: Mutex::new(ConnectionService { last_request, inner }),
        })
    }

    /// The context of another connection.
    pub(super) fn for_new_connection(&self) -> Arc<Self>
    where
        S: Clone,
    {
        let inner = self.service().inner.clone();
        Self::new(Arc::clone(&self.shared), inner)
    }

    fn service(&self) -> MutexGuard<'_, ConnectionService<S>> {
        self.service.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> ConnectionContext<S>
where
    S: Service<Call, Response = ServedResponse, Error = BoxError> + Clone,
{
    /// Parses the request and calls the service below.
    pub(super) fn call(&self, head: RequestHead, body: &[u8]) -> Result<S::Future, ParseError> {
        let (target, query) = (&head.target, head.query.as_deref());
        let read = || match target.endpoint.operation.declaration().input {
            Input::Ids { .. } => scan::Request::parse(target.endpoint, query, body),
            // A body of a `GET`, such as `{}`, means nothing (RFC 9110 §9.3.1).
            Input::Path => scan::Request::get(target, query),
        };
        let caller = head.caller;
        let (request, mut service) = if let Some(caller_token) = head.caller_token {
            (Arc::new(read()?.with_token(caller_token)), self.service())
        } else {
            let raw_request = RawRequest { target, query, body };
            let service = self.service();
            if let Some(cached) = service.last_request.get(raw_request) {
                (cached, service)
            } else {
                // Other requests of this connection go on meanwhile.
                drop(service);
                let request = Arc::new(read()?);
                let mut service = self.service();
                service.last_request.record(raw_request, &request);
                (request, service)
            }
        };
        let call = Call { request, caller };
        if head.multiplexed {
            // Other requests of this connection are answered at the same time, and joining ten
            // thousand rows for one of them takes a while.
            let mut inner = service.inner.clone();
            drop(service);
            return Ok(call_now(&mut inner, call));
        }
        Ok(call_now(&mut service.inner, call))
    }
}

fn call_now<S>(service: &mut S, call: Call) -> S::Future
where
    S: Service<Call>,
{
    let ready = service.poll_ready(&mut Context::from_waker(Waker::noop()));
    debug_assert!(ready.is_ready(), "the request would never be woken");
    service.call(call)
}

/// The head of a request: what is known before the body. It is small, because it is moved, and the
/// HTTP head can be dropped.
#[derive(Debug)]
pub(super) struct RequestHead {
    pub(super) target: Target,
    pub(super) tag: Tag,
    pub(super) query: Option<Box<str>>,
    pub(super) caller_token: Option<CallerToken>,
    pub(super) caller: Arc<Caller>,
    /// Over HTTP/2 a connection has several requests at a time.
    pub(super) multiplexed: bool,
}

/// What a request is parsed from, except a caller's own token.
#[derive(Clone, Copy, Debug)]
struct RawRequest<'a> {
    target: &'a Target,
    query: Option<&'a str>,
    body: &'a [u8],
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

/// Caches the last request of a connection: a caller that polls sends the same bytes again, which
/// need not be parsed again. It does so once they have come twice in a row; others are not worth a
/// copy of their bodies.
#[derive(Debug)]
struct LastRequestCache {
    hash: u64,
    cached: Option<CachedRequest>,
    budget: Arc<MemoryBudget>,
}

#[derive(Debug)]
struct CachedRequest {
    target: Target,
    query: Option<Box<str>>,
    body: Bytes,
    request: Arc<scan::Request>,
    _share: Reservation,
}

impl LastRequestCache {
    /// All caches with the same `budget` share its bytes.
    fn new(budget: Arc<MemoryBudget>) -> Self {
        Self {
            hash: 0,
            cached: None,
            budget,
        }
    }

    /// The parsed request for exactly these bytes, if it is cached.
    fn get(&self, raw_request: RawRequest<'_>) -> Option<Arc<scan::Request>> {
        let cached = self.cached.as_ref().filter(|cached| cached.is(raw_request))?;
        Some(Arc::clone(&cached.request))
    }

    /// Records a request that was parsed. Only valid ones come here; an invalid one is parsed and
    /// rejected again.
    fn record(&mut self, raw_request: RawRequest<'_>, request: &Arc<scan::Request>) {
        let hash = FixedState::default().hash_one(raw_request.fingerprint());
        self.cached = (self.hash == hash)
            .then(|| CachedRequest::new(raw_request, request, &self.budget))
            .flatten();
        self.hash = hash;
    }
}

impl CachedRequest {
    /// `None` when all caches together would use too much memory.
    fn new(raw_request: RawRequest<'_>, request: &Arc<scan::Request>, budget: &Arc<MemoryBudget>) -> Option<Self> {
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
    use std::pin::pin;
    use std::sync::Condvar;
    use std::task::Poll;
    use std::time::Duration;

    use http::{Request, Version, header};
    use http_body_util::Full;
    use tower::{Layer as _, Service as _, service_fn};

    use super::*;
    use crate::server::{InboundRequest, Peer, read};

    fn head(version: Version) -> InboundRequest<Full<Bytes>> {
        let body = Full::from(r#"{"ScanDefinitionIds":["a"]}"#);
        let request = Request::post(scan::Endpoint::HISTORY.template())
            .version(version)
            .header(header::CONTENT_TYPE, "application/json");
        InboundRequest::new(request.body(body).unwrap(), Peer::unix())
    }

    /// Answers two calls that are made at the same time, and records how many came together.
    #[derive(Default)]
    struct Meeting {
        here: Mutex<u32>,
        came: Condvar,
    }

    impl Meeting {
        fn attend(&self) -> u32 {
            let mut here = self.here.lock().unwrap();
            *here += 1;
            self.came.notify_all();
            let (here, _) = self
                .came
                .wait_timeout_while(here, Duration::from_secs(10), |here| *here < 2)
                .unwrap();
            *here
        }
    }

    #[test]
    fn streams_of_a_connection_are_answered_at_the_same_time() {
        let meeting = Arc::new(Meeting::default());
        let inner = service_fn(move |_: Call| {
            let here = meeting.attend();
            std::future::ready(Err::<ServedResponse, BoxError>(here.to_string().into()))
        });
        let mut service = read::Layer::new(read::Config::default()).layer(inner);
        let requests = [0, 1].map(|_| service.call(head(Version::HTTP_2)));
        std::thread::scope(|scope| {
            let threads = requests.map(|request| {
                scope.spawn(
                    move || match pin!(request).poll(&mut Context::from_waker(Waker::noop())) {
                        Poll::Ready(Err(error)) => error.to_string(),
                        other => format!("{other:?}"),
                    },
                )
            });
            for thread in threads {
                assert_eq!(thread.join().unwrap(), "2");
            }
        });
    }

    /// The request, and whether it had to be parsed.
    fn ask(
        memo: &mut LastRequestCache,
        endpoint: scan::Endpoint,
        query: Option<&str>,
        body: &str,
    ) -> (Result<Arc<scan::Request>, ParseError>, bool) {
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
        let request = scan::Request::parse(endpoint, query, body).map(Arc::new);
        if let Ok(request) = &request {
            memo.record(raw_request, request);
        }
        (request, true)
    }

    #[test]
    fn a_repeated_request_is_parsed_twice_and_then_cached() {
        let mut memo = LastRequestCache::new(MemoryBudget::new(1000));
        let body = r#"{"ScanDefinitionIds":["b","a"]}"#;
        let mut asked = || ask(&mut memo, scan::Endpoint::HISTORY, None, body);
        let (first, second, third) = (asked(), asked(), asked());
        assert_eq!((first.1, second.1, third.1), (true, true, false));
        assert_eq!(first.0, third.0);
        // An error is never cached.
        assert!(ask(&mut memo, scan::Endpoint::HISTORY, None, "{}").0.is_err());
        assert!(ask(&mut memo, scan::Endpoint::HISTORY, None, "{}").0.is_err());
    }

    #[test]
    fn other_bytes_are_another_request() {
        let mut memo = LastRequestCache::new(MemoryBudget::new(1000));
        let body = |id| format!(r#"{{"ScanDefinitionIds":["{id}"]}}"#);
        let cases = [
            (scan::Endpoint::HISTORY, None, body("a")),
            (scan::Endpoint::HISTORY_V1, None, body("a")),
            (scan::Endpoint::HISTORY, Some("$top=1"), body("a")),
            (scan::Endpoint::HISTORY, Some("$skip=1"), body("a")),
            (scan::Endpoint::HISTORY, None, body("b")),
        ];
        for (version, query, body) in &cases {
            for _ in 0..3 {
                let (request, _) = ask(&mut memo, *version, *query, body);
                assert_eq!(
                    *request.unwrap(),
                    scan::Request::parse(*version, *query, body.as_bytes()).unwrap()
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
            let (request, _) = ask(&mut memo, scan::Endpoint::HISTORY, None, &body(middle));
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
                ask(&mut memo, scan::Endpoint::HISTORY, None, body).0.unwrap();
            }
            assert_eq!(budget.left(), left);
        }
        drop(memo);
        assert_eq!(budget.left(), 100);
    }
}
