//! Reads the ids from a body without building a tree.
//!
//! [`fast_parse`] reads bodies in the usual form; this module decides about all others.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use crate::scan::fast_parse;
use crate::scan::ids::IdSet;
use crate::scan::key::KeyPrefix;
use crate::scan::members::Text;
use crate::scan::{Excerpt, ParseError};

/// Reads `{"<member>": [string, …]}`, or one string in place of the array, for a key that begins
/// with `head`.
pub(super) fn read_ids(head: &KeyPrefix, body: &[u8]) -> Result<IdSet, ParseError> {
    if body.is_empty() {
        return Err(ParseError::Empty(head.member()));
    }
    if let Some(ids) = fast_parse::read_ids(head, body) {
        return ids.canonical();
    }
    if body.starts_with(b"\xEF\xBB\xBF") {
        return Err(ParseError::ByteOrderMark);
    }
    let text = std::str::from_utf8(body).map_err(|error| ParseError::NotUtf8 {
        valid_bytes: error.valid_up_to(),
    })?;
    let mut reading = Reading::new(head, text.len());
    let mut json = serde_json::Deserializer::from_str(text);
    match reading.deserialize(&mut json).and_then(|()| json.end()) {
        Ok(()) => reading.ids.canonical(),
        Err(error) => Err(reading.fault.unwrap_or_else(|| match error.classify() {
            Category::Data => reading.wrong_type,
            Category::Syntax | Category::Eof | Category::Io => ParseError::NotJson {
                reason: error.to_string(),
            },
        })),
    }
}

/// The state of the parser.
struct Reading {
    ids: IdSet,
    /// The one member of the body.
    member: &'static str,
    /// The error for a value of the wrong type at the current position.
    wrong_type: ParseError,
    /// An error of this module. It is kept here because serde's errors are text.
    fault: Option<ParseError>,
}

impl Reading {
    fn new(head: &KeyPrefix, body_bytes: usize) -> Self {
        Self {
            ids: IdSet::with_room(head, body_bytes),
            member: head.member(),
            wrong_type: ParseError::NotObject(head.member()),
            fault: None,
        }
    }

    fn fail<E: serde::de::Error>(&mut self, fault: ParseError) -> E {
        self.fault = Some(fault);
        E::custom("refused")
    }

    fn push<E: serde::de::Error>(&mut self, id: &str) -> Result<(), E> {
        self.ids.push(id).map_err(|fault| self.fail(fault))
    }

    fn deserialize<'de, D: Deserializer<'de>>(&mut self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(Object(self))
    }
}

/// The whole body.
struct Object<'r>(&'r mut Reading);

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let member = self.0.member;
        let mut seen = false;
        while let Some(Text(name)) = map.next_key::<Text<'de>>()? {
            if name != member {
                return Err(self.0.fail(ParseError::UnknownMember(Excerpt::new(&name), member)));
            }
            if seen {
                return Err(self.0.fail(ParseError::DoubleMember(member)));
            }
            seen = true;
            self.0.wrong_type = ParseError::NotStrings(member);
            map.next_value_seed(List(&mut *self.0))?;
        }
        if !seen {
            return Err(self.0.fail(ParseError::NoMember(member)));
        }
        Ok(())
    }
}

/// The member's value: an array of strings, or a string.
struct List<'r>(&'r mut Reading);

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of strings")
    }

    fn visit_str<E: serde::de::Error>(self, id: &str) -> Result<(), E> {
        self.0.push(id)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(Text(id)) = list.next_element::<Text<'de>>()? {
            self.0.push(&id)?;
        }
        Ok(())
    }
}
