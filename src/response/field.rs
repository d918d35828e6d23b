//! Writes the structured header fields of a response. This is on the path of every cache hit, so
//! each field takes one buffer and no intermediate values.

use std::fmt::Write as _;
use std::time::Duration;

use http::HeaderValue;

use super::Window;
use crate::caller::RequestId;
use crate::scan::Status;

/// The gateway's name in `Cache-Status` and `Proxy-Status`.
const NAME: &str = "defender-gateway";

const HIT: &str = "; hit";
const TTL: &str = "; ttl=";

/// The largest integer of a structured field (RFC 9651 §3.3.1).
const MAX_INTEGER: u64 = 999_999_999_999_999;

/// `Cache-Status` (RFC 9211 §2): exactly one of `hit` and `fwd`.
pub(super) fn cache_status(status: &Status) -> Option<HeaderValue> {
    let limit = MAX_INTEGER.cast_signed();
    let mut digits = itoa::Buffer::new();
    let ttl = status.ttl.map(|ttl| digits.format(ttl.clamp(-limit, limit)));
    // Exactly the capacity of a plain hit: with more, the value would be allocated once more.
    let mut text = String::with_capacity(NAME.len() + HIT.len() + ttl.map_or(0, |ttl| TTL.len() + ttl.len()));
    text.push_str(NAME);
    match status.forward {
        None => text.push_str(HIT),
        Some(forward) => text.extend(["; fwd=", forward.as_str()]),
    }
    if let Some(code) = status.forward_status {
        let _ = write!(text, "; fwd-status={code}");
    }
    if status.stored {
        text.push_str("; stored");
    }
    if status.collapsed {
        text.push_str("; collapsed");
    }
    if let Some(ttl) = ttl {
        text.extend([TTL, ttl]);
    }
    if let Some(detail) = status.detail {
        text.push_str("; detail=");
        token_or_string(&mut text, detail);
    }
    HeaderValue::try_from(text).ok()
}

/// `Age` (RFC 9111 §5.1), in whole seconds.
pub(super) fn age(age: Duration) -> Option<HeaderValue> {
    // From text, because the conversion from a number allocates twice.
    HeaderValue::from_str(itoa::Buffer::new().format(age.as_secs())).ok()
}

/// `X-Request-Id`.
pub(super) fn request_id(id: &RequestId) -> Option<HeaderValue> {
    HeaderValue::from_str(id.as_str()).ok()
}

/// `Proxy-Status` (RFC 9209 §2.3) of a response that the gateway made itself.
pub(super) fn proxy_status(error: &str) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("{NAME}; error={error}")).ok()
}

/// `Proxy-Status` (RFC 9209 §2.1.5) of an upstream error that passes through.
pub(super) fn received_status(status: http::StatusCode) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("{NAME}; received-status={}", status.as_u16())).ok()
}

/// `RateLimit-Policy`: the windows' limits. `None` without windows, because an empty list is no
/// field (RFC 9651 §4.1).
pub(super) fn rate_limit_policy(windows: &[Window]) -> Option<HeaderValue> {
    list(windows, |text, window| {
        parameter(text, ";q=", window.quota);
        parameter(text, ";w=", window.window_s);
    })
}

/// `RateLimit`: the calls that are left.
pub(super) fn rate_limit(windows: &[Window]) -> Option<HeaderValue> {
    list(windows, |text, window| {
        parameter(text, ";r=", window.remaining);
        parameter(text, ";t=", window.reset_s);
    })
}

/// An Integer (RFC 9651 §3.3.1) as a parameter. `name` includes its delimiters.
fn parameter(text: &mut String, name: &str, value: u64) {
    text.push_str(name);
    text.push_str(itoa::Buffer::new().format(value.min(MAX_INTEGER)));
}

/// Whole seconds, rounded up, because a caller that comes back a moment early would be refused
/// again. At least one, so that callers do not come back at once and flood the gateway.
pub(super) fn seconds_up(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_add(u64::from(duration.subsec_nanos() > 0))
        .max(1)
}

fn list(windows: &[Window], mut parameters: impl FnMut(&mut String, &Window)) -> Option<HeaderValue> {
    if windows.is_empty() {
        return None;
    }
    let mut text = String::with_capacity(windows.len() * 24);
    for (index, window) in windows.iter().enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        string(&mut text, &window.name);
        parameters(&mut text, window);
    }
    HeaderValue::try_from(text).ok()
}

/// A Token (RFC 9651 §3.3.4) if the value can be one, otherwise a String.
fn token_or_string(text: &mut String, value: &str) {
    let mut bytes = value.bytes();
    let first = bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'*');
    let rest = bytes.all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte));
    if first && rest {
        text.push_str(value);
    } else {
        string(text, value);
    }
}

/// A String (RFC 9651 §3.3.3); characters that it cannot contain are left out.
fn string(text: &mut String, value: &str) {
    text.push('"');
    for c in value.chars().filter(|c| (' '..='~').contains(c)) {
        if matches!(c, '"' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::ForwardReason;
    use sfv::{BareItem, List, ListEntry, Parser};

    /// The field as a recipient parses it.
    fn parsed(value: Option<HeaderValue>) -> Vec<sfv::Item> {
        let value = value.unwrap();
        let list: List = Parser::new(value.as_bytes()).parse().unwrap();
        list.into_iter()
            .map(|entry| match entry {
                ListEntry::Item(item) => item,
                ListEntry::InnerList(_) => panic!("an inner list"),
            })
            .collect()
    }

    fn written(status: Status) -> String {
        let value = cache_status(&status).unwrap();
        let text = value.to_str().unwrap().to_owned();
        assert_eq!(parsed(Some(value)).len(), 1);
        text
    }

    #[test]
    fn cache_status_reads_as_in_the_contract() {
        let hit = Status {
            ttl: Some(21),
            ..Status::default()
        };
        assert_eq!(written(hit), "defender-gateway; hit; ttl=21");
        let stale = Status {
            ttl: Some(-8),
            detail: Some("stale-if-error"),
            ..Status::default()
        };
        assert_eq!(written(stale), "defender-gateway; hit; ttl=-8; detail=stale-if-error");
        let miss = Status {
            forward: Some(ForwardReason::Miss),
            ..Status::default()
        };
        let stored = Status {
            stored: true,
            ttl: Some(30),
            ..miss
        };
        assert_eq!(written(stored), "defender-gateway; fwd=miss; stored; ttl=30");
        let collapsed = Status {
            collapsed: true,
            ..miss
        };
        assert_eq!(written(collapsed), "defender-gateway; fwd=miss; collapsed");
        let merged = Status {
            forward: Some(ForwardReason::Partial),
            detail: Some("merged"),
            ..miss
        };
        assert_eq!(written(merged), "defender-gateway; fwd=partial; detail=merged");
    }

    #[test]
    fn a_detail_of_several_words_is_quoted() {
        let status = Status {
            detail: Some("two \"words\""),
            ..Status::default()
        };
        let item = &parsed(cache_status(&status))[0];
        assert_eq!(
            item.params["detail"],
            BareItem::String(sfv::String::from_string("two \"words\"".into()).unwrap())
        );
    }

    fn windows() -> Vec<Window> {
        let window = |name: &str, quota, window_s, remaining, reset_s| Window {
            name: name.into(),
            quota,
            window_s,
            remaining,
            reset_s,
            spread: None,
        };
        vec![window("1m", 100, 60, 37, 12), window("1h", 1500, 3600, 410, 1630)]
    }

    #[test]
    fn rate_limit_reads_as_in_the_contract() {
        let policy = rate_limit_policy(&windows()).unwrap();
        assert_eq!(policy, "\"1m\";q=100;w=60, \"1h\";q=1500;w=3600");
        let limit = rate_limit(&windows()).unwrap();
        assert_eq!(limit, "\"1m\";r=37;t=12, \"1h\";r=410;t=1630");
        assert_eq!(parsed(Some(policy)).len(), 2);
        assert_eq!(parsed(Some(limit)).len(), 2);
        assert_eq!(rate_limit(&[]), None);
    }

    #[test]
    fn strange_names_and_numbers_still_make_a_valid_field() {
        let mut windows = windows();
        windows[0].name = "a\"b\\c\r\né".into();
        windows[0].remaining = u64::MAX;
        let items = parsed(rate_limit(&windows));
        assert_eq!(
            items[0].bare_item,
            BareItem::String(sfv::String::from_string("a\"b\\c".into()).unwrap())
        );
    }

    #[test]
    fn proxy_status_is_a_list_of_one() {
        let value = proxy_status("connection_timeout");
        assert_eq!(value.as_ref().unwrap(), "defender-gateway; error=connection_timeout");
        assert_eq!(parsed(value).len(), 1);
        let value = received_status(http::StatusCode::BAD_GATEWAY);
        assert_eq!(value.as_ref().unwrap(), "defender-gateway; received-status=502");
        assert_eq!(parsed(value).len(), 1);
    }

    #[test]
    fn seconds_are_rounded_up() {
        assert_eq!(seconds_up(Duration::ZERO), 1);
        assert_eq!(seconds_up(Duration::from_millis(1)), 1);
        assert_eq!(seconds_up(Duration::from_secs(42)), 42);
        assert_eq!(seconds_up(Duration::from_millis(41_001)), 42);
    }
}
