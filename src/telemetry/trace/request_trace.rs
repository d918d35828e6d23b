//! The context of a trace that travels with a request.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::trace::{SpanContext, TraceId};

use super::{Span, Tracer};

/// A request's context in a trace, where the layers below record facts about the request.
#[derive(Clone, Debug, Default)]
pub enum Trace {
    /// The caller sent no context, and no trace is started here.
    #[default]
    None,
    /// The caller's context, passed on as it is. It is behind a pointer, because most requests have
    /// none and all of them move this value.
    Passing(Arc<SpanContext>),
    /// The request has a span of ours.
    Traced(Arc<Traced>),
}

/// See [`Trace::Traced`].
#[derive(Debug)]
pub struct Traced {
    pub(super) tracer: Tracer,
    pub(super) context: SpanContext,
    facts: Mutex<RequestFacts>,
}

/// Facts about a request that are known only below the layer that holds its span.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestFacts {
    /// How long it waited for a slot of the quota.
    pub queue_wait: Option<Duration>,
    /// The region of the last answer.
    pub region: Option<Arc<str>>,
    /// The status of that answer.
    pub upstream_status: Option<u16>,
    /// Calls that answered it and are not children of its span.
    pub calls: Vec<SpanContext>,
}

/// The most calls of one request, whose answer may be joined from several.
const MAX_CALLS: usize = 16;

impl Trace {
    /// The context of a request with this span. Without a recorded span, nothing is recorded.
    pub fn of(span: &Span, tracer: &Tracer) -> Self {
        match span.context() {
            None => Self::None,
            Some(context) if tracer.is_on() => Self::Traced(Arc::new(Traced {
                tracer: tracer.clone(),
                context: context.clone(),
                facts: Mutex::default(),
            })),
            Some(context) => Self::Passing(Arc::new(context.clone())),
        }
    }

    /// The parent of whatever is done for the request.
    pub fn context(&self) -> Option<&SpanContext> {
        match self {
            Self::None => None,
            Self::Passing(context) => Some(context),
            Self::Traced(traced) => Some(&traced.context),
        }
    }

    /// The trace id, for log lines.
    pub fn id(&self) -> Option<TraceId> {
        self.context().map(SpanContext::trace_id)
    }

    /// Records the facts of a call for this request. `call` is its span, if that is no child of the
    /// request's own.
    pub(super) fn note(&self, facts: RequestFacts, call: Option<&SpanContext>) {
        let Self::Traced(traced) = self else { return };
        // Every change is complete before anything can panic.
        let mut noted = traced.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut calls = std::mem::take(&mut noted.calls);
        calls.extend(call.filter(|_| calls.len() < MAX_CALLS).cloned());
        *noted = RequestFacts { calls, ..facts };
    }

    /// The recorded facts.
    pub fn facts(&self) -> RequestFacts {
        match self {
            Self::Traced(traced) => traced.facts.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Self::None | Self::Passing(_) => RequestFacts::default(),
        }
    }
}
