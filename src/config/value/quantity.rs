//! Numbers with their unit: durations (`250ms`, `30s`, `5m`, `1h`, `1d`), sizes (`512B`, `64KiB`,
//! `1MiB`, `2GiB`; `KB`, `MB` and `GB` are powers of ten), and limits, a number of calls per window
//! (`100/1m`).

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use crate::quota::Limit;

/// Units with their scales. The one preferred in output comes first.
type Units = [(&'static str, u64)];

/// In milliseconds.
const DURATIONS: &Units = &[
    ("d", 24 * 60 * 60 * 1000),
    ("h", 60 * 60 * 1000),
    ("m", 60 * 1000),
    ("s", 1000),
    ("ms", 1),
];

/// In bytes.
const SIZES: &Units = &[
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("B", 1),
];

/// Reads a whole number followed directly by `ms`, `s`, `m`, `h` or `d`.
///
/// ```
/// use std::time::Duration;
/// use defender_gateway::testing::config::parse_duration;
/// assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
/// assert_eq!(parse_duration("90"), Err("has no unit; write 90s, 90ms, 90m, 90h or 90d".into()));
/// ```
///
/// # Errors
/// A phrase that follows the value in a message.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let ms = parse(text, DURATIONS, ["s", "ms", "m", "h", "d"], "ms, s, m, h and d")?;
    Ok(Duration::from_millis(ms.ok_or("is too long")?))
}

/// Reads a whole number followed directly by `B`, `KiB`, `MiB`, `GiB`, `KB`, `MB` or `GB`. The
/// result is in bytes.
///
/// ```
/// use defender_gateway::testing::config::parse_size;
/// assert_eq!(parse_size("64KiB"), Ok(65_536));
/// assert_eq!(parse_size("64"), Err("has no unit; write 64MiB, 64KiB, 64GiB or 64B".into()));
/// ```
///
/// # Errors
/// A phrase that follows the value in a message.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bytes = parse(
        text,
        SIZES,
        ["MiB", "KiB", "GiB", "B"],
        "B, KiB, MiB, GiB, KB, MB and GB",
    )?;
    bytes.ok_or_else(|| "is too large".to_owned())
}

/// Writes a duration as [`parse_duration`] reads it, in the longest unit that loses nothing down
/// to the millisecond.
///
/// ```
/// use std::time::Duration;
/// use defender_gateway::testing::config::show_duration;
/// assert_eq!(show_duration(Duration::from_secs(3600)), "1h");
/// assert_eq!(show_duration(Duration::from_secs(90)), "90s");
/// assert_eq!(show_duration(Duration::ZERO), "0s");
/// ```
pub fn show_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if ms == 0 { "0s".into() } else { show(ms, DURATIONS) }
}

/// Writes a size as [`parse_size`] reads it, in the largest unit that loses nothing.
///
/// ```
/// use defender_gateway::testing::config::show_size;
/// assert_eq!(show_size(64 << 20), "64MiB");
/// assert_eq!(show_size(1500), "1500B");
/// assert_eq!(show_size(0), "0B");
/// ```
pub fn show_size(bytes: u64) -> String {
    if bytes == 0 { "0B".into() } else { show(bytes, SIZES) }
}

/// The number in the scale's unit; `None` when it is too large for that. `examples` and `units`
/// are for messages.
fn parse<const N: usize>(text: &str, scales: &Units, examples: [&str; N], units: &str) -> Result<Option<u64>, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    if text.is_empty() {
        return Err("is empty".into());
    }
    if number.is_empty() {
        return Err("does not start with a number".into());
    }
    if unit.starts_with(['.', ',']) {
        return Err("has a fraction; use a smaller unit and a whole number".into());
    }
    if unit.is_empty() {
        let written = examples.map(|unit| format!("{number}{unit}"));
        return Err(format!("has no unit; write {}", either(&written)));
    }
    let Some((_, scale)) = scales.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("has the unknown unit {unit:?}; the units are {units}"));
    };
    let number: u64 = number.parse().map_err(|_| "is too large a number")?;
    Ok(number.checked_mul(*scale))
}

/// `a, b or c`.
pub(in crate::config) fn either(words: &[String]) -> String {
    match words {
        [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => words.concat(),
    }
}

fn show(value: u64, scales: &Units) -> String {
    let whole = scales.iter().find(|(_, scale)| value.is_multiple_of(*scale));
    let (unit, scale) = whole.copied().unwrap_or(("", 1));
    format!("{}{unit}", value / scale)
}

/// The ledger keeps one entry for each call of the longest window, and a million entries are the
/// memory it may take.
pub(in crate::config) const MAX_CALLS: u32 = 1_000_000;

/// Reads `CALLS/WINDOW`. The error is a phrase that follows the value in a message.
impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (calls, window) = text
            .split_once('/')
            .ok_or("is no limit; write calls per window, such as 100/1m")?;
        let calls: u32 = match calls.parse() {
            Ok(calls) if calls <= MAX_CALLS => calls,
            _ => return Err(format!("does not start with a number of calls from 1 to {MAX_CALLS}")),
        };
        let calls = NonZeroU32::new(calls).ok_or("would allow no call at all; the least is 1")?;
        let window = parse_duration(window).map_err(|problem| format!("has a window that {problem}"))?;
        // The windows' lengths go on the wire in whole seconds (`RateLimit-Policy`, parameter `w`).
        let is_whole = window.subsec_nanos() == 0;
        let limit = Self::try_new(calls, window).ok().filter(|_| is_whole);
        limit.ok_or_else(|| "has a window that is not whole seconds from 1s to 24h".into())
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.calls(), self.name())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn everything_but_a_number_with_a_unit_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", "is empty"),
            ("s", "does not start with a number"),
            ("-1s", "does not start with a number"),
            ("1.5s", "has a fraction"),
            ("30 s", "has the unknown unit \" s\""),
            ("30sec", "has the unknown unit \"sec\""),
            ("30S", "has the unknown unit \"S\""),
            ("99999999999999999999s", "is too large a number"),
            ("18446744073709551615d", "is too long"),
        ] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.starts_with(reason), "{text:?}: {error}");
        }
        for (text, reason) in [
            ("", "is empty"),
            ("MiB", "does not start with a number"),
            ("1.5MiB", "has a fraction"),
            ("1mb", "has the unknown unit \"mb\""),
            ("1M", "has the unknown unit \"M\""),
            ("99999999999999999999B", "is too large a number"),
            ("18446744073709551615KiB", "is too large"),
        ] {
            let error = parse_size(text).unwrap_err();
            assert!(error.starts_with(reason), "{text:?}: {error}");
        }
        assert_eq!(parse_size("2KB"), Ok(2000));
    }

    proptest! {
        #[test]
        fn shown_values_are_parsed_again(value: u64) {
            let duration = Duration::from_millis(value);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_size(&show_size(value)), Ok(value));
        }

        #[test]
        fn round_sizes_read_back_too(number in 0u64..1 << 20, shift in 0u32..40) {
            let bytes = number << shift;
            prop_assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = (parse_duration(&text), parse_size(&text));
        }
    }

    #[test]
    fn odd_limits_are_refused_with_a_reason() {
        for (text, reason) in [
            ("100", "is no limit"),
            ("0/1m", "would allow no call"),
            ("1000001/1m", "does not start with a number of calls"),
            ("-1/1m", "does not start with a number of calls"),
            ("100/1", "has a window that has no unit"),
            ("100/0s", "has a window that is not whole seconds"),
            ("100/1500ms", "has a window that is not whole seconds"),
            ("100/25h", "has a window that is not whole seconds"),
        ] {
            let error = text.parse::<Limit>().unwrap_err();
            assert!(error.starts_with(reason), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn shown_limits_are_parsed_again(calls in 1..=MAX_CALLS, window_s in 1..=86_400u64) {
            let calls = NonZeroU32::new(calls).unwrap();
            let limit = Limit::try_new(calls, Duration::from_secs(window_s)).unwrap();
            prop_assert_eq!(limit.to_string().parse(), Ok(limit));
        }
    }
}
