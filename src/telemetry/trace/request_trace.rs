//! What of a trace travels with a request.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::trace::{SpanContext, TraceId};

use super::{Span, Tracer};

/// A request's place in a trace, and where the layers below note what they find out about it.
#[derive(Clone, Debug, Default)]
pub enum Trace {
    /// The caller named no trace, and none is begun here.
    #[default]
    None,
    /// The caller's, to be passed on as it is. Behind a pointer: most requests have none, and all of them move its place about.
    Passing(Arc<SpanContext>),
    /// The span of the request.
    Traced(Arc<Traced>),
}

/// See [`Trace::Traced`].
#[derive(Debug)]
pub struct Traced {
    pub(super) tracer: Tracer,
    pub(super) context: SpanContext,
    facts: Mutex<RequestFacts>,
}

/// What is known about a request only below the layer that holds its span.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestFacts {
    /// How long it waited for a slot of the quota.
    pub queue_wait: Option<Duration>,
    /// The region that answered last.
    pub region: Option<Arc<str>>,
    /// What that answered.
    pub upstream_status: Option<u16>,
    /// Calls that answered it and are not below its span.
    pub calls: Vec<SpanContext>,
}

/// Most calls that one request names; a question can be put together from several.
const MAX_CALLS: usize = 16;

impl Trace {
    /// The place of a request with this span; with none, or with one that is only passed on, nothing is noted.
    #[must_use]
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

    /// The span that whatever is done for the request is done for.
    #[must_use]
    pub fn context(&self) -> Option<&SpanContext> {
        match self {
            Self::None => None,
            Self::Passing(context) => Some(context),
            Self::Traced(traced) => Some(&traced.context),
        }
    }

    /// For log lines.
    #[must_use]
    pub fn id(&self) -> Option<TraceId> {
        self.context().map(SpanContext::trace_id)
    }

    /// Notes what a call for this request found out. `call` is its span, if that is not below the request's own.
    pub(super) fn note(&self, facts: RequestFacts, call: Option<&SpanContext>) {
        let Self::Traced(traced) = self else { return };
        // Every change is complete before anything can panic.
        let mut noted = traced.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut calls = std::mem::take(&mut noted.calls);
        calls.extend(call.filter(|_| calls.len() < MAX_CALLS).cloned());
        *noted = RequestFacts { calls, ..facts };
    }

    /// What was noted.
    #[must_use]
    pub fn facts(&self) -> RequestFacts {
        match self {
            Self::Traced(traced) => traced.facts.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Self::None | Self::Passing(_) => RequestFacts::default(),
        }
    }
}
