//! The responses of a region's host: answers in the configured layout, errors in Defender's shape,
//! and those with a fault.

use std::io::{self, Write};

use http::request::Parts;
use http::{StatusCode, header};
use serde::Serializer as _;
use serde_json::ser::{Formatter, Serializer};
use serde_json::{Value, json};

use crate::config::{Config, Message, RetryAfter};
use crate::defender::request_parts::Options;
use crate::fault::Fault;
use crate::history::{EntityForm, Envelope, History, Layout, NextLink};
use crate::limit::Rejection;
use crate::rng::Rng;
use crate::sim_state::State;
use crate::wire::{self, Manner, Reply};

/// The base address that the real service puts into answers, whatever region they come from.
fn context(what: &str) -> Value {
    json!(format!("https://api.securitycenter.microsoft.com/api/{what}"))
}

/// The body of an answer with one entity.
pub(super) fn entity_document(history: &History, what: &str, entity: &Value) -> String {
    if history.entity == EntityForm::Wrapped {
        return rows_document(history, what, std::slice::from_ref(entity), None);
    }
    let context = ("@odata.context", context(what));
    let members = entity.as_object().into_iter().flatten();
    let members = members.map(|(name, value)| (&**name, value.clone()));
    object(history, [context].into_iter().chain(members))
}

/// The body of an answer with these rows, and a link to the next ones.
pub(super) fn rows_document(history: &History, what: &str, rows: &[Value], next: Option<(&str, String)>) -> String {
    let (context, list) = (("@odata.context", context(what)), ("value", Value::from(rows.to_vec())));
    let mut members = match history.envelope {
        Envelope::Documented => vec![context, list],
        Envelope::Reversed => vec![list, context],
        Envelope::Extended => vec![
            (
                "@odata.type",
                json!("#Collection(microsoft.windowsDefenderATP.api.scan)"),
            ),
            list,
            context,
            ("diagnostics", json!({"cached": false, "notes": [null, "-"]})),
        ],
    };
    members.extend(next.map(|(name, link)| (name, json!(link))));
    object(history, members)
}

fn object<'a>(history: &History, members: impl IntoIterator<Item = (&'a str, Value)>) -> String {
    let mut text = Vec::new();
    // Writing values to memory cannot fail.
    let _ = match history.layout {
        Layout::Compact => Serializer::new(&mut text).collect_map(members),
        Layout::Spaced => Serializer::with_formatter(&mut text, Spaced).collect_map(members),
        Layout::Pretty | Layout::Crlf => Serializer::pretty(&mut text).collect_map(members),
    };
    let text = String::from_utf8_lossy(&text).into_owned();
    match history.layout {
        Layout::Compact | Layout::Spaced => text,
        Layout::Pretty => text + "\n",
        Layout::Crlf => (text + "\n").replace('\n', "\r\n"),
    }
}

/// On one line, with a space after each comma and colon.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.begin_array_value(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// The link to the rows after the first `skip`, with its configured name. `size` is the option that
/// limits the number of rows, and its value.
pub(super) fn next_link(
    history: &History,
    head: &Parts,
    size: Option<(&str, usize)>,
    skip: usize,
) -> (&'static str, String) {
    let path = head.uri.path();
    let top = size.map_or(String::new(), |(name, size)| format!("{name}={size}&"));
    match history.next_link {
        NextLink::Present | NextLink::Absent => {
            let (scheme, host) = (wire::scheme(head), wire::authority(head).unwrap_or_default());
            ("@odata.nextLink", format!("{scheme}://{host}{path}?{top}$skip={skip}"))
        }
        NextLink::SkipToken => {
            let link = format!(
                "https://api.securitycenter.microsoft.com{path}?{top}$skiptoken={}",
                Options::token(skip)
            );
            ("@odata.nextLink", link)
        }
        NextLink::Custom => {
            let link = format!("https://api.securitycenter.windows.com{path}?=&=10000&{top}position={skip}");
            ("@odata.nextlink", link)
        }
    }
}

/// Why a call is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    pub(super) fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(super) fn unauthorized(reason: &str) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "Unauthorized",
            format!("Unauthorized request - reason of failure: {reason}"),
        )
    }

    pub(super) fn odata(message: impl Into<String>) -> Self {
        Self::bad("ODataError", message)
    }

    /// The response; its `target` is a new tracking id.
    pub(super) fn reply(&self, rng: &mut Rng) -> Reply {
        let document = json!({
            "error": {"code": self.code, "message": self.message, "target": rng.guid()},
        });
        Reply::new(self.status, "application/json; charset=utf-8", document.to_string())
    }
}

/// The 429 of the quota, as captured in 2021 and 2022.
pub(super) fn throttled(rejection: &Rejection, config: &Config, rng: &mut Rng) -> Reply {
    let seconds = rejection.retry_after.as_millis().div_ceil(1_000).max(1);
    let (calls, clock) = (rejection.limit.calls(), rejection.limit.clock());
    let message = match config.throttle.message {
        Message::WithSeconds => format!(
            "API calls quota exceeded! Maximum allowed {calls} per {clock} for the key Destination+TenantID+AppID. \
             You can send requests again in {seconds} seconds."
        ),
        Message::Absent => String::new(),
        Message::WithoutSeconds => format!("API calls quota exceeded! maximum allowed {calls} per {clock}"),
    };
    let reply = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "429", message).reply(rng);
    match config.throttle.header {
        RetryAfter::Absent => reply,
        RetryAfter::Seconds => reply.with(header::RETRY_AFTER, &seconds.to_string()),
        RetryAfter::Date => reply.with(header::RETRY_AFTER, &http_date(rejection)),
    }
}

/// The end of the wait as an HTTP date, rounded up to the second.
fn http_date(rejection: &Rejection) -> String {
    let then = jiff::Timestamp::now()
        .checked_add(rejection.retry_after)
        .unwrap_or(jiff::Timestamp::MAX);
    let up = i64::from(then.subsec_nanosecond() > 0);
    jiff::Timestamp::from_second(then.as_second().saturating_add(up))
        .unwrap_or(jiff::Timestamp::MAX)
        .strftime("%a, %d %b %Y %H:%M:%S GMT")
        .to_string()
}

/// The message of a 429 that has nothing to do with the number of calls.
const BUSY: &str = "The service is short of CPU for this tenant.";

/// The response with `fault`; `proper` makes the one without.
pub(super) fn faulty(fault: Fault, state: &mut State, proper: impl Fn(&mut State) -> Reply) -> Reply {
    match fault {
        Fault::Status(status) if (502..=504).contains(&status.as_u16()) => Reply::front_end_page(status),
        Fault::Status(status) => Refusal::new(status, code(status), "").reply(&mut state.rng),
        Fault::Throttle(wait) => match state.config.limits.first() {
            Some(limit) => {
                let rejection = Rejection {
                    limit: *limit,
                    retry_after: wait,
                };
                throttled(&rejection, &state.config, &mut state.rng)
            }
            // Without limits there is no quota to exceed.
            None => proper(state),
        },
        Fault::Busy(wait) => {
            let reply = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", BUSY).reply(&mut state.rng);
            match wait {
                Some(wait) => reply.with(header::RETRY_AFTER, &wait.as_secs().to_string()),
                None => reply,
            }
        }
        Fault::NoLicence => Refusal::unauthorized("No Tvm license").reply(&mut state.rng),
        Fault::BlackHole => proper(state).delivered(Manner::Never),
        Fault::Cut => proper(state).delivered(Manner::Cut),
        Fault::CutMidBody => proper(state).delivered(Manner::CutMidBody),
        Fault::SlowHead(over) => proper(state).delivered(Manner::SlowHead(over)),
        Fault::SlowBody(over) => proper(state).delivered(Manner::SlowBody(over)),
        Fault::Rubbish => Reply::new(StatusCode::OK, "application/json", "{\"@odata.context\":\"https://api"),
        Fault::Redirect => Reply::redirect(),
        Fault::Portal => Reply::front_end_page(StatusCode::OK),
        Fault::Empty => Reply::new(StatusCode::OK, "application/json", ""),
        Fault::ErrorInOk => {
            let error = Refusal::new(StatusCode::OK, "InternalServerError", "Something went wrong.");
            error.reply(&mut state.rng)
        }
        Fault::WrongType => proper(state).with(header::CONTENT_TYPE, "text/html"),
        Fault::Page(status) => Reply::front_end_page(status),
        Fault::RefusedStream => proper(state).delivered(Manner::Reset(h2::Reason::REFUSED_STREAM)),
        Fault::Http1Required => proper(state).delivered(Manner::Reset(h2::Reason::HTTP_1_1_REQUIRED)),
    }
}
impl State {
    /// The fault of the next request, if there is one.
    pub(super) fn draw_fault(&mut self, region: &str, is_operation: bool) -> Option<Fault> {
        let faults = &mut self.config.region(region)?.faults;
        if is_operation {
            faults.draw(&mut self.rng)
        } else {
            faults.standing()
        }
    }
}

fn code(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        429 => "TooManyRequests",
        _ => "InternalServerError",
    }
}
