//! A caller of the gateway, who may also ask the admin listener.

use std::path::Path;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;

use defender_gateway::testing::task::Tasks;

/// The operation.
pub(crate) const PATH: &str = "/api/DeviceAuthenticatedScanDefinitions/GetScanHistoryByScanDefinitionId";

/// An id that looks like one; a number of ids that nobody else in the test uses.
pub(crate) fn id(n: usize) -> String {
    format!("{n:08x}-0000-4000-8000-000000000001")
}

/// Several of them.
pub(crate) fn ids(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    numbers.into_iter().map(id).collect()
}

/// The body that asks for these ids.
pub(crate) fn body<T: AsRef<str>>(ids: &[T]) -> Bytes {
    let ids: Vec<_> = ids.iter().map(AsRef::as_ref).collect();
    serde_json::json!({ "ScanDefinitionIds": ids }).to_string().into()
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// A header field; empty when it is absent.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The ids of the rows, in order, each once.
    pub(crate) fn row_ids(&self) -> Vec<String> {
        let rows = self.json()["value"].as_array().unwrap().clone();
        let mut ids: Vec<_> = rows
            .iter()
            .map(|row| {
                // The service's own name, or the documented one.
                let id = row.get("scanDefinitionId").unwrap_or(&row["ScanDefinitionIds"]);
                id.as_str().unwrap().to_owned()
            })
            .collect();
        ids.sort();
        ids.dedup();
        ids
    }

    pub(crate) fn rows(&self) -> usize {
        self.json()["value"].as_array().unwrap().len()
    }

    /// Defender's `error.code`, of an error in the contract's whole form.
    pub(crate) fn error_code(&self) -> String {
        assert_eq!(self.field("content-type"), "application/problem+json", "{self:?}");
        let json = self.json();
        assert_eq!(json["status"], self.status.as_u16(), "{json}");
        for member in ["type", "title", "detail", "instance"] {
            assert!(json[member].is_string(), "{member} in {json}");
        }
        assert!(json["error"]["message"].is_string(), "{json}");
        assert!(
            self.field("proxy-status").starts_with("defender-gateway"),
            "{:?}",
            self.headers
        );
        json["error"]["code"].as_str().unwrap().to_owned()
    }

    /// `Retry-After` in seconds.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        let field = self.headers.get("retry-after")?;
        Some(field.to_str().unwrap().parse().unwrap())
    }
}

/// A client with its own connections.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pool: Pool<HttpConnector, Full<Bytes>>,
    base: String,
}

impl Caller {
    /// Calls `base`, such as `http://127.0.0.1:8080`, by HTTP/1.1.
    pub(crate) fn http1(base: &str) -> Self {
        Self::new(base, &mut Pool::builder(TokioExecutor::new()))
    }

    /// The same by HTTP/2 with prior knowledge.
    pub(crate) fn http2(base: &str) -> Self {
        Self::new(base, Pool::builder(TokioExecutor::new()).http2_only(true))
    }

    fn new(base: &str, pool: &mut hyper_util::client::legacy::Builder) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self {
            // What the gateway loses must be seen.
            pool: pool.retry_canceled_requests(false).build(connector),
            base: base.to_owned(),
        }
    }

    /// What it calls.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// A request for `target`.
    pub(crate) fn request(&self, method: Method, target: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("{}{target}", self.base))
    }

    /// A good request about `ids`.
    pub(crate) fn history_request(&self) -> http::request::Builder {
        self.request(Method::POST, PATH)
            .header("content-type", "application/json")
    }

    pub(crate) async fn try_send(&self, request: Request<Bytes>) -> Result<Answer, String> {
        let response = self.pool.request(request.map(Full::new)).await;
        read(response.map_err(|error| format!("{error:?}"))?).await
    }

    /// # Panics
    /// There was no answer.
    pub(crate) async fn send(&self, request: Request<Bytes>) -> Answer {
        self.try_send(request).await.unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) async fn ask<T: AsRef<str>>(&self, ids: &[T]) -> Answer {
        self.send(self.history_request().body(body(ids)).unwrap()).await
    }

    /// One with a request field.
    pub(crate) async fn ask_with<T: AsRef<str>>(&self, ids: &[T], fields: &[(&str, &str)]) -> Answer {
        let mut request = self.history_request();
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        self.send(request.body(body(ids)).unwrap()).await
    }

    /// Different requests at once, each about one id.
    pub(crate) async fn ask_each(&self, numbers: impl IntoIterator<Item = usize>) -> Vec<Answer> {
        join_all(numbers.into_iter().map(|n| async move { self.ask(&[id(n)]).await })).await
    }

    pub(crate) async fn fetch(&self, target: &str) -> Answer {
        self.send(self.request(Method::GET, target).body(Bytes::new()).unwrap())
            .await
    }

    /// The same, by another name of the listener.
    pub(crate) async fn fetch_as(&self, target: &str, host: &'static str) -> Answer {
        let mut request = self.request(Method::GET, target).body(Bytes::new()).unwrap();
        request
            .headers_mut()
            .insert(http::header::HOST, http::HeaderValue::from_static(host));
        self.send(request).await
    }
}

/// One request over a Unix socket.
pub(crate) async fn ask_at_socket<T: AsRef<str>>(socket: &Path, ids: &[T]) -> Answer {
    let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let tasks = Tasks::new();
    let connection = tasks.spawn("connection", connection);
    let request = Request::post(PATH)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(body(ids)));
    let answer = read(sender.send_request(request.unwrap()).await.unwrap())
        .await
        .unwrap();
    drop(sender);
    connection.await.unwrap().unwrap();
    answer
}

async fn read(response: http::Response<hyper::body::Incoming>) -> Result<Answer, String> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| format!("{error:?}"))?;
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body: body.to_bytes(),
    })
}
