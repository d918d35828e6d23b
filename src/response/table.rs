//! The table: which error becomes which answer.

use std::error::Error;
use std::time::Duration;

use super::{Fault, Kind, Panicked, Policies, Problem, Refusal};
use crate::BoxError;
use crate::memory::Exhausted;
use crate::operation::Input;
use crate::scan::{Invalid, Operation};
use crate::telemetry::log;
use crate::{cache, queue, quota, region, single_flight, token, upstream};

/// What to answer to `error`: the first cause in its chain that the table knows decides. What nobody knows is our own failure.
#[must_use]
pub fn problem(error: &BoxError) -> Problem {
    causes(error).find_map(known).unwrap_or_else(|| {
        Problem::new(
            Kind::InternalServerError,
            "the gateway failed to handle the request; its log says more under the request's id",
        )
    })
}

/// `error` and what caused it, outermost first.
pub(super) fn causes(error: &BoxError) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let first: &(dyn Error + 'static) = error.as_ref();
    std::iter::successors(Some(first), source)
}

/// One cause. Each part has its own table below; a new part adds a line here.
fn known(cause: &(dyn Error + 'static)) -> Option<Problem> {
    None.or_else(|| cause.downcast_ref().map(refusal))
        .or_else(|| cause.downcast_ref::<Panicked>().map(|_| panicked()))
        .or_else(|| cause.downcast_ref().map(invalid))
        .or_else(|| cause.downcast_ref().map(queue))
        .or_else(|| cause.downcast_ref().map(joined))
        .or_else(|| cause.downcast_ref().copied().map(not_cached))
        .or_else(|| cause.downcast_ref().map(token))
        .or_else(|| cause.downcast_ref().map(upstream))
        .or_else(|| cause.downcast_ref().map(no_answer))
        .or_else(|| {
            cause
                .downcast_ref::<Exhausted>()
                .map(|error| exhausted(error.to_string()))
        })
        .or_else(|| {
            cause
                .downcast_ref::<quota::Overdue>()
                .map(|error| timeout(error.to_string()))
        })
}

fn queue(refused: &queue::Refused) -> Problem {
    // Whole seconds: the sentence and the field say the same.
    let wait_s = refused.retry_after_s();
    let wait = Duration::from_secs(wait_s);
    let advice = refused.wait.map_or_else(String::new, |wait| {
        let (needed_s, allowed_s) = (wait.needed_s(), wait.allowed_s());
        format!("your turn would come in {needed_s} s, this request allows {allowed_s} s: send `Prefer: wait={needed_s}`, or ")
    });
    let detail = format!("{}; {advice}come back in {wait_s} s", refused.reason.as_str());
    match refused.reason {
        queue::Reason::ShuttingDown => Problem {
            type_uri: Problem::REDUCED_CAPACITY,
            ..Problem::new(Kind::ShuttingDown, refused.reason.as_str())
                .with_fault(Fault::Local)
                .with_retry_after(MOMENT)
        },
        queue::Reason::StoreLost => Problem {
            type_uri: Problem::REDUCED_CAPACITY,
            ..Problem::new(Kind::QuotaUnavailable, refused.reason.as_str())
                .with_fault(Fault::Local)
                .with_retry_after(wait)
        },
        // The quota of the caller's own token may be untouched.
        queue::Reason::Tokens => Problem {
            type_uri: Problem::REDUCED_CAPACITY,
            ..Problem::new(Kind::ServiceUnavailable, detail)
                .with_fault(Fault::Local)
                .with_retry_after(wait)
        },
        // The caller's own limit, whatever the upstream's quota has left.
        queue::Reason::CallerLimiter => Problem::quota_exceeded(detail, wait, Policies::None),
        _ => Problem {
            wait_needed: refused.wait.map(queue::Wait::needed_s),
            ..Problem::quota_exceeded(detail, wait, Policies::Spent)
        },
    }
}

/// Joined a call that did not leave in time.
fn joined(overdue: &single_flight::DeadlineExceeded) -> Problem {
    Problem::quota_exceeded(overdue.to_string(), overdue.retry_after, Policies::Spent)
}

fn not_cached(error: cache::NotCached) -> Problem {
    Problem::new(Kind::NotCached, error.to_string()).with_fault(Fault::Local)
}

fn token(error: &token::Error) -> Problem {
    let (kind, fault) = match error {
        token::Error::Refused { .. } => (Kind::SignInRefused, Fault::Configuration),
        token::Error::Unavailable { .. } => (Kind::SignInUnavailable, Fault::Unavailable),
    };
    let wait = error.retry_after().unwrap_or(MOMENT);
    Problem::new(kind, error.to_string())
        .with_fault(fault)
        .with_retry_after(wait)
}

fn upstream(error: &upstream::Error) -> Problem {
    if error.is_exhausted() {
        return exhausted(log::chain(error));
    }
    if error.is_timeout() {
        return timeout(log::chain(error));
    }
    let fault = Fault::Exchange(error.proxy_status());
    // Callers of an internal gateway may know why.
    Problem::new(Kind::UpstreamUnreachable, log::chain(error)).with_fault(fault)
}

/// There is no memory for it while others take it.
fn exhausted(detail: String) -> Problem {
    Problem {
        type_uri: Problem::REDUCED_CAPACITY,
        ..Problem::new(Kind::ServiceUnavailable, detail)
            .with_fault(Fault::Local)
            .with_retry_after(Exhausted::RETRY_AFTER)
    }
}

fn no_answer(error: &region::Error) -> Problem {
    let fault = Fault::Exchange("http_protocol_error");
    Problem::new(Kind::UpstreamUnreachable, log::chain(error)).with_fault(fault)
}

fn timeout(detail: String) -> Problem {
    Problem::new(Kind::UpstreamTimeout, detail).with_fault(Fault::ResponseTimeout)
}

fn invalid(invalid: &Invalid) -> Problem {
    let kind = if invalid.is_about_options() {
        Kind::ODataError
    } else {
        Kind::InvalidRequestBody
    };
    Problem {
        target: invalid.target().map(|target| target.to_owned().into()),
        ..Problem::new(kind, invalid.to_string())
    }
}

fn panicked() -> Problem {
    Problem::new(
        Kind::InternalServerError,
        "the gateway failed to handle the request; its log says more under the request's id",
    )
}

/// Names the lifetimes that a closure cannot.
fn source<'a>(error: &&'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    (*error).source()
}

/// Whether the table has an answer to exactly this cause.
pub(super) fn is_known(cause: &(dyn Error + 'static)) -> bool {
    known(cause).is_some()
}

type Fields = &'static [(&'static str, &'static str)];

const ALLOW_ALL: Fields = &[("allow", "GET, OPTIONS, POST, QUERY")];
const ALLOW_GET: Fields = &[("allow", "GET, OPTIONS")];
const ALLOW_POST: Fields = &[("allow", "OPTIONS, POST, QUERY")];
const ACCEPT_QUERY: Fields = &[("accept-query", "\"application/json\"")];
const ACCEPT_ENCODING: Fields = &[("accept-encoding", "identity")];

/// The methods of an operation.
fn allow(operation: Operation) -> Fields {
    match operation.declaration().input {
        Input::Path => ALLOW_GET,
        Input::Ids { .. } => ALLOW_POST,
    }
}

/// The fields of an answer to `OPTIONS` about an operation, or about the server as a whole.
pub(super) fn options(operation: Option<Operation>) -> [Fields; 2] {
    match operation {
        Some(operation) if operation.declaration().input == Input::Path => [allow(operation), &[]],
        Some(operation) => [allow(operation), ACCEPT_QUERY],
        None => [ALLOW_ALL, ACCEPT_QUERY],
    }
}

/// How long a caller should stay away when the gateway is busy for a moment.
const MOMENT: Duration = Duration::from_secs(1);

fn refusal(refusal: &Refusal) -> Problem {
    let make = |kind| Problem::new(kind, refusal.to_string());
    match refusal {
        Refusal::Host | Refusal::BodyBroken | Refusal::Authorization => make(Kind::BadRequest),
        Refusal::ForeignHost { .. } => make(Kind::Misdirected).with_fault(Fault::Denied),
        Refusal::CrossSite => make(Kind::CrossSite).with_fault(Fault::Denied),
        Refusal::Path => make(Kind::NotFound),
        Refusal::Method(operation) => make(Kind::MethodNotAllowed).with_fields(allow(*operation)),
        Refusal::ContentType => make(Kind::UnsupportedMediaType).with_fields(ACCEPT_QUERY),
        // RFC 9110 §12.5.3: what would have been accepted.
        Refusal::ContentEncoding => make(Kind::UnsupportedMediaType).with_fields(ACCEPT_ENCODING),
        Refusal::TransferEncoding => make(Kind::NotImplemented).with_fault(Fault::Request),
        Refusal::BodySize { .. } => make(Kind::RequestEntityTooLarge),
        Refusal::BodyTimeout { .. } => make(Kind::RequestTimeout),
        Refusal::Busy => exhausted(refusal.to_string()),
        Refusal::Fields => make(Kind::RequestHeaderFieldsTooLarge),
    }
}
