//! Writes the response for an answer or an error.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use super::next_link::Base;
use super::outcome::{Ended, Outcome};
use super::rate_limit::{RATE_LIMIT, RATE_LIMIT_POLICY, RateLimit, Windows};
use super::{Problem, ResponsePreferences, etag, field, header_template, next_link, table};
use crate::BoxError;
use crate::attempt::Failure;
use crate::caller::RequestId;
use crate::memory::{Exhausted, LARGE_ANSWER, MemoryBudget};
use crate::scan::{self, ForwardReason, Headers, Operation, ServedResponse, Status, TokenOwner, UpstreamResponse};
use crate::telemetry::log;

/// The body of every response: complete, and shared with the cache.
pub type Body = Full<Bytes>;

/// The settings for writing responses.
#[derive(Clone)]
pub struct Config {
    /// The upstream's host names, lower case, without ports: links to them are rewritten.
    pub upstream_hosts: Vec<String>,
    /// For the `RateLimit` fields.
    pub rate_limit: RateLimit,
    /// Counts requests that were lost to a panic.
    pub panics: Counter,
    /// Counts requests that were refused for want of memory.
    pub exhausted: Counter,
    /// Whose access token the upstream calls of these requests carry.
    pub token_owner: TokenOwner,
    /// For `Vary`: the request's field on which the upstream's answers depend, if there is one.
    pub vary: Option<HeaderValue>,
    /// The memory budget for large bodies that were made for one caller only; `None` when they are
    /// not counted.
    pub large_answers: Option<Arc<MemoryBudget>>,
}

/// A response, and how its request ended.
#[derive(Debug)]
pub struct Answered<B = Body> {
    /// The response for the caller.
    pub response: Response<B>,
    /// How the request ended; `None` when it was no request to an operation.
    pub ended: Option<Ended>,
    /// When the response was ready. The clock is read once for all later users: on the path of a
    /// hit each reading costs as much as a lookup.
    pub at: Instant,
}

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// The response for an upstream answer, however it was found. `base` is the address that the
/// caller used.
pub(super) fn served(
    config: &Config,
    served: ServedResponse,
    asked: &ResponsePreferences,
    (id, at): (&RequestId, Instant),
    base: impl Fn() -> Base,
) -> Answered {
    let answer = if served.may_link {
        with_rewritten_links(config, served.answer, &base)
    } else {
        served.answer
    };
    let answer = match with_reserved_memory(config, answer) {
        Ok(answer) => answer,
        Err(exhausted) => return failed(config, &exhausted.into(), (id, at), base),
    };
    // Defender's status counts, even if the caller has the body already (304).
    let outcome = Outcome::of_answer(served.outcome, answer.status, config.token_owner);
    let cause = refused_by_upstream(outcome, answer.status);
    let (answer, tag) = etag::tagged(answer, &asked.tag);
    let meta = ResponseMeta {
        status: &served.status,
        age: served.age,
        wait: asked.wait,
        tag,
    };
    let response = upstream(config, answer, &meta, id, at);
    Answered {
        response,
        ended: Some(Ended {
            outcome,
            forward: served.status.forward,
            cause,
        }),
        at,
    }
}

/// The response for an error: the upstream's own answer if the error carries one, otherwise a
/// problem.
pub(super) fn failed(
    config: &Config,
    error: &BoxError,
    (id, at): (&RequestId, Instant),
    base: impl Fn() -> Base,
) -> Answered {
    if let Some(answer) = passed_through(error) {
        let status = Status {
            forward: Some(ForwardReason::Miss),
            forward_status: Some(answer.status.as_u16()),
            ..Status::default()
        };
        let meta = ResponseMeta {
            status: &status,
            age: None,
            wait: None,
            tag: None,
        };
        return Answered {
            response: upstream(
                config,
                with_rewritten_links(config, answer.clone(), base),
                &meta,
                id,
                at,
            ),
            ended: Some(Ended {
                outcome: Outcome::of_answer(scan::Outcome::Forwarded, answer.status, config.token_owner),
                forward: status.forward,
                cause: Some(log::chain(error.as_ref())),
            }),
            at,
        };
    }
    let problem = table::problem(error);
    if problem.for_memory {
        config.exhausted.inc();
    }
    let outcome = problem.outcome;
    Answered {
        response: own(config, &problem, id, at),
        ended: Some(Ended {
            outcome,
            forward: None,
            cause: Some(match outcome {
                Outcome::Failed => log::chain(error.as_ref()),
                // No part failed: the detail for the caller says all there is to say, whatever
                // layers the error came through.
                _ => format!("{}: {}", problem.code, problem.detail),
            }),
        }),
        at,
    }
}

/// The response to `OPTIONS`.
pub(super) fn options(operation: Option<Operation>, id: &RequestId, at: Instant) -> Answered {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    for (name, value) in table::options(operation).into_iter().flatten() {
        response.headers_mut().insert(*name, HeaderValue::from_static(value));
    }
    put(response.headers_mut(), X_REQUEST_ID, field::request_id(id));
    Answered {
        response,
        ended: None,
        at,
    }
}

/// The upstream's answer, if it is in the chain before any error that the table knows.
fn passed_through(error: &BoxError) -> Option<&UpstreamResponse> {
    log::causes(error.as_ref())
        .take_while(|cause| !table::is_known(*cause))
        .find_map(|cause| cause.downcast_ref::<Failure>()?.answer.as_ref())
}

/// The answer with its links rewritten to lead back here.
fn with_rewritten_links(config: &Config, answer: UpstreamResponse, base: impl Fn() -> Base) -> UpstreamResponse {
    let body = next_link::rewrite(&answer.body, &config.upstream_hosts, base).unwrap_or(answer.body);
    UpstreamResponse { body, ..answer }
}

/// The answer with memory reserved for its body, if the body is large, was made for this caller
/// only, and has no reservation yet. Bodies in the cache are counted there.
fn with_reserved_memory(config: &Config, answer: UpstreamResponse) -> Result<UpstreamResponse, Exhausted> {
    let Some(memory) = config
        .large_answers
        .as_ref()
        .filter(|_| answer.body.len() > LARGE_ANSWER)
    else {
        return Ok(answer);
    };
    if !answer.body.is_unique() || memory.holds(&answer.body) {
        return Ok(answer);
    }
    let reservation = memory.try_reserve(answer.body.len());
    Ok(answer.with_memory(reservation.ok_or(Exhausted { of: "large answers" })?))
}

/// The header fields that the gateway may add to an upstream answer.
static FIELDS: [HeaderName; 9] = [
    CACHE_STATUS,
    PROXY_STATUS,
    RATE_LIMIT_POLICY,
    RATE_LIMIT,
    header::AGE,
    PREFERENCE_APPLIED,
    header::ETAG,
    header::VARY,
    X_REQUEST_ID,
];

/// The fields of an answer that its caller may see: a challenge (RFC 9110 §11.6.1) is for the owner
/// of the rejected token, and a caller can do nothing about the gateway's.
fn shown_to(owner: TokenOwner, fields: Headers) -> Headers {
    let is_shown = |name: &HeaderName| owner == TokenOwner::Caller || *name != header::WWW_AUTHENTICATE;
    if fields.iter().all(|(name, _)| is_shown(name)) {
        return fields;
    }
    let shown = fields.iter().filter(|(name, _)| is_shown(name));
    shown.map(|(name, value)| (name.clone(), value)).collect()
}

/// What the response adds to an upstream answer.
struct ResponseMeta<'a> {
    status: &'a Status,
    age: Option<Duration>,
    wait: Option<Duration>,
    tag: Option<HeaderValue>,
}

fn upstream(
    config: &Config,
    answer: UpstreamResponse,
    meta: &ResponseMeta<'_>,
    id: &RequestId,
    at: Instant,
) -> Response<Body> {
    let failed = answer.status.is_client_error() || answer.status.is_server_error();
    let (mut policy, mut left) = (None, None);
    (config.rate_limit)(at, &mut |windows| {
        (policy, left) = (windows.policy.clone(), windows.left.clone());
    });
    let applied = |wait: Duration| HeaderValue::try_from(format!("wait={}", wait.as_secs())).ok();
    let received = failed.then(|| field::received_status(answer.status)).flatten();
    // In the order of `FIELDS`.
    let values = [
        field::cache_status(meta.status),
        received,
        policy,
        left,
        meta.age.and_then(field::age),
        meta.wait.and_then(applied),
        meta.tag.clone(),
        config.vary.clone(),
        field::request_id(id),
    ];
    let mut response = Response::new(Body::new(answer.body));
    *response.status_mut() = answer.status;
    let headers = shown_to(config.token_owner, answer.headers);
    *response.headers_mut() = header_template::build(&headers, &FIELDS, values);
    response
}

/// A response that the gateway makes itself.
fn own(config: &Config, problem: &Problem, id: &RequestId, at: Instant) -> Response<Body> {
    let limited = problem.status == StatusCode::TOO_MANY_REQUESTS || problem.status.is_server_error();
    let mut windows = Windows::default();
    if limited {
        (config.rate_limit)(at, &mut |now| windows = now.clone());
    }
    let mut response = Response::new(Body::new(problem.body(id, &windows)));
    *response.status_mut() = problem.status;
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, PROBLEM_JSON);
    // RFC 9111 §4.2.2 would let a cache on the way store a 404, 405 or 414 for as long as it likes.
    fields.insert(header::CACHE_CONTROL, NO_STORE);
    put(fields, PROXY_STATUS, field::proxy_status(problem.proxy_status));
    if let Some(after) = problem.retry_after {
        fields.insert(header::RETRY_AFTER, field::seconds_up(after).into());
    }
    for (name, value) in problem.fields {
        fields.insert(*name, HeaderValue::from_static(value));
    }
    windows.put(fields);
    put(fields, X_REQUEST_ID, field::request_id(id));
    response
}

pub(super) fn put(fields: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    if let Some(value) = value {
        fields.insert(name, value);
    }
}

/// The log's cause for an upstream answer that the caller cannot use.
fn refused_by_upstream(outcome: Outcome, status: StatusCode) -> Option<String> {
    match outcome {
        Outcome::Served(_) => None,
        _ => Some(format!("Defender answered {status}")),
    }
}
