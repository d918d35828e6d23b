//! Sizes with their unit: `512B`, `64KiB`, `1MiB`, `2GiB`; `KB`, `MB` and `GB` are powers of ten.

/// Bytes per unit; the units that [`show`] prefers come first.
const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("B", 1),
];

/// Reads a whole number followed directly by `B`, `KiB`, `MiB`, `GiB`, `KB`, `MB` or `GB`. The
/// result is in bytes.
///
/// ```
/// use defender_gateway::config::size;
/// assert_eq!(size::parse("64KiB"), Ok(65_536));
/// assert_eq!(size::parse("64"), Err("has no unit; write 64MiB, 64KiB, 64GiB or 64B".into()));
/// ```
///
/// # Errors
/// A phrase that follows the value in a message.
pub fn parse(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    if unit.is_empty() {
        return Err(format!(
            "has no unit; write {number}MiB, {number}KiB, {number}GiB or {number}B"
        ));
    }
    let (_, scale) = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| format!("has the unknown unit {unit:?}; the units are B, KiB, MiB, GiB, KB, MB and GB"))?;
    let number: u64 = number.parse().map_err(|_| "is too large a number".to_owned())?;
    number.checked_mul(*scale).ok_or_else(|| "is too large".to_owned())
}

/// Writes a size as [`parse`] reads it, in the largest unit that loses nothing.
///
/// ```
/// use defender_gateway::config::size;
/// assert_eq!(size::show(64 << 20), "64MiB");
/// assert_eq!(size::show(1500), "1500B");
/// ```
#[must_use]
pub fn show(bytes: u64) -> String {
    UNITS
        .iter()
        .find(|(_, scale)| bytes > 0 && bytes.is_multiple_of(*scale))
        .map_or_else(
            || format!("{bytes}B"),
            |(unit, scale)| format!("{}{unit}", bytes / scale),
        )
}

/// The leading digits, and the rest.
pub(super) fn split(text: &str) -> Result<(&str, &str), String> {
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
    Ok((number, unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn everything_but_a_number_with_a_unit_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", "is empty"),
            ("MiB", "does not start with a number"),
            ("1.5MiB", "has a fraction"),
            ("1mb", "has the unknown unit \"mb\""),
            ("1M", "has the unknown unit \"M\""),
            ("99999999999999999999B", "is too large a number"),
            ("18446744073709551615KiB", "is too large"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(reason), "{text:?}: {error}");
        }
        assert_eq!(parse("2KB"), Ok(2000));
    }

    proptest! {
        #[test]
        fn shown_values_are_parsed_again(bytes: u64) {
            prop_assert_eq!(parse(&show(bytes)), Ok(bytes));
        }

        #[test]
        fn round_sizes_read_back_too(number in 0u64..1 << 20, shift in 0u32..40) {
            let bytes = number << shift;
            prop_assert_eq!(parse(&show(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
