//! Durations with their unit: `250ms`, `30s`, `5m`, `1h`, `1d`.

use std::time::Duration;

/// Milliseconds per unit, longest unit first.
const UNITS: [(&str, u64); 5] = [
    ("d", 24 * 60 * 60 * 1000),
    ("h", 60 * 60 * 1000),
    ("m", 60 * 1000),
    ("s", 1000),
    ("ms", 1),
];

/// Reads a whole number followed directly by `ms`, `s`, `m`, `h` or `d`.
///
/// ```
/// use std::time::Duration;
/// use defender_gateway::config::duration;
/// assert_eq!(duration::parse("90s"), Ok(Duration::from_secs(90)));
/// assert_eq!(duration::parse("90"), Err("has no unit; write 90s, 90ms, 90m, 90h or 90d".into()));
/// ```
///
/// # Errors
/// A phrase that follows the value in a message.
pub fn parse(text: &str) -> Result<Duration, String> {
    let (number, unit) = super::size::split(text)?;
    if unit.is_empty() {
        return Err(format!(
            "has no unit; write {number}s, {number}ms, {number}m, {number}h or {number}d"
        ));
    }
    let (_, scale) = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| format!("has the unknown unit {unit:?}; the units are ms, s, m, h and d"))?;
    let number: u64 = number.parse().map_err(|_| "is too large a number".to_owned())?;
    number
        .checked_mul(*scale)
        .map(Duration::from_millis)
        .ok_or_else(|| "is too long".to_owned())
}

/// Writes a duration as [`parse`] reads it, in the longest unit that loses nothing down to the
/// millisecond.
///
/// ```
/// use std::time::Duration;
/// use defender_gateway::config::duration;
/// assert_eq!(duration::show(Duration::from_secs(3600)), "1h");
/// assert_eq!(duration::show(Duration::from_secs(90)), "90s");
/// assert_eq!(duration::show(Duration::ZERO), "0s");
/// ```
#[must_use]
pub fn show(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if ms == 0 {
        return "0s".into();
    }
    UNITS
        .iter()
        .find(|(_, scale)| ms.is_multiple_of(*scale))
        .map_or_else(|| format!("{ms}ms"), |(unit, scale)| format!("{}{unit}", ms / scale))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(reason), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn shown_values_are_parsed_again(ms: u64) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse(&show(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
