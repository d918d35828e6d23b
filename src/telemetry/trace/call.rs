//! One upstream call in a trace, for one request or for several.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry::trace::{SpanContext, SpanKind};
use tokio::time::Instant;

use super::{RequestFacts, Span, Trace, Tracer};

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
    Traced(Arc<Traced>),
}

/// See [`Call::Traced`].
#[derive(Debug)]
pub struct Traced {
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
        Self::Traced(Arc::new(Traced {
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

impl Traced {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
