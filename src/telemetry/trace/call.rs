//! The trace that travels with a request, and one upstream call in it, for one request or for
//! several.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry::trace::{SpanContext, SpanKind, TraceId};
use tokio::time::Instant;

use crate::telemetry::trace::{Span, Tracer};

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
    fn note(&self, facts: RequestFacts, call: Option<&SpanContext>) {
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

/// A call in a trace: a child of the span of one of its requests, with links to all of them. Clones
/// are the same call.
#[derive(Clone, Debug, Default)]
pub enum Call {
    /// None of the requests is in a trace.
    #[default]
    None,
    /// The attempts continue the caller's trace without a span of ours.
    Passing(SpanContext),
    /// It has a span of ours.
    Traced(Arc<TracedCall>),
}

/// See [`Call::Traced`].
#[derive(Debug)]
pub struct TracedCall {
    tracer: Tracer,
    context: SpanContext,
    sponsor: SpanContext,
    departed: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    span: Span,
    facts: RequestFacts,
}

/// A request that a call is made for.
#[derive(Clone, Debug)]
pub struct Participant {
    /// Its context in its trace.
    pub trace: Trace,
    /// When it began to wait.
    pub entered: Instant,
}

impl Call {
    /// A call that leaves now, for these requests. It is a child of the first one that is recorded,
    /// or else of the first one with a trace, and it began when that one did.
    pub fn start(participants: &[Participant], now: Instant) -> Self {
        let in_trace = || {
            participants
                .iter()
                .filter(|participant| participant.trace.context().is_some())
        };
        let sampled = |participant: &&Participant| participant.trace.context().is_some_and(SpanContext::is_sampled);
        let Some(sponsor) = in_trace().find(sampled).or_else(|| in_trace().next()) else {
            return Self::None;
        };
        let traced = match &sponsor.trace {
            Trace::None => return Self::None,
            Trace::Passing(context) => return Self::Passing(SpanContext::clone(context)),
            Trace::Traced(traced) => traced,
        };
        let started = sponsor.entered;
        let span = traced
            .tracer
            .child(&traced.context, "scan history call", SpanKind::Internal, started);
        let Some(context) = span.context().cloned() else {
            return Self::None;
        };
        let facts = RequestFacts {
            queue_wait: Some(now.saturating_duration_since(started)),
            ..RequestFacts::default()
        };
        Self::Traced(Arc::new(TracedCall {
            tracer: traced.tracer.clone(),
            context,
            sponsor: traced.context.clone(),
            departed: now,
            state: Mutex::new(State { span, facts }),
        }))
    }

    /// A child span of the call, from now on.
    pub fn child(&self, name: &'static str, kind: SpanKind) -> Span {
        match self {
            Self::None => Span::default(),
            Self::Passing(context) => Span::passing(Some(context.clone())),
            Self::Traced(traced) => traced.tracer.child(&traced.context, name, kind, Instant::now()),
        }
    }

    /// Records that an attempt at this region has ended; with a status, if it was answered.
    pub fn attempted(&self, region: &Arc<str>, status: Option<u16>) {
        let Self::Traced(traced) = self else { return };
        let mut state = traced.state();
        state.facts.region = Some(Arc::clone(region));
        state.facts.upstream_status = status;
    }

    /// Records that the call has ended; `participants` are the requests that get its result. It has
    /// to be called before they get it.
    pub fn finish(&self, participants: &[Participant], ids: usize, failed: bool) {
        let Self::Traced(traced) = self else { return };
        let (mut span, facts) = {
            let mut state = traced.state();
            (std::mem::take(&mut state.span), state.facts.clone())
        };
        let shared = participants.len() > 1;
        for Participant { trace, entered } in participants {
            let own = trace.context() == Some(&traced.sponsor);
            if shared && let Some(context) = trace.context() {
                span.link(context);
            }
            let facts = RequestFacts {
                queue_wait: Some(traced.departed.saturating_duration_since(*entered)),
                ..facts.clone()
            };
            let recorded = span.is_recorded() && !own;
            trace.note(facts, recorded.then_some(&traced.context));
        }
        if !span.is_recorded() {
            return;
        }
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        span.set("defender_gateway.requests", count(participants.len()));
        span.set("defender_gateway.ids", count(ids));
        span.set("defender_gateway.queue.wait", seconds(facts.queue_wait));
        if failed {
            span.fail(
                facts
                    .upstream_status
                    .map_or("_OTHER".into(), |status| status.to_string()),
            );
        }
    }
}

fn seconds(duration: Option<Duration>) -> f64 {
    duration.unwrap_or_default().as_secs_f64()
}

impl TracedCall {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
