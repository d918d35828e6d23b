//! Writes answers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use super::layer::Asked;
use super::outcome::{Ended, Outcome, TokenOwner};
use super::table::{self, causes};
use super::{Problem, etag, field, header_template, link};
use crate::BoxError;
use crate::attempt::Failure;
use crate::caller::RequestId;
use crate::memory::{Exhausted, LARGE_ANSWER, MemoryBudget};
use crate::scan::{self, Answer, Forward, Operation, Served, Status};

/// The body of every answer: whole, and shared with the cache.
pub type Body = Full<Bytes>;

/// Shows somebody the quota windows as they are at this moment, which is now. Called once per answer, so it must be cheap and must not block.
pub type RateLimit = Arc<dyn Fn(Instant, &mut dyn FnMut(&Windows)) + Send + Sync>;

/// The quota windows as they are at one moment, with their fields already written: between two calls many answers share them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    list: Vec<Window>,
    policy: Option<HeaderValue>,
    left: Option<HeaderValue>,
}

impl Windows {
    /// `list` holds the shortest window first. Without any, there are no fields.
    #[must_use]
    pub fn new(list: Vec<Window>) -> Self {
        Self {
            policy: field::rate_limit_policy(&list),
            left: field::rate_limit(&list),
            list,
        }
    }

    /// The same later: `list` is how they are now. What is allowed seldom changes, and is not written again when it has not.
    #[must_use]
    pub fn now(self, list: Vec<Window>) -> Self {
        let is_same =
            |old: &Window, new: &Window| (&old.name, old.quota, old.window_s) == (&new.name, new.quota, new.window_s);
        if self.list.len() != list.len() || !self.list.iter().zip(&list).all(|(old, new)| is_same(old, new)) {
            return Self::new(list);
        }
        Self {
            left: field::rate_limit(&list),
            list,
            ..self
        }
    }

    /// The windows, shortest first.
    #[must_use]
    pub fn list(&self) -> &[Window] {
        &self.list
    }

    fn put(&self, fields: &mut HeaderMap) {
        put(fields, RATE_LIMIT_POLICY, self.policy.clone());
        put(fields, RATE_LIMIT, self.left.clone());
    }
}

/// One quota window as callers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The policy's name, such as `1m`.
    pub name: Arc<str>,
    /// Calls per window.
    pub quota: u64,
    /// The window's length in seconds, at least 1.
    pub window_s: u64,
    /// Calls left.
    pub remaining: u64,
    /// Seconds in which no more than `remaining` calls may be made.
    pub reset_s: u64,
    /// For a policy that spreads another one's calls: what it does at present, in a sentence for people.
    pub spread: Option<String>,
}

/// What answers need to know besides the outcome.
#[derive(Clone)]
pub struct Config {
    /// The upstream's host names, lower case, without ports: links to them are rewritten.
    pub upstream_hosts: Vec<String>,
    /// For the `RateLimit` fields.
    pub rate_limit: RateLimit,
    /// Counts requests that were lost to a panic.
    pub panics: Counter,
    /// Whose tokens the calls of these requests carry.
    pub token_owner: TokenOwner,
    /// The memory of large answers that were made for one caller alone; `None`: theirs is not counted.
    pub large_answers: Option<Arc<MemoryBudget>>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("upstream_hosts", &self.upstream_hosts)
            .finish_non_exhaustive()
    }
}

/// An answer on its way out, and what it means.
#[derive(Debug)]
pub struct Answered<B = Body> {
    /// What the caller gets.
    pub response: Response<B>,
    /// How the request ended; `None` when it was no question.
    pub ended: Option<Ended>,
    /// The request's name.
    pub id: RequestId,
    /// When it was known. One look at the clock for whoever needs it: on the path of a hit each costs as much as a look-up.
    pub at: Instant,
}

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// An answer of the upstream, however it came about. `origin` is the address that the caller used.
pub(super) fn served(
    config: &Config,
    served: Served,
    asked: &Asked,
    (id, at): (&RequestId, Instant),
    origin: impl Fn() -> String,
) -> Answered {
    let answer = if served.may_link {
        with_own_links(config, served.answer, &origin)
    } else {
        served.answer
    };
    let answer = match paid_for(config, answer) {
        Ok(answer) => answer,
        Err(exhausted) => return failed(config, &exhausted.into(), (id, at), origin),
    };
    // What Defender answered counts, not that the caller has it already (304).
    let outcome = Outcome::of_answer(served.outcome, answer.status, config.token_owner);
    let cause = refused_by_upstream(outcome, answer.status);
    let (answer, tag) = etag::tagged(answer, &asked.tag);
    let said = Said {
        status: &served.status,
        age: served.age,
        wait: asked.wait,
        tag,
    };
    let response = upstream(config, answer, &said, id, at);
    Answered {
        response,
        ended: Some(Ended {
            outcome,
            forward: served.status.forward,
            cause,
        }),
        id: id.clone(),
        at,
    }
}

/// An error: the upstream's own answer if the error carries one, otherwise a problem.
pub(super) fn failed(
    config: &Config,
    error: &BoxError,
    (id, at): (&RequestId, Instant),
    origin: impl Fn() -> String,
) -> Answered {
    if let Some(answer) = passed_through(error) {
        let status = Status {
            forward: Some(Forward::Miss),
            forward_status: Some(answer.status.as_u16()),
            ..Status::default()
        };
        let said = Said {
            status: &status,
            age: None,
            wait: None,
            tag: None,
        };
        return Answered {
            response: upstream(config, with_own_links(config, answer.clone(), origin), &said, id, at),
            ended: Some(Ended {
                outcome: Outcome::of_answer(scan::Outcome::Forwarded, answer.status, config.token_owner),
                forward: status.forward,
                cause: Some(chain(error)),
            }),
            id: id.clone(),
            at,
        };
    }
    let problem = table::problem(error);
    let outcome = problem.outcome;
    Answered {
        response: own(config, &problem, id, at),
        ended: Some(Ended {
            outcome,
            forward: None,
            cause: Some(match outcome {
                Outcome::Failed => chain(error),
                // Nothing is broken: what the caller was told is all there is to say, however many parts it came through.
                _ => format!("{}: {}", problem.code, problem.detail),
            }),
        }),
        id: id.clone(),
        at,
    }
}

/// The answer to `OPTIONS`.
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
        id: id.clone(),
        at,
    }
}

/// The upstream's answer, if it comes before anything that the table knows.
fn passed_through(error: &BoxError) -> Option<&Answer> {
    causes(error)
        .take_while(|cause| !table::is_known(*cause))
        .find_map(|cause| cause.downcast_ref::<Failure>()?.answer.as_ref())
}

/// The answer with its links leading back here.
fn with_own_links(config: &Config, answer: Answer, origin: impl Fn() -> String) -> Answer {
    let body = link::rewrite(&answer.body, &config.upstream_hosts, origin).unwrap_or(answer.body);
    Answer { body, ..answer }
}

/// The answer with memory reserved for its body, if that is large, was made for this caller, and nothing is reserved for it so far: what
/// the cache has, others hold as well.
fn paid_for(config: &Config, answer: Answer) -> Result<Answer, Exhausted> {
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
    let reservation = reservation.ok_or(Exhausted { of: "large answers" })?;
    let body = reservation.hold(answer.body);
    Ok(Answer { body, ..answer })
}

/// What an answer of the upstream may get besides its own.
static FIELDS: [HeaderName; 8] = [
    CACHE_STATUS,
    PROXY_STATUS,
    RATE_LIMIT_POLICY,
    RATE_LIMIT,
    header::AGE,
    PREFERENCE_APPLIED,
    header::ETAG,
    X_REQUEST_ID,
];

/// What is said of an answer of the upstream, besides what it says itself.
struct Said<'a> {
    status: &'a Status,
    age: Option<Duration>,
    wait: Option<Duration>,
    tag: Option<HeaderValue>,
}

fn upstream(config: &Config, answer: Answer, said: &Said<'_>, id: &RequestId, at: Instant) -> Response<Body> {
    let failed = answer.status.is_client_error() || answer.status.is_server_error();
    let (mut policy, mut left) = (None, None);
    (config.rate_limit)(at, &mut |windows| {
        (policy, left) = (windows.policy.clone(), windows.left.clone());
    });
    let applied = |wait: Duration| HeaderValue::try_from(format!("wait={}", wait.as_secs())).ok();
    let received = failed.then(|| field::received_status(answer.status)).flatten();
    // In the order of `FIELDS`.
    let values = [
        field::cache_status(said.status),
        received,
        policy,
        left,
        said.age.and_then(field::age),
        said.wait.and_then(applied),
        said.tag.clone(),
        field::request_id(id),
    ];
    let mut response = Response::new(Body::new(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = header_template::build(&answer.headers, &FIELDS, values);
    response
}

/// An answer that the gateway makes itself.
fn own(config: &Config, problem: &Problem, id: &RequestId, at: Instant) -> Response<Body> {
    let limited = problem.status == StatusCode::TOO_MANY_REQUESTS || problem.status.is_server_error();
    let mut windows = Windows::default();
    if limited {
        (config.rate_limit)(at, &mut |now| windows = now.clone());
    }
    let mut response = Response::new(Body::new(problem.body(id, &windows.list)));
    *response.status_mut() = problem.status;
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, PROBLEM_JSON);
    // RFC 9111 §4.2.2 would let a cache in between keep a 404, 405 or 414 as it likes.
    fields.insert(header::CACHE_CONTROL, NO_STORE);
    put(fields, PROXY_STATUS, field::proxy_status(problem.fault));
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

fn put(fields: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    if let Some(value) = value {
        fields.insert(name, value);
    }
}

/// What the log says of an answer of the upstream's that the caller cannot use.
fn refused_by_upstream(outcome: Outcome, status: StatusCode) -> Option<String> {
    match outcome {
        Outcome::Served(_) => None,
        _ => Some(format!("Defender answered {status}")),
    }
}

/// The error with its causes. Errors of this crate hold neither secrets nor bodies.
fn chain(error: &BoxError) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause.to_string());
    }
    text
}
