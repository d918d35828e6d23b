//! The request directives of `Cache-Control` (RFC 9111 §5.2.1).

use std::time::Duration;

use http::{HeaderMap, header};

use crate::caller::CacheDirectives;

/// The caller's directives. Unknown directives, and ages that are no numbers, are ignored; of two
/// ages the stricter one counts.
pub(super) fn directives(fields: &HeaderMap) -> CacheDirectives {
    let mut directives = CacheDirectives::default();
    for line in fields.get_all(header::CACHE_CONTROL) {
        let Ok(line) = line.to_str() else { continue };
        for directive in line.split(',') {
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
        assert_eq!(
            of(&["max-age=99999999999999999999"]).max_age,
            Some(Duration::from_secs(1 << 31))
        );
    }
}
