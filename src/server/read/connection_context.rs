//! What the requests of one connection have in common.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use tower::Service;

use super::last_request::{LastRequestCache, RawRequest};
use super::layer::Shared;
use crate::BoxError;
use crate::caller::Caller;
use crate::operation::Input;
use crate::response::Tag;
use crate::scan::{self, Call, Delegated, Invalid, Served, Target};

/// What the requests of one connection share: a request takes one copy of a pointer along, not one of each thing.
#[derive(Debug)]
pub(super) struct Line<S> {
    pub(super) shared: Arc<Shared>,
    seat: Mutex<Seat<S>>,
}

#[derive(Debug)]
struct Seat<S> {
    memo: LastRequestCache,
    inner: S,
}

impl<S> Line<S> {
    pub(super) fn new(shared: Arc<Shared>, inner: S) -> Arc<Self> {
        let memo = LastRequestCache::new(Arc::clone(&shared.remembered));
        Arc::new(Self {
            shared,
            seat: Mutex::new(Seat { memo, inner }),
        })
    }

    /// For another connection.
    pub(super) fn another(&self) -> Arc<Self>
    where
        S: Clone,
    {
        let inner = self.seat().inner.clone();
        Self::new(Arc::clone(&self.shared), inner)
    }

    fn seat(&self) -> MutexGuard<'_, Seat<S>> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Line<S>
where
    S: Service<Call, Response = Served, Error = BoxError> + Clone,
{
    /// Asks the service below.
    pub(super) fn ask(&self, asked: Asked, body: &[u8]) -> Result<S::Future, Invalid> {
        let (target, query) = (&asked.target, asked.query.as_deref());
        let read = || match target.endpoint.operation.declaration().input {
            Input::Ids { .. } => scan::Request::parse(target.endpoint, query, body),
            Input::Path if body.is_empty() => scan::Request::get(target, query),
            Input::Path => Err(Invalid::Body),
        };
        let caller = asked.caller;
        let (request, mut seat) = if let Some(delegated) = asked.delegated {
            (Arc::new(read()?.with_token(delegated)), self.seat())
        } else {
            let wording = RawRequest { target, query, body };
            let seat = self.seat();
            if let Some(known) = seat.memo.recall(wording) {
                (known, seat)
            } else {
                // Others of this connection go on meanwhile.
                drop(seat);
                let request = Arc::new(read()?);
                let mut seat = self.seat();
                seat.memo.note(wording, &request);
                (request, seat)
            }
        };
        let call = Call { request, caller };
        if asked.multiplexed {
            // Others of this connection are asked for at the same time, and to answer one may mean to put ten thousand rows together.
            let mut inner = seat.inner.clone();
            drop(seat);
            return Ok(call_now(&mut inner, call));
        }
        Ok(call_now(&mut seat.inner, call))
    }
}

fn call_now<S>(service: &mut S, call: Call) -> S::Future
where
    S: Service<Call>,
{
    let ready = service.poll_ready(&mut Context::from_waker(Waker::noop()));
    debug_assert!(ready.is_ready(), "nobody would wake the request");
    service.call(call)
}

/// A question without its ids: what is known before the body. Small, because it is moved about, and the head can go.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) target: Target,
    pub(super) tag: Tag,
    pub(super) query: Option<Box<str>>,
    pub(super) delegated: Option<Delegated>,
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

    fn asked(version: Version) -> InboundRequest<Full<Bytes>> {
        let body = Full::from(r#"{"ScanDefinitionIds":["a"]}"#);
        let request = Request::post(scan::Endpoint::HISTORY.template())
            .version(version)
            .header(header::CONTENT_TYPE, "application/json");
        InboundRequest::new(request.body(body).unwrap(), Peer::unix())
    }

    /// Answers two calls that are made at the same time; how many came together.
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
        let meeting = Meeting::default();
        let inner = service_fn(|_: Call| {
            let here = meeting.attend();
            std::future::ready(Err::<Served, BoxError>(here.to_string().into()))
        });
        let mut service = read::Layer::new(read::Config::default()).layer(inner);
        let requests = [0, 1].map(|_| service.call(asked(Version::HTTP_2)));
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
