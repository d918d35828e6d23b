//! What the requests of one connection share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use tower::Service;

use super::Shared;
use super::last_request::{LastRequestCache, RawRequest};
use crate::BoxError;
use crate::caller::Caller;
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

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Condvar;
    use std::task::Poll;
    use std::time::Duration;

    use bytes::Bytes;
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
}
