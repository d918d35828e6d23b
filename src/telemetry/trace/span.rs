//! Starts spans, decides which are recorded, and follows each from its start to its end.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId};
use opentelemetry::{Context, InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, ShouldSample as _, SpanData, SpanEvents, SpanLinks};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::clock::Wall;
use crate::telemetry::trace::Metrics;

/// Starts spans. Clones send to the same exporter.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<On>>);

/// What a tracer that is on makes spans with.
#[derive(Debug)]
pub(super) struct On {
    sampler: Sampler,
    pub(super) wall: Wall,
    scope: InstrumentationScope,
    queue: mpsc::Sender<SpanData>,
    metrics: Metrics,
}

impl Tracer {
    /// A tracer that records nothing and costs nothing.
    pub fn off() -> Self {
        Self(None)
    }

    pub(super) fn new(sampler: Sampler, wall: Wall, queue: mpsc::Sender<SpanData>, metrics: Metrics) -> Self {
        let scope = InstrumentationScope::builder("defender-gateway")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        Self(Some(Arc::new(On {
            sampler,
            wall,
            scope,
            queue,
            metrics,
        })))
    }

    /// Whether spans are exported.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The first span in this process: of a request whose caller's span is `parent`, or of
    /// background work. The sampler decides whether it is recorded.
    pub fn start(&self, parent: Option<SpanContext>, name: impl Into<Cow<'static, str>>, kind: SpanKind) -> Span {
        let name = name.into();
        let Some(on) = &self.0 else {
            return Span::passing(parent);
        };
        let trace_id = parent.as_ref().map_or_else(new_trace_id, SpanContext::trace_id);
        let above = parent
            .as_ref()
            .map(|parent| Context::new().with_remote_span_context(parent.clone()));
        let result = on
            .sampler
            .should_sample(above.as_ref(), trace_id, &name, &kind, &[], &[]);
        let sampled = result.decision == SamplingDecision::RecordAndSample;
        // Level 2's flag says how the id was made, which only its maker knows.
        let flags = parent
            .as_ref()
            .map_or(RANDOM, SpanContext::trace_flags)
            .with_sampled(sampled);
        let context = SpanContext::new(trace_id, new_span_id(), flags, false, result.trace_state);
        on.span(context, parent, (name, kind), Instant::now())
    }

    /// A child of `parent`, recorded if that is. It began at `started`.
    pub fn child(&self, parent: &SpanContext, name: &'static str, kind: SpanKind, started: Instant) -> Span {
        let Some(on) = &self.0 else {
            return Span::passing(Some(parent.clone()));
        };
        let context = SpanContext::new(
            parent.trace_id(),
            new_span_id(),
            parent.trace_flags(),
            false,
            parent.trace_state().clone(),
        );
        on.span(context, Some(parent.clone()), (name.into(), kind), started)
    }
}

impl On {
    /// A span with this context, recorded if that is sampled.
    fn span(
        self: &Arc<Self>,
        context: SpanContext,
        parent: Option<SpanContext>,
        (name, span_kind): (Cow<'static, str>, SpanKind),
        started: Instant,
    ) -> Span {
        if !context.is_sampled() {
            return Span::passing(Some(context));
        }
        let (parent_span_id, parent_span_is_remote) = parent.map_or((SpanId::INVALID, false), |parent| {
            (parent.span_id(), parent.is_remote())
        });
        let data = SpanData {
            span_context: context.clone(),
            parent_span_id,
            parent_span_is_remote,
            span_kind,
            name,
            // Both times are set at its end.
            start_time: SystemTime::UNIX_EPOCH,
            end_time: SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        };
        Span {
            context: Some(context),
            record: Some(Box::new(Record {
                on: Arc::clone(self),
                started,
                data,
            })),
        }
    }

    /// Queues a span for the exporter, or drops and counts it when the queue is full. It never
    /// waits.
    pub(super) fn send(&self, span: SpanData) {
        if self.queue.try_send(span).is_err() {
            self.metrics.dropped(1);
        }
    }
}

/// Level 2's flag: at least the right half of the id is random.
const RANDOM: TraceFlags = TraceFlags::new(0b10);

fn new_trace_id() -> TraceId {
    // All zeros, which would be invalid, comes once in 2^128 times.
    TraceId::from(rand::random::<u128>())
}

fn new_span_id() -> SpanId {
    SpanId::from(rand::random::<u64>().max(1))
}

/// The most links of one span. A call for more requests links to the first ones and records how
/// many were left out.
const MAX_LINKS: usize = 128;

/// A span that has started. It ends and is sent when it is dropped, if it is recorded.
#[derive(Debug, Default)]
pub struct Span {
    context: Option<SpanContext>,
    record: Option<Box<Record>>,
}

#[derive(Debug)]
struct Record {
    on: Arc<On>,
    started: Instant,
    data: SpanData,
}

impl Span {
    /// A span that is not recorded: what follows is a child of `context`, if there is one.
    pub(super) fn passing(context: Option<SpanContext>) -> Self {
        Self { context, record: None }
    }

    /// The context to be used as the parent.
    pub fn context(&self) -> Option<&SpanContext> {
        self.context.as_ref()
    }

    /// Whether the span will be sent; if not, its attributes need not be computed.
    pub fn is_recorded(&self) -> bool {
        self.record.is_some()
    }

    /// Sets an attribute, named after the semantic conventions if they have it.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(record) = &mut self.record {
            record.data.attributes.push(KeyValue::new(name, value));
        }
    }

    /// Adds a link to a related span.
    pub fn link(&mut self, to: &SpanContext) {
        let Some(record) = &mut self.record else { return };
        let links = &mut record.data.links;
        if links.links.len() < MAX_LINKS {
            links.links.push(Link::with_context(to.clone()));
        } else {
            links.dropped_count += 1;
        }
    }

    /// Marks the span as failed. `kind` is short and one of few: a status, or an error's name.
    pub fn fail(&mut self, kind: impl Into<Cow<'static, str>>) {
        let kind = kind.into();
        self.set("error.type", kind.clone());
        if let Some(record) = &mut self.record {
            record.data.status = Status::Error { description: kind };
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(record) = self.record.take() else { return };
        let Record { on, started, mut data } = *record;
        // The wall clock may have been set meanwhile; the duration is right all the same.
        let since_epoch = Duration::try_from(on.wall.now().as_duration()).unwrap_or_default();
        data.end_time = SystemTime::UNIX_EPOCH + since_epoch;
        data.start_time = data.end_time.checked_sub(started.elapsed()).unwrap_or(data.end_time);
        on.send(data);
    }
}
