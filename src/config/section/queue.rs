//! `[queue]`: how requests wait for slots.

use std::num::NonZeroUsize;
use std::time::Duration;

use http::HeaderName;
use http::header;

use crate::config::config_error::Origin;
use crate::config::key::{DefaultValue, Key, Kind};
use crate::config::reader::Reader;
use crate::config::value::show_duration;

static MAX_WAIT: Key = Key::new(
    "queue",
    "max_wait",
    Kind::Duration(Duration::ZERO, Duration::from_hours(24)),
    DefaultValue::Text("20s"),
    "The longest wait for a turn when the caller does not say. `Prefer: wait=N` shortens or lengthens it.",
)
.live();
static MAX_WAIT_LIMIT: Key = Key::new(
    "queue",
    "max_wait_limit",
    Kind::Duration(Duration::ZERO, Duration::from_hours(24)),
    DefaultValue::Text("10m"),
    "The longest wait that a caller can ask for. At least `max_wait`.",
)
.live();
static MAX_REQUESTS: Key = Key::new(
    "queue",
    "max_requests",
    // A waiting request takes 12 to 27 KiB; a million of them is more than a gateway should hold.
    Kind::Count(1, 1_000_000),
    DefaultValue::Count(10_000),
    "How many requests may wait at once; more are answered 429.",
)
.live();
static MAX_REQUESTS_PER_CALLER: Key = Key::new(
    "queue",
    "max_requests_per_caller",
    Kind::Count(1, 1_000_000),
    DefaultValue::Count(1000),
    "How many of them one caller may have. More than `max_requests` has no effect.",
)
.live();
static CALLER_HEADER: Key = Key::new(
    "queue",
    "caller_header",
    Kind::Text("the name of a request header that carries no credential, or \"\" for none"),
    DefaultValue::Text("x-caller"),
    "The request header that says who is asking, for fairness only. Without it the peer address counts.",
)
.live();

pub(super) static KEYS: &[&Key] = &[
    &MAX_WAIT,
    &MAX_WAIT_LIMIT,
    &MAX_REQUESTS,
    &MAX_REQUESTS_PER_CALLER,
    &CALLER_HEADER,
];

/// How requests wait for slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// The wait of a request that does not ask for one; at most `max_wait_limit`.
    pub max_wait: Duration,
    /// The longest wait that a request can ask for.
    pub max_wait_limit: Duration,
    /// How many requests may wait.
    pub max_requests: NonZeroUsize,
    /// How many of them one caller may have; at most `max_requests`.
    pub max_requests_per_caller: NonZeroUsize,
    /// The header field with the caller's name; `None` to use the peer's address only.
    pub caller_header: Option<HeaderName>,
}

impl Queue {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let max_wait = reader.duration(&MAX_WAIT);
        let max_wait_limit = reader.duration(&MAX_WAIT_LIMIT);
        let max_requests = reader.count(&MAX_REQUESTS).and_then(nonzero);
        let per_caller = reader.count(&MAX_REQUESTS_PER_CALLER).and_then(nonzero);
        let caller_header = reader.optional(&CALLER_HEADER, caller_header);

        if let (Some(wait), Some(limit)) = (max_wait, max_wait_limit)
            && wait > limit
        {
            // The error is about the one of the two that was written.
            let (key, whose) = match reader.origin(&MAX_WAIT) {
                Origin::Default => (&MAX_WAIT_LIMIT, " (its default)"),
                _ => (&MAX_WAIT, ""),
            };
            let (wait, limit) = (show_duration(wait), show_duration(limit));
            reader.wrong(
                key,
                format!("queue.max_wait{whose} is {wait}, longer than queue.max_wait_limit, {limit}; allowed is at most the limit"),
            );
        }
        Some(Self {
            max_wait: max_wait?,
            max_wait_limit: max_wait_limit?,
            max_requests: max_requests?,
            max_requests_per_caller: per_caller?.min(max_requests?),
            caller_header: caller_header.ok()?,
        })
    }
}

fn nonzero(count: u64) -> Option<NonZeroUsize> {
    usize::try_from(count).ok().and_then(NonZeroUsize::new)
}

fn caller_header(text: &str) -> Result<HeaderName, String> {
    let name = HeaderName::try_from(text).map_err(|_| "is no header name".to_owned())?;
    // The caller's name appears in logs and on the status page.
    let secret = [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE];
    if secret.contains(&name) {
        return Err("carries a credential, and callers' names are shown in logs".into());
    }
    Ok(name)
}
