//! The members of a JSON object in their order, each with its value as it is written.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A member's name, and the text of its value without the space around it.
pub(super) type Member<'a> = (Cow<'a, str>, &'a str);

/// The members of an object, doubled ones included.
pub(super) fn members(text: &str) -> Result<Vec<Member<'_>>, serde_json::Error> {
    struct Members<'a>(Vec<Member<'a>>);
    struct Reader;

    impl<'de> Visitor<'de> for Reader {
        type Value = Members<'de>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
            let mut members = Vec::new();
            while let Some((Text(name), value)) = map.next_entry::<Text<'de>, &RawValue>()? {
                members.push((name, value.get()));
            }
            Ok(Members(members))
        }
    }

    impl<'de> Deserialize<'de> for Members<'de> {
        fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
            json.deserialize_map(Reader)
        }
    }

    serde_json::from_str(text).map(|Members(members)| members)
}

/// The texts of an array's elements; `None` when the text is no array.
pub(super) fn elements(text: &str) -> Option<Vec<&str>> {
    let elements: Vec<&RawValue> = serde_json::from_str(text).ok()?;
    Some(elements.into_iter().map(RawValue::get).collect())
}

/// The content of a JSON string; `None` when the text is no string.
pub(super) fn string(text: &str) -> Option<Cow<'_, str>> {
    serde_json::from_str(text).ok().map(|Text(string)| string)
}

/// The text of a body, without a byte order mark, which parsers may ignore (RFC 8259 §8.1); `None`
/// when it is not UTF-8.
pub(super) fn text_of(body: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(body).ok()?;
    Some(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// Where a part that was borrowed from `body` begins and ends in it.
pub(super) fn range_in(body: &[u8], part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - body.as_ptr().addr();
    start..start + part.len()
}

/// A string, borrowed if it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);
