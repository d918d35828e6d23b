//! `Priority: u=N` (RFC 9218 §4).

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use crate::caller::Urgency;

const PRIORITY: HeaderName = HeaderName::from_static("priority");

/// The urgency that the caller asked for. A field that cannot be parsed, or a value out of range,
/// counts as absent.
pub(super) fn urgency(fields: &HeaderMap) -> Urgency {
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
