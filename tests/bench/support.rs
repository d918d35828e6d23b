//! What the benchmarks measure: the path of a hit, without sockets.

use std::convert::Infallible;
use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tower::{Service, ServiceBuilder, service_fn};

use defender_gateway::testing::cache::{self, Cache};
use defender_gateway::testing::middleware::Next;
use defender_gateway::testing::response::{self, Body, Windows};
use defender_gateway::testing::scan::{self, CacheSink as _, Call, Endpoint, ServedResponse, UpstreamResponse};
use defender_gateway::testing::server::InboundRequest;
use defender_gateway::testing::task::Tasks;
use defender_gateway::testing::{BoxError, server};

/// A body that asks for `count` ids of the `key`-th request, as a caller would write it.
pub(crate) fn body(key: usize, count: usize) -> Bytes {
    let ids: Vec<_> = (0..count)
        .map(|nth| {
            let mixed = (key * 2_654_435_761 + nth * 40_503) % (1 << 32);
            format!("\"{mixed:08X}-{nth:04x}-4001-a001-{key:012x}\"")
        })
        .collect();
    format!("{{\"ScanDefinitionIds\": [{}]}}", ids.join(", ")).into()
}

pub(crate) fn parse_request(body: &[u8]) -> scan::Request {
    scan::Request::parse(Endpoint::HISTORY, None, body).unwrap()
}

/// An answer of this many bytes, nineteen at least, without rows.
pub(crate) fn answer(bytes: usize) -> UpstreamResponse {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    UpstreamResponse {
        status: StatusCode::OK,
        headers: headers.into(),
        body: format!(r#"{{"value":[],"x":"{}"}}"#, "x".repeat(bytes.saturating_sub(19))).into(),
    }
}

pub(crate) fn cache(max_size: u64) -> Arc<Cache> {
    let config = cache::Config {
        ttl: Duration::from_hours(24),
        max_size,
        ..cache::Config::default()
    };
    Arc::new(Cache::new(
        config,
        None,
        cache::Metrics::register(&mut Registry::default()),
    ))
}

pub(crate) fn keep(cache: &Cache, body: &[u8], answer: &UpstreamResponse) {
    let kept = cache.keep(&parse_request(body), answer, Instant::now());
    assert!(kept.is_some(), "the answer is kept");
}

/// All layers of a hit, over a cache.
pub(crate) fn path(
    cache: &Arc<Cache>,
) -> impl Service<InboundRequest<Full<Bytes>>, Response = Response<Body>, Error = Infallible> + use<> {
    let count = server::access_log::Metrics::register(&mut Registry::default());
    let below = service_fn(|_: Call| async { Err::<ServedResponse, BoxError>("nothing is forwarded".into()) });
    ServiceBuilder::new()
        .layer(server::access_log::Layer::new(
            count.clone(),
            server::access_log::Config {
                caller_header: Some(HeaderName::from_static("x-caller")),
                access_log: false,
            },
        ))
        .layer(respond())
        .filter(server::guard::Guard::new(server::guard::Hosts::default()))
        .layer(server::route::layer())
        .layer(server::read::Layer::new(server::read::Config {
            max_body: 1 << 20,
            body_timeout: server::read::Config::BODY_TIMEOUT,
            body_budget: 64 << 20,
            max_wait: Duration::from_secs(20),
            max_wait_limit: Duration::from_mins(10),
            authorization: server::read::Authorization::Dropped,
        }))
        .layer(cache::Layer::new(Arc::clone(cache), Tasks::new(), Arc::new(|_| false)))
        .service(Next::new(below))
}

/// The layer that writes answers.
pub(crate) fn respond() -> response::Layer {
    let window = |name: &str, quota, window_s| response::Window {
        name: name.into(),
        quota,
        window_s,
        remaining: 37,
        reset_s: 12,
        spread: None,
    };
    let windows = Windows::new(vec![window("1m", 100, 60), window("1h", 1500, 3600)], None);
    response::Layer::new([response::Config {
        upstream_hosts: vec!["api.security.microsoft.com".into()],
        rate_limit: Arc::new(move |_, show| show(&windows)),
        panics: Counter::default(),
        exhausted: Counter::default(),
        token_owner: scan::TokenOwner::Gateway,
        vary: None,
        large_answers: None,
    }])
}

/// A request as it comes from a socket.
pub(crate) fn request(peer: &server::Peer, body: Bytes) -> InboundRequest<Full<Bytes>> {
    let request = Request::post(Endpoint::HISTORY.template())
        .header(header::HOST, "localhost:8080")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, body.len())
        .body(Full::new(body))
        .unwrap();
    InboundRequest::new(request, peer.clone())
}

pub(crate) fn peer() -> server::Peer {
    server::Peer::tcp("127.0.0.1:4711".parse().unwrap(), "127.0.0.1:8080".parse().unwrap())
}

/// The result of a future that does not wait.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => black_box(result),
        Poll::Pending => unreachable!("a hit does not wait"),
    }
}
