//! One request from its head to its end, when it is counted and logged.

use std::sync::Arc;

use http::StatusCode;
use hyper::body::Body;
use tokio::time::Instant;
use tracing::Span;

use super::CLIENT_CLOSED_REQUEST;
use super::layer::Shared;
use super::subject::Subject;
use crate::caller::RequestId;
use crate::response::{Answered, Ended, Outcome};
use crate::server::Peer;
use crate::telemetry::trace::Trace;

/// A request in flight. Dropped without a response, it is counted as [`unanswered`] says.
#[derive(Debug)]
pub(super) struct OpenRequest {
    pub(super) shared: Arc<Shared>,
    pub(super) at: Instant,
    pub(super) trace: Trace,
    pub(super) subject: Subject,
    /// For the access log, when there is no response with the id.
    pub(super) id: Option<RequestId>,
    /// Boxed, because it is rare and the request is moved a lot.
    pub(super) span: Option<Box<Span>>,
    pub(super) answered: bool,
}

impl OpenRequest {
    /// Runs `work` in the request's span.
    pub(super) fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.span {
            Some(span) => span.in_scope(work),
            None => work(),
        }
    }

    pub(super) fn finish<T: Body>(&mut self, answered: &Answered<T>) {
        self.answered = true;
        let (status, seconds) = (
            answered.response.status().as_u16(),
            answered.at.saturating_duration_since(self.at).as_secs_f64(),
        );
        let bytes = answered.response.body().size_hint().exact();
        // `OPTIONS` is not counted.
        let Some(ended) = &answered.ended else {
            self.log_access(None, status, seconds, bytes);
            return;
        };
        let metrics = &self.shared.metrics;
        metrics.count(self.subject.asked(), ended.outcome, status, seconds);
        metrics.forwarded(ended.outcome, ended.forward);
        if !matches!(ended.outcome, Outcome::Served(_)) {
            let id = answered.id.as_str();
            metrics.recent_errors().record(ended, status, id, &self.subject);
            self.span
                .get_or_insert_with(|| Box::new(span(&answered.id, &self.trace)));
        }
        self.within(|| log(ended, status, seconds, &self.subject));
        self.log_access(Some(ended.outcome), status, seconds, bytes);
    }

    /// Writes the line of the access log. `OPTIONS` has no outcome.
    fn log_access(&self, outcome: Option<Outcome>, status: u16, seconds: f64, bytes: Option<u64>) {
        let subject = &self.subject;
        let (Some(access), Some(id)) = (&subject.access, &self.id) else {
            return;
        };
        tracing::info!(
            target: "defender_gateway::access",
            request_id = id.as_str(),
            trace_id = self.trace.id().map(tracing::field::display),
            caller = subject.origin.caller.name().as_str(),
            peer = subject.origin.peer.name().as_str(),
            method = subject.method.as_str(),
            path = &*subject.path(),
            operation = subject.operation(),
            protocol = access.protocol,
            status,
            bytes,
            seconds,
            outcome = outcome.map(Outcome::as_str),
            user_agent = access.user_agent.as_deref(),
            "access"
        );
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let (seconds, subject) = (self.at.elapsed().as_secs_f64(), &self.subject);
        let (outcome, status) = unanswered(&subject.origin.peer);
        let metrics = &self.shared.metrics;
        metrics.count(subject.asked(), outcome, status, seconds);
        let ended = Ended {
            outcome,
            forward: None,
            cause: (outcome == Outcome::Failed).then(|| "the gateway cut the connection off".into()),
        };
        self.within(|| log(&ended, status, seconds, subject));
        self.log_access(Some(outcome), status, seconds, None);
    }
}

/// The outcome of a request that is dropped without a response, and the status that stands for it:
/// its caller went away, unless the gateway cut the connection off.
pub(in crate::server) fn unanswered(peer: &Peer) -> (Outcome, u16) {
    if peer.is_cut() {
        (Outcome::Failed, StatusCode::SERVICE_UNAVAILABLE.as_u16())
    } else {
        (Outcome::Gone, CLIENT_CLOSED_REQUEST)
    }
}

/// Writes one line: a failure of the gateway or the upstream is a warning, a refusal is
/// information, the rest is for debugging.
fn log(ended: &Ended, status: u16, seconds: f64, subject: &Subject) {
    let outcome = ended.outcome.as_str();
    let error = ended.cause.as_deref();
    let (caller, peer) = (subject.origin.caller.name().as_str(), subject.origin.peer.name());
    let (peer, method) = (peer.as_str(), subject.method.as_str());
    let (operation, path) = (subject.operation(), subject.path());
    let path = &*path;
    macro_rules! line {
        ($level:ident, $message:literal) => {
            tracing::$level!(
                outcome, status, seconds, error, caller, peer, method, operation, path, $message
            )
        };
    }
    match ended.outcome {
        Outcome::Failed => line!(warn, "request failed"),
        Outcome::Refused | Outcome::Invalid => line!(info, "request refused"),
        Outcome::Gone => tracing::debug!(outcome, status, seconds, caller, "the caller went away"),
        Outcome::Served(_) => tracing::debug!(outcome, status, seconds, caller, "request answered"),
    }
}

/// The span of a request in logs.
pub(super) fn span(id: &RequestId, trace: &Trace) -> Span {
    tracing::info_span!(
        "request",
        request_id = id.as_str(),
        trace_id = trace.id().map(tracing::field::display)
    )
}
