//! `Prefer: wait=N` (RFC 7240 §4.3).

use std::time::Duration;

use http::{HeaderMap, HeaderName};

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// How long the caller will wait. The first `wait` counts (RFC 7240 §2); a value that is no number
/// of seconds is ignored.
pub(super) fn wait(fields: &HeaderMap) -> Option<Duration> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&'static str]) -> Option<u64> {
        let mut fields = HeaderMap::new();
        for line in lines {
            fields.append(PREFER, line.parse().unwrap());
        }
        wait(&fields).map(|wait| wait.as_secs())
    }

    #[test]
    fn all_spellings_of_the_rfc_are_understood() {
        assert_eq!(of(&["wait=20"]), Some(20));
        assert_eq!(of(&["wait=0"]), Some(0));
        assert_eq!(of(&["respond-async, wait=10"]), Some(10));
        assert_eq!(of(&["Wait = 7"]), Some(7));
        assert_eq!(of(&["wait=\"8\""]), Some(8));
        assert_eq!(of(&["return=minimal", "wait=9; x=1"]), Some(9));
        assert_eq!(of(&["x=\"a, wait=1\", wait=2"]), Some(2));
        assert_eq!(of(&["x=\"a\\\", wait=1\", wait=3"]), Some(3));
        assert_eq!(of(&[",,wait=4"]), Some(4));
    }

    #[test]
    fn the_first_counts_and_nonsense_does_not() {
        assert_eq!(of(&["wait=1, wait=2"]), Some(1));
        assert_eq!(of(&["wait=3", "wait=4"]), Some(3));
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
            assert_eq!(of(&[nonsense]), None, "{nonsense:?}");
        }
        assert_eq!(of(&["wait=99999999999999999999999"]), Some(u64::from(u32::MAX)));
    }
}
