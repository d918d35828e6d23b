//! One span, from its start to its end.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status};
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use tokio::time::Instant;

use super::tracer::On;

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
    parent: Option<SpanContext>,
    name: Cow<'static, str>,
    kind: SpanKind,
    started: Instant,
    attributes: Vec<KeyValue>,
    links: SpanLinks,
    status: Status,
}

impl Span {
    /// A span that is not recorded: what follows is a child of `context`, if there is one.
    pub(super) fn passing(context: Option<SpanContext>) -> Self {
        Self { context, record: None }
    }

    pub(super) fn recorded(
        on: Arc<On>,
        context: SpanContext,
        parent: Option<SpanContext>,
        (name, kind): (Cow<'static, str>, SpanKind),
        started: Instant,
    ) -> Self {
        Self {
            context: Some(context),
            record: Some(Box::new(Record {
                on,
                parent,
                name,
                kind,
                started,
                attributes: Vec::new(),
                links: SpanLinks::default(),
                status: Status::Unset,
            })),
        }
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
            record.attributes.push(KeyValue::new(name, value));
        }
    }

    /// Adds a link to a related span.
    pub fn link(&mut self, to: &SpanContext) {
        let Some(record) = &mut self.record else { return };
        if record.links.links.len() < MAX_LINKS {
            record.links.links.push(Link::with_context(to.clone()));
        } else {
            record.links.dropped_count += 1;
        }
    }

    /// Marks the span as failed. `kind` is short and one of few: a status, or an error's name.
    pub fn fail(&mut self, kind: impl Into<Cow<'static, str>>) {
        let kind = kind.into();
        self.set("error.type", kind.clone());
        if let Some(record) = &mut self.record {
            record.status = Status::Error { description: kind };
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let (Some(context), Some(record)) = (self.context.take(), self.record.take()) {
            record.end(context);
        }
    }
}

impl Record {
    fn end(self, context: SpanContext) {
        // The wall clock may have been set meanwhile; the duration is right all the same.
        let since_epoch = Duration::try_from(self.on.wall.now().as_duration()).unwrap_or_default();
        let ended = SystemTime::UNIX_EPOCH + since_epoch;
        let (span_id, remote) = self.parent.map_or((SpanId::INVALID, false), |parent| {
            (parent.span_id(), parent.is_remote())
        });
        let data = SpanData {
            span_context: context,
            parent_span_id: span_id,
            parent_span_is_remote: remote,
            span_kind: self.kind,
            name: self.name,
            start_time: ended.checked_sub(self.started.elapsed()).unwrap_or(ended),
            end_time: ended,
            attributes: self.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: self.links,
            status: self.status,
            instrumentation_scope: self.on.scope.clone(),
        };
        self.on.send(data);
    }
}
