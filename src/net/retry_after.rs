//! `Retry-After` (RFC 9110 §10.2.3), in all the forms in which services and the proxies before them
//! send it.

use std::time::Duration;

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderName, HeaderValue};
use jiff::Timestamp;

/// What Azure's own clients read besides `Retry-After`: such a service may send them alone.
const IN_MILLIS: [&str; 2] = ["retry-after-ms", "x-ms-retry-after-ms"];

/// The longest wait that the fields of a response name; `None` when none can be read. A date counts
/// from the response's own `Date`, because our clock may be wrong; without one, from `wall`, if it
/// is known.
pub fn wait<'a>(
    fields: impl IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>,
    wall: Option<Timestamp>,
) -> Option<Duration> {
    let fields: Vec<_> = fields.into_iter().collect();
    let mut dates = fields.iter().filter(|(name, _)| **name == DATE);
    let sent = dates.find_map(|(_, value)| date(value.to_str().ok()?)).or(wall);
    fields
        .into_iter()
        .filter_map(|(name, value)| field(name, value, sent))
        .max()
}

/// Whether the field says how long to wait: `Retry-After`, or one of the two that services of Azure
/// send beside it, in milliseconds.
pub fn is_told_by(name: &HeaderName) -> bool {
    *name == RETRY_AFTER || IN_MILLIS.contains(&name.as_str())
}

/// The wait that a field names, if it does, in a response of that time.
fn field(name: &HeaderName, value: &HeaderValue, sent: Option<Timestamp>) -> Option<Duration> {
    if !is_told_by(name) {
        return None;
    }
    let text = value.to_str().ok()?;
    if *name == RETRY_AFTER {
        return longest(text, sent);
    }
    let millis = text.split(',').filter_map(|text| units(text.trim()));
    millis.max().map(Duration::from_millis)
}

/// The longest of `Retry-After` values. The field has one value (RFC 9110 §10.2.3), but a proxy may
/// have added its own, in a field of its own or behind a comma; and a date has a comma inside.
fn longest(text: &str, sent: Option<Timestamp>) -> Option<Duration> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let alone = parts.iter().filter_map(|part| value(part, sent));
    let pairs = parts.windows(2).map(|pair| pair.join(", "));
    alone.chain(pairs.filter_map(|pair| value(&pair, sent))).max()
}

/// `Retry-After`, as seconds or as a date.
fn value(text: &str, sent: Option<Timestamp>) -> Option<Duration> {
    if let Some(seconds) = units(text) {
        return Some(Duration::from_secs(seconds));
    }
    // A date in the past means: now.
    let wait = date(text)?.duration_since(sent?);
    Some(Duration::try_from(wait).unwrap_or(Duration::ZERO))
}

/// A date in any of the three forms that a recipient has to understand (RFC 9110 §5.6.7).
pub fn date(text: &str) -> Option<Timestamp> {
    if let Ok(date) = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text) {
        return Some(date);
    }
    ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"]
        .iter()
        .find_map(|form| jiff::civil::DateTime::strptime(form, text).ok())
        .and_then(|date| jiff::tz::TimeZone::UTC.to_timestamp(date).ok())
}

/// A number of units, perhaps with a fraction, which is rounded up; one that is too large is as
/// large as can be.
pub fn units(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(part) {
        return None;
    }
    let more = u64::from(part.bytes().any(|digit| digit != b'0'));
    Some(whole.parse().unwrap_or(u64::MAX).saturating_add(more))
}
