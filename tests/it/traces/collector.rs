//! A collector of traces: takes what OTLP sends, and remembers it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::net::TcpListener;

use defender_gateway::testing::task::Tasks;

use crate::support::until;

/// What a collector does with a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Manner {
    /// Takes all spans.
    Polite,
    /// Takes all but so many.
    Choosy(i64),
    /// Answers 503 so many times, and then takes all.
    Busy(usize),
    /// Never answers.
    Silent,
}

/// A running collector; its port stays open until the end of the test.
#[derive(Clone, Debug)]
pub(crate) struct Collector {
    address: std::net::SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    requests: Vec<(String, HeaderMap, Bytes)>,
    taken: Vec<ExportTraceServiceRequest>,
    refusals: usize,
}

impl Collector {
    pub(crate) async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let collector = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
        };
        let (tasks, shared) = (Tasks::new(), collector.clone());
        tasks.clone().spawn("collector", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                tasks.spawn("connection", async move {
                    let answer = service_fn(move |request| shared.clone().answer(request, manner));
                    let http = auto::Builder::new(TokioExecutor::new());
                    // However it ends.
                    let _ = http.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        collector
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn answer(self, request: Request<Incoming>, manner: Manner) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let refused = {
            let mut seen = self.seen.lock().unwrap();
            seen.requests.push((head.uri.path().into(), head.headers, body.clone()));
            let refused = matches!(manner, Manner::Busy(times) if seen.refusals < times);
            if refused {
                seen.refusals += 1;
            } else {
                seen.taken.push(ExportTraceServiceRequest::decode(body).unwrap());
            }
            refused
        };
        let mut answer = Response::new(Full::default());
        match manner {
            Manner::Silent => std::future::pending().await,
            Manner::Choosy(rejected_spans) => {
                let said = ExportTraceServiceResponse {
                    partial_success: Some(ExportTracePartialSuccess {
                        rejected_spans,
                        error_message: "too many".into(),
                    }),
                };
                *answer.body_mut() = Full::from(said.encode_to_vec());
            }
            Manner::Busy(_) if refused => *answer.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE,
            Manner::Polite | Manner::Busy(_) => {}
        }
        Ok(answer)
    }

    /// Path, fields and body of every request so far.
    pub(crate) fn requests(&self) -> Vec<(String, HeaderMap, Bytes)> {
        self.seen.lock().unwrap().requests.clone()
    }

    /// The attributes of the program that sent the spans.
    pub(crate) fn resource(&self) -> HashMap<String, String> {
        let seen = self.seen.lock().unwrap();
        let resource = seen.taken[0].resource_spans[0].resource.clone().unwrap();
        attributes(&resource.attributes)
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        let seen = self.seen.lock().unwrap();
        let scopes = seen.taken.iter().flat_map(|request| &request.resource_spans);
        let scopes = scopes.flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    /// Waits until so many spans of this kind have come.
    pub(crate) async fn until(&self, count: usize, wanted: impl Fn(&Span) -> bool) -> Vec<Span> {
        until("spans at the collector", async || {
            let found: Vec<_> = self.spans().into_iter().filter(&wanted).collect();
            (found.len() >= count).then_some(found)
        })
        .await
    }
}

pub(crate) fn attributes(pairs: &[KeyValue]) -> HashMap<String, String> {
    let show = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let value = |pair: &KeyValue| show(pair.value.as_ref().unwrap().value.as_ref().unwrap());
    pairs.iter().map(|pair| (pair.key.clone(), value(pair))).collect()
}

/// Requests' spans.
pub(crate) fn is_request(span: &Span) -> bool {
    span.kind == 2
}

/// Calls' spans.
pub(crate) fn is_call(span: &Span) -> bool {
    span.name == "scan history call"
}

/// Attempts' spans.
pub(crate) fn is_attempt(span: &Span) -> bool {
    span.name == "POST" && span.kind == 3
}

pub(crate) fn hex(id: &[u8]) -> String {
    id.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
