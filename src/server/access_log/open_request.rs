//! One request from its head to its end, when it is counted and logged: its caller and its target,
//! and the lines of the log.

use std::borrow::Cow;
use std::sync::Arc;

use http::{Method, Request, StatusCode, Version as Protocol, header};
use hyper::body::Body;
use tokio::time::Instant;
use tracing::Span;

use super::callers::Caller;
use super::metrics::Asked;
use super::{CLIENT_CLOSED_REQUEST, Shared};
use crate::caller::RequestId;
use crate::response::{Answered, Ended, Outcome};
use crate::scan;
use crate::server::{Peer, RequestMeta};
use crate::telemetry::log::steers;
use crate::telemetry::trace::Trace;

/// A request in flight. Dropped without a response, it is counted as [`unanswered`] says.
#[derive(Debug)]
pub(super) struct OpenRequest {
    pub(super) shared: Arc<Shared>,
    pub(super) at: Instant,
    pub(super) trace: Trace,
    pub(super) subject: Subject,
    pub(super) id: RequestId,
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
        // Only the length that it would have had is sent of the body.
        let bytes = match self.subject.method {
            Method::HEAD => Some(0),
            _ => answered.response.body().size_hint().exact(),
        };
        // `OPTIONS` is not counted.
        let Some(ended) = &answered.ended else {
            self.log_access(None, status, seconds, bytes);
            return;
        };
        let metrics = &self.shared.metrics;
        metrics.count(self.subject.asked(), ended.outcome, status, seconds);
        metrics.forwarded(ended.outcome, ended.forward);
        if !matches!(ended.outcome, Outcome::Served(_)) {
            self.name(ended, status);
        }
        self.within(|| log(ended, status, seconds, &self.subject));
        self.log_access(Some(ended.outcome), status, seconds, bytes);
    }

    /// Remembers a request without a successful response, and has its log line say which it is.
    fn name(&mut self, ended: &Ended, status: u16) {
        let errors = self.shared.metrics.recent_errors();
        errors.record(ended, status, self.id.as_str(), &self.subject);
        self.span.get_or_insert_with(|| Box::new(span(&self.id, &self.trace)));
    }

    /// Writes the line of the access log. `OPTIONS` has no outcome.
    fn log_access(&self, outcome: Option<Outcome>, status: u16, seconds: f64, bytes: Option<u64>) {
        let subject = &self.subject;
        let Some(access) = &subject.access else {
            return;
        };
        tracing::info!(
            target: "defender_gateway::access",
            request_id = self.id.as_str(),
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
        let seconds = self.at.elapsed().as_secs_f64();
        let (outcome, status) = unanswered(&self.subject.origin.peer);
        let metrics = &self.shared.metrics;
        metrics.count(self.subject.asked(), outcome, status, seconds);
        let ended = Ended {
            outcome,
            forward: None,
            cause: (outcome == Outcome::Failed).then(|| "the gateway cut the connection off".into()),
        };
        if outcome == Outcome::Failed {
            self.name(&ended, status);
        }
        self.within(|| log(&ended, status, seconds, &self.subject));
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
    let caller = subject.origin.caller.name().as_str();
    macro_rules! line {
        ($level:ident, $message:literal) => {
            tracing::$level!(
                outcome,
                status,
                seconds,
                error = ended.cause.as_deref(),
                caller,
                peer = subject.origin.peer.name().as_str(),
                method = subject.method.as_str(),
                operation = subject.operation(),
                path = &*subject.path(),
                $message
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

/// Longer paths and user agents are cut.
const LONGEST: usize = 200;

/// The caller and the peer, which are the same for nearly all requests of a connection.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) caller: Arc<Caller>,
    pub(super) peer: Peer,
}

/// The caller and the target of a request.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) origin: Arc<Origin>,
    pub(super) method: Method,
    target: Target,
    pub(super) access: Option<Box<Access>>,
}

#[derive(Debug)]
enum Target {
    Operation(scan::Target),
    /// A path that is no operation's, without its query.
    Other(Box<str>),
}

/// What only the access log contains.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) protocol: &'static str,
    pub(super) user_agent: Option<Box<str>>,
}

impl Subject {
    pub(super) fn new(origin: Arc<Origin>, known: &RequestMeta) -> Self {
        Self {
            origin,
            method: known.head.method().clone(),
            target: match &known.target {
                Some(target) => Target::Operation(target.clone()),
                None => Target::Other(cut(known.head.uri().path())),
            },
            access: None,
        }
    }

    /// The operation; `None` when the path is no operation's.
    pub(super) fn operation(&self) -> Option<&'static str> {
        match &self.target {
            Target::Operation(target) => Some(target.endpoint.name()),
            Target::Other(_) => None,
        }
    }

    pub(super) fn path(&self) -> Cow<'_, str> {
        match &self.target {
            Target::Operation(target) => target.endpoint.path(target.id.as_ref()).into(),
            Target::Other(path) => Cow::Borrowed(path),
        }
    }

    /// The labels of its metrics.
    pub(super) fn asked(&self) -> Asked<'_> {
        Asked {
            operation: match &self.target {
                Target::Operation(target) => Some(target.endpoint.operation),
                Target::Other(_) => None,
            },
            caller: &self.origin.caller,
        }
    }
}

impl Access {
    pub(super) fn of(request: &Request<()>) -> Self {
        let agent = request.headers().get(header::USER_AGENT);
        Self {
            protocol: if request.version() == Protocol::HTTP_2 {
                "HTTP/2"
            } else if request.version() == Protocol::HTTP_10 {
                "HTTP/1.0"
            } else {
                "HTTP/1.1"
            },
            user_agent: agent.map(|agent| cut(&String::from_utf8_lossy(agent.as_bytes()))),
        }
    }
}

/// The text without characters that control how others are shown, and cut to the length that is
/// shown.
fn cut(text: &str) -> Box<str> {
    let printable = text.chars().filter(|c| !steers(*c));
    printable.take(LONGEST).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_short_and_steers_nothing() {
        assert_eq!(&*cut("curl\u{1b}[2J/8\u{202e}.1\u{2028}"), "curl[2J/8.1");
        assert_eq!(cut(&"é".repeat(LONGEST + 1)).chars().count(), LONGEST);
    }
}
