//! Sends spans to the collector, in batches, in the background.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, header};
use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SpanData};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::Tracer;
use crate::clock::Wall;
use crate::net::{Client, Limits};
use crate::task::Tasks;
use crate::telemetry::{Counters, metrics, named_enum};

/// The most spans in the queue; each takes about 1 kB.
const QUEUE: usize = 2048;
/// The most spans in one request.
const BATCH: usize = 512;
/// How long a span waits for others to share a request.
const GATHER: Duration = Duration::from_secs(1);
/// The longest exchange with the collector.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after which a failed batch is sent again; it doubles with each failure ...
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// ... and the batch is dropped when the pause would be longer than this. By then new spans are
/// being dropped as well.
const LAST_PAUSE: Duration = Duration::from_secs(16);

/// The collector, and the resource that spans belong to.
#[derive(Clone, Debug)]
pub struct Collector {
    /// The whole address, path included.
    pub url: Url,
    /// Additional header fields, such as an API key; they are marked as sensitive.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// Which requests are recorded.
    pub sampler: Sampler,
    /// The resource: `service.name` and other attributes.
    pub resource: Vec<(String, String)>,
}

/// The task that sends spans.
#[derive(Debug)]
pub struct Exporter {
    tasks: Tasks,
    close: CancellationToken,
}

impl Exporter {
    /// No exporter.
    pub fn none() -> Self {
        Self {
            tasks: Tasks::new(),
            close: CancellationToken::new(),
        }
    }

    /// Sends the tracer's spans to `collector` from now on, over what `net` is at the moment.
    pub fn start(collector: Collector, net: Arc<ArcSwap<Client>>, wall: Wall, metrics: Metrics) -> (Tracer, Self) {
        let (queue, spans) = mpsc::channel(QUEUE);
        let tracer = Tracer::new(collector.sampler.clone(), wall, queue, metrics.clone());
        let exporter = Self::none();
        let pump = Pump {
            resource: resource(&collector),
            collector,
            net,
            spans,
            metrics,
            close: exporter.close.clone(),
            failing: false,
        };
        exporter.tasks.spawn("trace exporter", pump.run());
        (tracer, exporter)
    }

    /// Sends the rest, at most for `limit`.
    pub async fn finish(self, limit: Duration) {
        self.close.cancel();
        self.tasks.finish(limit).await;
    }
}

fn resource(collector: &Collector) -> ResourceAttributesWithSchema {
    let own = [
        ("telemetry.sdk.name", "opentelemetry"),
        ("telemetry.sdk.language", "rust"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.name", "defender-gateway"),
    ];
    let own = own.map(|(name, value)| KeyValue::new(name, value));
    let said = collector
        .resource
        .iter()
        .map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    // Of two attributes with the same name the last one counts.
    (&Resource::builder_empty()
        .with_attributes(own.into_iter().chain(said))
        .build())
        .into()
}

struct Pump {
    collector: Collector,
    resource: ResourceAttributesWithSchema,
    net: Arc<ArcSwap<Client>>,
    spans: mpsc::Receiver<SpanData>,
    metrics: Metrics,
    close: CancellationToken,
    failing: bool,
}

/// Why a batch was not accepted.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the collector answered {0}")]
    Status(StatusCode),
    #[error("the collector did not answer")]
    Silent(#[source] crate::net::Error),
    #[error("the collector's address or fields cannot be put into a request")]
    Unbuildable,
}

impl Refused {
    /// Whether the protocol recommends another attempt.
    fn may_pass(&self) -> bool {
        match self {
            Self::Status(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
            Self::Silent(_) => true,
            Self::Unbuildable => false,
        }
    }
}

impl Pump {
    async fn run(mut self) {
        let mut batch = Vec::new();
        while self.gather(&mut batch).await {
            self.deliver(std::mem::take(&mut batch)).await;
        }
    }

    /// Fills `batch` until it is full, its oldest span has waited long enough, or the exporter
    /// stops. `false` when no more spans will come.
    async fn gather(&mut self, batch: &mut Vec<SpanData>) -> bool {
        let close = self.close.clone();
        tokio::select! {
            biased;
            () = close.cancelled() => {
                // The spans in the queue, and no more.
                self.spans.close();
                return self.spans.recv_many(batch, BATCH).await > 0;
            }
            got = self.spans.recv_many(batch, BATCH) => if got == 0 {
                return false;
            },
        }
        let gathered =
            async { while batch.len() < BATCH && self.spans.recv_many(batch, BATCH - batch.len()).await > 0 {} };
        tokio::select! {
            () = close.cancelled() => {}
            // The time is over, or the batch is full.
            _ = timeout(GATHER, gathered) => {}
        }
        true
    }

    /// Sends a batch, repeats it after temporary failures, and drops it after others.
    async fn deliver(&mut self, batch: Vec<SpanData>) {
        let count = batch.len();
        let request = ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(batch, &self.resource),
        };
        let body = Bytes::from(request.encode_to_vec());
        let mut pause = FIRST_PAUSE;
        loop {
            match self.send(body.clone()).await {
                Ok(rejected) => {
                    self.recovered();
                    let rejected = rejected.min(count);
                    self.metrics.sent(count - rejected);
                    self.metrics.dropped(rejected);
                    return;
                }
                Err(refused) => {
                    self.failed(&refused);
                    if !refused.may_pass() || pause > LAST_PAUSE || self.close.is_cancelled() {
                        self.metrics.dropped(count);
                        return;
                    }
                }
            }
            tokio::select! {
                () = sleep(pause) => {}
                // One last attempt when the exporter stops.
                () = self.close.cancelled() => {}
            }
            pause *= 2;
        }
    }

    /// The number of spans that the collector rejected.
    async fn send(&self, body: Bytes) -> Result<usize, Refused> {
        let mut request = Request::post(self.collector.url.as_str())
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header(
                header::USER_AGENT,
                concat!("defender-gateway/", env!("CARGO_PKG_VERSION")),
            )
            .body(body)
            .map_err(|_| Refused::Unbuildable)?;
        for (name, value) in &self.collector.fields {
            request.headers_mut().insert(name, value.clone());
        }
        let limits = Limits {
            head: TIMEOUT,
            whole: TIMEOUT,
            body_bytes: 64 * 1024,
        };
        let net = self.net.load_full();
        let answer = net.send(request, limits).await.map_err(Refused::Silent)?;
        if !answer.status().is_success() {
            return Err(Refused::Status(answer.status()));
        }
        // A collector with another response has accepted them all the same.
        let said = ExportTraceServiceResponse::decode(answer.into_body()).unwrap_or_default();
        let rejected = said.partial_success.map_or(0, |partial| partial.rejected_spans);
        Ok(usize::try_from(rejected).unwrap_or(0))
    }

    /// Logs one line when failures begin, not one for each batch.
    fn failed(&mut self, refused: &Refused) {
        if !self.failing {
            self.failing = true;
            let error: &dyn std::error::Error = refused;
            tracing::warn!(error, collector = %self.collector.url, "traces cannot be sent; they are dropped until this is mended");
        }
    }

    fn recovered(&mut self) {
        if self.failing {
            self.failing = false;
            tracing::info!("traces are sent again");
        }
    }
}

metrics! {
    /// Counts spans. Clones share the counts.
    #[derive(Clone, Debug)]
    pub struct Metrics {
        /// Recorded spans, by whether the collector took them or they were lost.
        spans: Counters<Outcome> = "trace_spans" => by("result"),
    }
}

named_enum! {
    #[derive(Clone, Copy, Debug)]
    enum Outcome, as_str {
        Sent = "sent",
        /// The collector was unreachable, slow, or rejected it.
        Dropped = "dropped",
    }
}

impl Metrics {
    pub(super) fn sent(&self, spans: usize) {
        self.spans.of(Outcome::Sent).inc_by(spans as u64);
    }

    pub(super) fn dropped(&self, spans: usize) {
        self.spans.of(Outcome::Dropped).inc_by(spans as u64);
    }
}
