//! A server for one test, and callers that send bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::filter::Filter;
use tower::{Layer as _, service_fn};

use crate::BoxError;
use crate::response::{self, Body};
use crate::scan::{Call, Endpoint, Headers, Outcome, ServedResponse, Status, TokenOwner, UpstreamResponse};
use crate::server::serve::Drained;
use crate::server::{Address, Bound, Config, access_log, guard, read, route};
use crate::task::Tasks;

/// Longer than anything in these tests takes; a test that waits this long has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) const GOOD: &str = r#"{"ScanDefinitionIds":["a"]}"#;

/// The service behind the server: requests for `slow` ids wait for the gate, those for `panic`
/// panic, others are answered.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) gate: Semaphore,
    pub(super) calls: AtomicUsize,
    pub(super) started: Notify,
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) backend: Arc<Backend>,
    pub(super) stop: CancellationToken,
    pub(super) running: JoinHandle<Drained>,
    pub(super) tasks: Tasks,
    pub(super) registry: Registry,
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::with(Config::default(), read::Config::default()).await
    }

    pub(super) async fn with(config: Config, read: read::Config) -> Self {
        let listen = vec![Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))];
        let bound = Bound::bind(Config { listen, ..config }).await.unwrap();
        let Address::Tcp(address) = bound.addresses()[0].clone() else {
            panic!("not TCP")
        };
        let backend = Arc::new(Backend {
            gate: Semaphore::new(0),
            calls: AtomicUsize::new(0),
            started: Notify::new(),
        });
        let mut registry = Registry::default();
        let metrics = access_log::Metrics::register(&mut registry);
        let service = stack(&metrics, read, Arc::clone(&backend));
        let (tasks, stop) = (Tasks::new(), CancellationToken::new());
        let running = {
            let (serving, stop) = (tasks.clone(), stop.clone());
            tasks.spawn("server", async move { bound.serve(service, &serving, stop).await })
        };
        Self {
            address,
            backend,
            stop,
            running,
            tasks,
            registry,
        }
    }

    pub(super) async fn connect(&self) -> Caller {
        Caller(TcpStream::connect(self.address).await.unwrap())
    }

    /// The status of the response to `request`, sent on a connection of its own.
    pub(super) async fn status(&self, request: &str) -> u16 {
        let mut caller = self.connect().await;
        caller.send(request).await;
        caller.answer().await.status
    }

    pub(super) fn calls(&self) -> usize {
        self.backend.calls.load(Ordering::SeqCst)
    }

    /// Waits until `count` requests have reached the service.
    pub(super) async fn wait_for_calls(&self, count: usize) {
        let reached = async {
            loop {
                let next = self.backend.started.notified();
                if self.calls() >= count {
                    return;
                }
                next.await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap();
    }

    pub(super) fn exposition(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }
}

fn stack(
    metrics: &access_log::Metrics,
    read: read::Config,
    backend: Arc<Backend>,
) -> impl tower::Service<
    crate::server::InboundRequest<hyper::body::Incoming>,
    Response = http::Response<Body>,
    Error = std::convert::Infallible,
    Future: Send,
> + Clone
+ Send
+ Sync
+ 'static {
    let backend = service_fn(move |call: Call| answer(Arc::clone(&backend), call));
    let read = read::Layer::new(read).layer(backend);
    let route = route::layer().layer(read);
    let guard = Filter::new(route, guard::Guard::new(guard::Hosts::default()));
    let respond = response::Layer::new([response::Config {
        upstream_hosts: Vec::new(),
        rate_limit: Arc::new(|_, _| {}),
        panics: metrics.panics(),
        exhausted: metrics.exhausted(),
        token_owner: TokenOwner::Gateway,
        vary: None,
        large_answers: None,
    }]);
    access_log::Layer::new(metrics.clone(), access_log::Config::default()).layer(respond.layer(guard))
}

async fn answer(backend: Arc<Backend>, call: Call) -> Result<ServedResponse, BoxError> {
    backend.calls.fetch_add(1, Ordering::SeqCst);
    backend.started.notify_waiters();
    match call.request.ids().next() {
        Some("slow") => backend.gate.acquire().await?.forget(),
        Some("panic") => panic!("on purpose"),
        _ => {}
    }
    let size = call.request.top().map_or(2, |top| top.get() as usize * 10_000);
    Ok(ServedResponse {
        may_link: true,
        answer: UpstreamResponse {
            status: http::StatusCode::OK,
            headers: Headers::default(),
            body: Bytes::from(vec![b'x'; size]),
        },
        outcome: Outcome::Hit,
        status: Status::default(),
        age: None,
    })
}

/// A body that asks for one id.
pub(super) fn history_body(id: &str) -> String {
    format!("{{\"ScanDefinitionIds\":[\"{id}\"]}}")
}

/// A request with the operation's path.
pub(super) fn request(method: &str, fields: &str, body: &str) -> String {
    let (path, length) = (Endpoint::HISTORY.template(), body.len());
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
    )
}

pub(super) struct Caller(pub(super) TcpStream);

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Reply {
    pub(super) fn has(&self, field: &str) -> bool {
        self.head.lines().any(|line| line.eq_ignore_ascii_case(field))
    }

    pub(super) fn code(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        body["error"]["code"].as_str().unwrap().to_owned()
    }
}

impl Caller {
    pub(super) async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next response; its length must be announced.
    pub(super) async fn answer(&mut self) -> Reply {
        tokio::time::timeout(PATIENCE, self.read_answer()).await.unwrap()
    }

    async fn read_answer(&mut self) -> Reply {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = self.0.read_u8().await;
            head.push(byte.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&head))));
        }
        let head = String::from_utf8(head).unwrap();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        Reply {
            status: head[9..12].parse().unwrap(),
            body: String::from_utf8(body).unwrap(),
            head,
        }
    }

    /// Waits until the server closes; returns what it still sent.
    pub(super) async fn closed(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let read = self.0.read_to_end(&mut rest);
        // A reset counts as an end, too.
        let _ = tokio::time::timeout(PATIENCE, read)
            .await
            .expect("the server keeps the connection open");
        rest
    }
}
