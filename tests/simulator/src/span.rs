//! Durations in limits and scenarios: a whole number and a unit. A bare number is rejected.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize as _, Deserializer};

/// The longest accepted duration: a day. Longer ones are mistakes, and the bound keeps arithmetic
/// from overflowing.
pub const LONGEST: Duration = Duration::from_hours(24);

const UNITS: [(&str, Duration); 5] = [
    ("h", Duration::from_hours(1)),
    ("m", Duration::from_mins(1)),
    ("s", Duration::from_secs(1)),
    ("ms", Duration::from_millis(1)),
    ("us", Duration::from_micros(1)),
];

/// Parses `250ms`, `10s`, `1m`, `1h`.
pub fn parse(text: &str) -> Result<Duration, String> {
    let malformed = || format!("{text:?} is no duration: write a whole number and a unit (us, ms, s, m, h)");
    let too_long = || format!("{text:?} is longer than a day");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(malformed)?;
    let (number, unit) = text.split_at(digits);
    let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(malformed)?;
    if number.is_empty() {
        return Err(malformed());
    }
    let number: u32 = number.parse().map_err(|_| too_long())?;
    unit.checked_mul(number)
        .filter(|span| *span <= LONGEST)
        .ok_or_else(too_long)
}

/// Writes a duration in the largest unit that divides it, as [`parse`] accepts it. It rounds down
/// to microseconds.
pub fn display(span: Duration) -> String {
    UNITS
        .iter()
        .find(|(_, unit)| !span.is_zero() && span.as_nanos().is_multiple_of(unit.as_nanos()))
        .map_or_else(
            || format!("{}us", span.as_micros()),
            |(name, unit)| format!("{}{name}", span.as_nanos() / unit.as_nanos()),
        )
}

/// For `#[serde(deserialize_with)]`.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer);
    let text = text.map_err(|_| D::Error::custom("write a duration in quotes with its unit, such as \"250ms\""))?;
    parse(&text).map_err(D::Error::custom)
}

/// The same for a duration that may be absent.
pub(super) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_whole_number_and_a_unit() {
        assert_eq!(parse("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(parse("0ms"), Ok(Duration::ZERO));
        assert_eq!(parse("24h"), Ok(LONGEST));
        for bad in ["", "10", "s", "1.5s", "-1s", "1 s", "1d", "٣s", "1S"] {
            assert!(parse(bad).unwrap_err().contains("is no duration"), "{bad}");
        }
        for long in ["25h", "99999999999999999999s"] {
            assert!(parse(long).unwrap_err().contains("longer than a day"), "{long}");
        }
    }

    #[test]
    fn written_values_are_read_back() {
        for text in ["1h", "90m", "61s", "1500ms", "3us", "0us"] {
            assert_eq!(display(parse(text).unwrap()), text);
        }
    }
}
