//! `[queue]`: how requests wait for slots.

use std::num::NonZeroUsize;
use std::time::Duration;

use http::HeaderName;
use http::header;

use crate::config::config_error::Origin;
use crate::config::key::Key;
use crate::config::reader::{Read, Reader};
use crate::config::value::show_duration;

section! {
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Queue: "queue", "how requests wait for their turn";

    /// The longest wait for a turn when the caller does not say. `Prefer: wait=N` shortens or
    /// lengthens it.
    max_wait: Duration = Key::duration(Duration::ZERO, Duration::from_hours(24), "20s").live() => max_wait;

    /// The longest wait that a caller can ask for. At least `max_wait`.
    max_wait_limit: Duration = Key::duration(Duration::ZERO, Duration::from_hours(24), "10m").live()
        => Reader::duration;

    /// How many requests may wait at once; more are answered 429.
    // A waiting request takes 12 to 27 KiB; a million of them is more than a gateway should hold.
    max_requests: NonZeroUsize = Key::count(1, 1_000_000, 10_000).live() => Reader::count;

    /// How many of them one caller may have. More than `max_requests` has no effect.
    max_requests_per_caller: NonZeroUsize = Key::count(1, 1_000_000, 1000).live() => max_requests_per_caller;

    /// The request header that says who is asking, for fairness only. Without it the peer address
    /// counts.
    caller_header: Option<HeaderName> = Key::text(
        "the name of a request header that carries no credential, or \"\" for none",
        "x-caller",
    ).live() => |reader, key| reader.optional(key, caller_header);
}

/// At most `max_wait_limit`.
fn max_wait(reader: &mut Reader<'_>, key: &'static Key) -> Read<Duration> {
    let (wait, limit) = (reader.duration(key)?, reader.duration(&key::max_wait_limit)?);
    if wait <= limit {
        return Ok(wait);
    }
    // The error is about the one of the two that was written.
    let (key, whose) = match reader.origin(key) {
        Origin::Default => (&key::max_wait_limit, " (its default)"),
        _ => (key, ""),
    };
    let (wait, limit) = (show_duration(wait), show_duration(limit));
    let problem = format!(
        "queue.max_wait{whose} is {wait}, longer than queue.max_wait_limit, {limit}; allowed is at most the limit"
    );
    Err(reader.wrong(key, problem))
}

fn max_requests_per_caller(reader: &mut Reader<'_>, key: &'static Key) -> Read<NonZeroUsize> {
    let most: NonZeroUsize = reader.count(key)?;
    Ok(most.min(reader.count(&key::max_requests)?))
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
