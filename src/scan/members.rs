//! The members of a JSON object in their order, each with its value as it is written.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{self, Deserializer as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// A member's name, and the text of its value without the space around it.
pub(super) type Member<'a> = (Cow<'a, str>, &'a str);

/// Shows each member of an object to `each`, doubled ones included, until it returns `None`. `None`
/// when it did, or the text is no object.
pub(super) fn each_member<'a>(text: &'a str, each: impl FnMut(Member<'a>) -> Option<()>) -> Option<()> {
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_map(Each(each)).ok()?;
    json.end().ok()
}

/// The same for the texts of an array's elements.
pub(super) fn each_element<'a>(text: &'a str, mut each: impl FnMut(&'a str) -> Option<()>) -> Option<()> {
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_seq(Each(|(_, element): Member<'a>| each(element)))
        .ok()?;
    json.end().ok()
}

/// Shows members, or elements as members without a name.
struct Each<F>(F);

impl<'de, F: FnMut(Member<'de>) -> Option<()>> Each<F> {
    fn show<E: de::Error>(&mut self, name: Cow<'de, str>, value: &'de RawValue) -> Result<(), E> {
        (self.0)((name, value.get())).ok_or_else(|| E::custom("stopped"))
    }
}

impl<'de, F: FnMut(Member<'de>) -> Option<()>> Visitor<'de> for Each<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((Text(name), value)) = map.next_entry()? {
            self.show(name, value)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        while let Some(element) = list.next_element()? {
            self.show(Cow::Borrowed(""), element)?;
        }
        Ok(())
    }
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
pub fn range_in(body: &[u8], part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - body.as_ptr().addr();
    start..start + part.len()
}

/// A string, borrowed if it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);
