//! Starts spans, and decides which are recorded.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceFlags, TraceId};
use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, ShouldSample as _, SpanData};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Metrics, Span};
use crate::clock::Wall;

/// Starts spans. Clones send to the same exporter.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<On>>);

/// What a tracer that is on makes spans with.
#[derive(Debug)]
pub(super) struct On {
    sampler: Sampler,
    pub(super) wall: Wall,
    pub(super) scope: InstrumentationScope,
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
        if sampled {
            Span::recorded(Arc::clone(on), context, parent, (name, kind), Instant::now())
        } else {
            Span::passing(Some(context))
        }
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
        if parent.is_sampled() {
            Span::recorded(
                Arc::clone(on),
                context,
                Some(parent.clone()),
                (name.into(), kind),
                started,
            )
        } else {
            Span::passing(Some(context))
        }
    }
}

impl On {
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

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tracer").field(&self.is_on()).finish()
    }
}
