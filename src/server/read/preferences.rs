//! What the header fields of a request prefer: the directives of `Cache-Control` (RFC 9111 §5.2.1),
//! `Prefer: wait=N` (RFC 7240 §4.3) and `Priority: u=N` (RFC 9218 §4).

use std::time::Duration;

use http::{HeaderMap, HeaderName, header};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use crate::caller::{CacheDirectives, Urgency};

/// The caller's preferences in header fields.
#[derive(Default)]
pub(super) struct RequestPreferences {
    pub(super) wait: Option<Duration>,
    pub(super) urgency: Urgency,
    pub(super) cache_directives: CacheDirectives,
}

impl RequestPreferences {
    pub(super) fn of(fields: &HeaderMap) -> Self {
        Self {
            wait: wait(fields),
            urgency: urgency(fields),
            cache_directives: directives(fields),
        }
    }
}

/// The caller's directives. Unknown directives, and ages that are no numbers, are ignored; of two
/// ages the stricter one counts.
fn directives(fields: &HeaderMap) -> CacheDirectives {
    let mut directives = CacheDirectives::default();
    for line in fields.get_all(header::CACHE_CONTROL) {
        let Ok(line) = line.to_str() else { continue };
        for directive in split(line, b',') {
            let (name, value) = match directive.split_once('=') {
                Some((name, value)) => (name.trim(), Some(value.trim())),
                None => (directive.trim(), None),
            };
            apply(&mut directives, name, value);
        }
    }
    directives
}

fn apply(directives: &mut CacheDirectives, name: &str, value: Option<&str>) {
    let is = |directive: &str| name.eq_ignore_ascii_case(directive);
    let age = value.and_then(seconds);
    if is("no-cache") {
        directives.no_cache = true;
    } else if is("no-store") {
        directives.no_store = true;
    } else if is("only-if-cached") {
        directives.only_if_cached = true;
    } else if is("max-age") {
        directives.max_age = stricter(directives.max_age, age, Duration::min);
    } else if is("max-stale") {
        // RFC 9111 §5.2.1.2: without a value, any staleness is allowed.
        let age = if value.is_none() { Some(Duration::MAX) } else { age };
        directives.max_stale = stricter(directives.max_stale, age, Duration::min);
    } else if is("min-fresh") {
        directives.min_fresh = stricter(directives.min_fresh, age, Duration::max);
    }
}

fn stricter(
    before: Option<Duration>,
    now: Option<Duration>,
    choose: fn(Duration, Duration) -> Duration,
) -> Option<Duration> {
    match (before, now) {
        (Some(before), Some(now)) => Some(choose(before, now)),
        (before, now) => before.or(now),
    }
}

/// Whole seconds, possibly quoted; a larger number counts as 2^31 (RFC 9111 §1.2.2).
fn seconds(text: &str) -> Option<Duration> {
    let text = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text);
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(Duration::from_secs(text.parse().unwrap_or(1 << 31).min(1 << 31)))
}

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// How long the caller will wait. The first `wait` counts (RFC 7240 §2); a value that is no number
/// of seconds is ignored.
fn wait(fields: &HeaderMap) -> Option<Duration> {
    let lines = fields.get_all(PREFER).iter().filter_map(|line| line.to_str().ok());
    let value = lines
        .flat_map(preferences)
        .find_map(|(name, value)| name.eq_ignore_ascii_case("wait").then_some(value))?;
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // More digits than fit mean longer than any limit.
    Some(Duration::from_secs(value.parse().unwrap_or(u64::from(u32::MAX))))
}

/// The names and values of one line, without the parameters after a semicolon.
fn preferences(line: &str) -> impl Iterator<Item = (&str, &str)> {
    split(line, b',').map(|preference| {
        let preference = split(preference, b';').next().unwrap_or("");
        let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
        let value = value.trim();
        let unquoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        (name.trim(), unquoted.unwrap_or(value))
    })
}

/// Splits at `separator`, but not inside quotes.
fn split(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (mut quoted, mut escaped) = (false, false);
        let end = text.bytes().position(|byte| {
            let found = byte == separator && !quoted;
            quoted ^= byte == b'"' && !escaped;
            escaped = quoted && byte == b'\\' && !escaped;
            found
        });
        rest = end.map(|end| &text[end + 1..]);
        Some(&text[..end.unwrap_or(text.len())])
    })
}

const PRIORITY: HeaderName = HeaderName::from_static("priority");

/// The urgency that the caller asked for. A field that cannot be parsed, or a value out of range,
/// counts as absent.
fn urgency(fields: &HeaderMap) -> Urgency {
    let mut lines = fields.get_all(PRIORITY).iter();
    let Some(first) = lines.next() else {
        return Urgency::default();
    };
    // Several lines are one value (RFC 9651 §4.2).
    let mut text = first.as_bytes().to_vec();
    for line in lines {
        text.extend_from_slice(b", ");
        text.extend_from_slice(line.as_bytes());
    }
    parse(&text).unwrap_or_default()
}

fn parse(text: &[u8]) -> Option<Urgency> {
    let members: Dictionary = Parser::new(text).parse().ok()?;
    let ListEntry::Item(item) = members.get("u")? else {
        return None;
    };
    let BareItem::Integer(level) = item.bare_item else {
        return None;
    };
    Urgency::new(u8::try_from(i64::from(level)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&'static str]) -> CacheDirectives {
        let mut fields = HeaderMap::new();
        for line in lines {
            fields.append(header::CACHE_CONTROL, line.parse().unwrap());
        }
        directives(&fields)
    }

    #[test]
    fn every_directive_is_read() {
        let all = of(&[
            "No-Cache, no-store",
            "max-age=5, max-stale = \"6\" ,min-fresh=7, only-if-cached, unknown=1",
        ]);
        let expected = CacheDirectives {
            no_cache: true,
            no_store: true,
            max_age: Some(Duration::from_secs(5)),
            max_stale: Some(Duration::from_secs(6)),
            min_fresh: Some(Duration::from_secs(7)),
            only_if_cached: true,
        };
        assert_eq!(all, expected);
    }

    #[test]
    fn max_stale_without_a_value_is_any_staleness() {
        assert_eq!(of(&["max-stale"]).max_stale, Some(Duration::MAX));
        assert_eq!(of(&["max-stale, max-stale=1"]).max_stale, Some(Duration::from_secs(1)));
    }

    #[test]
    fn the_stricter_age_counts_and_nonsense_does_not() {
        assert_eq!(of(&["max-age=9, max-age=4"]).max_age, Some(Duration::from_secs(4)));
        assert_eq!(
            of(&["min-fresh=9, min-fresh=4"]).min_fresh,
            Some(Duration::from_secs(9))
        );
        assert_eq!(
            of(&["max-age=x, max-stale=-1, min-fresh, =, ,"]),
            CacheDirectives::default()
        );
        assert_eq!(of(&["x=\"a, no-cache, b\""]), CacheDirectives::default());
        assert_eq!(
            of(&["max-age=99999999999999999999"]).max_age,
            Some(Duration::from_secs(1 << 31))
        );
    }

    fn wait_of(lines: &[&'static str]) -> Option<u64> {
        let mut fields = HeaderMap::new();
        for line in lines {
            fields.append(PREFER, line.parse().unwrap());
        }
        wait(&fields).map(|wait| wait.as_secs())
    }

    #[test]
    fn all_spellings_of_the_rfc_are_understood() {
        assert_eq!(wait_of(&["wait=20"]), Some(20));
        assert_eq!(wait_of(&["wait=0"]), Some(0));
        assert_eq!(wait_of(&["respond-async, wait=10"]), Some(10));
        assert_eq!(wait_of(&["Wait = 7"]), Some(7));
        assert_eq!(wait_of(&["wait=\"8\""]), Some(8));
        assert_eq!(wait_of(&["return=minimal", "wait=9; x=1"]), Some(9));
        assert_eq!(wait_of(&["x=\"a, wait=1\", wait=2"]), Some(2));
        assert_eq!(wait_of(&["x=\"a\\\", wait=1\", wait=3"]), Some(3));
        assert_eq!(wait_of(&[",,wait=4"]), Some(4));
    }

    #[test]
    fn the_first_counts_and_nonsense_does_not() {
        assert_eq!(wait_of(&["wait=1, wait=2"]), Some(1));
        assert_eq!(wait_of(&["wait=3", "wait=4"]), Some(3));
        for nonsense in [
            "",
            "wait",
            "wait=",
            "wait=-1",
            "wait=1.5",
            "wait=+1",
            "wait=x",
            "await=1",
            "x; wait=1",
        ] {
            assert_eq!(wait_of(&[nonsense]), None, "{nonsense:?}");
        }
        assert_eq!(wait_of(&["wait=99999999999999999999999"]), Some(u64::from(u32::MAX)));
    }

    fn level(lines: &[&'static str]) -> u8 {
        let mut fields = HeaderMap::new();
        for line in lines {
            fields.append("priority", line.parse().unwrap());
        }
        urgency(&fields).level()
    }

    #[test]
    fn the_urgency_is_read_and_the_rest_ignored() {
        assert_eq!(level(&[]), 3);
        assert_eq!(level(&["u=0"]), 0);
        assert_eq!(level(&["i, u=7;x"]), 7);
        assert_eq!(level(&["u=1", "u=2"]), 2);
    }

    #[test]
    fn nonsense_is_no_priority() {
        for nonsense in [
            "u=8", "u=-1", "u=1.0", "u", "u=(1)", "u=\"1\"", "U=1", "u=1 u=2", "", ";",
        ] {
            assert_eq!(level(&[nonsense]), 3, "{nonsense:?}");
        }
    }
}
