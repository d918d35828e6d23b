//! Reads the ids from a body without building a tree.
//!
//! [`fast_parse`](super::fast_parse) reads bodies in the usual form; this module decides about all
//! others.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use crate::scan::fast_parse;
use crate::scan::ids::IdSet;
use crate::scan::key::KeyPrefix;
use crate::scan::{Excerpt, Invalid};

/// Reads `{"<member>": [string, …]}`, or one string in place of the array, for a key that begins
/// with `head`.
pub(super) fn read_ids(head: &KeyPrefix, body: &[u8]) -> Result<IdSet, Invalid> {
    if body.is_empty() {
        return Err(Invalid::Empty(head.member()));
    }
    if let Some(ids) = fast_parse::read_ids(head, body) {
        return ids.canonical();
    }
    if body.starts_with(b"\xEF\xBB\xBF") {
        return Err(Invalid::ByteOrderMark);
    }
    let text = std::str::from_utf8(body).map_err(|error| Invalid::NotUtf8 {
        valid_bytes: error.valid_up_to(),
    })?;
    let mut reading = Reading::new(head, text.len());
    let mut json = serde_json::Deserializer::from_str(text);
    match reading.deserialize(&mut json).and_then(|()| json.end()) {
        Ok(()) => reading.ids.canonical(),
        Err(error) => Err(reading.fault.unwrap_or_else(|| match error.classify() {
            Category::Data => reading.wrong_type,
            Category::Syntax | Category::Eof | Category::Io => Invalid::NotJson {
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
    wrong_type: Invalid,
    /// An error of this module. It is kept here because serde's errors are text.
    fault: Option<Invalid>,
}

impl Reading {
    fn new(head: &KeyPrefix, body_bytes: usize) -> Self {
        Self {
            ids: IdSet::with_room(head, body_bytes),
            member: head.member(),
            wrong_type: Invalid::NotObject(head.member()),
            fault: None,
        }
    }

    fn fail<E: serde::de::Error>(&mut self, fault: Invalid) -> E {
        self.fault = Some(fault);
        E::custom("refused")
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
        while let Some(name) = map.next_key_seed(Name)? {
            if name != member {
                return Err(self.0.fail(Invalid::UnknownMember(Excerpt::new(&name), member)));
            }
            if seen {
                return Err(self.0.fail(Invalid::DoubleMember(member)));
            }
            seen = true;
            self.0.wrong_type = Invalid::NotStrings(member);
            map.next_value_seed(List(&mut *self.0))?;
        }
        if !seen {
            return Err(self.0.fail(Invalid::NoMember(member)));
        }
        Ok(())
    }
}

/// A member's name, borrowed if the body has it without escapes.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
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
        self.0.ids.push(id).map_err(|fault| self.0.fail(fault))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Element(&mut *self.0))?.is_some() {}
        Ok(())
    }
}

/// One id of the array.
struct Element<'r>(&'r mut Reading);

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Element<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, id: &str) -> Result<(), E> {
        self.0.ids.push(id).map_err(|fault| self.0.fail(fault))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Endpoint, Request};

    const MEMBER: &str = "ScanDefinitionIds";

    fn read_bytes(body: &[u8]) -> Result<Vec<String>, Invalid> {
        let request = Request::parse(Endpoint::HISTORY, None, body)?;
        Ok(request.ids().map(str::to_owned).collect())
    }

    fn read(body: &str) -> Result<Vec<String>, Invalid> {
        read_bytes(body.as_bytes())
    }

    #[test]
    fn the_documented_shapes_are_read() {
        assert_eq!(read(r#"{"ScanDefinitionIds":["b","a"]}"#).unwrap(), ["a", "b"]);
        assert_eq!(read(r#" { "ScanDefinitionIds" : "x" } "#).unwrap(), ["x"]);
        assert_eq!(read(r#"{"\u0053canDefinitionIds":["\u0061\n"]}"#).unwrap(), ["a"]);
    }

    #[test]
    fn guids_are_lower_cased_and_other_ids_kept() {
        let guid = "7E8DA3A5-90E9-4E22-AC1A-9B3D9A3B1D0F";
        assert_eq!(
            read(&format!(
                r#"{{"ScanDefinitionIds":["{guid}"," {} ","Weekly","weekly"]}}"#,
                guid.to_lowercase()
            ))
            .unwrap(),
            [&guid.to_lowercase(), "Weekly", "weekly"]
        );
        let almost = guid.replace("AC1A", "AG1A");
        assert_eq!(
            read(&format!(r#"{{"ScanDefinitionIds":"{almost}"}}"#)).unwrap(),
            [almost]
        );
    }

    #[test]
    fn ids_that_share_their_first_eight_bytes_are_still_sorted_and_told_apart() {
        assert_eq!(
            read(r#"{"ScanDefinitionIds":["aaaaaaaab","aaaaaaaa","aaaaaaaab","aaaaaaaa\u0000","aaaaaaaaa"]}"#).unwrap(),
            ["aaaaaaaa", "aaaaaaaa\0", "aaaaaaaaa", "aaaaaaaab"]
        );
    }

    #[test]
    fn every_other_body_is_refused_with_its_own_reason() {
        let cases = [
            ("", Invalid::Empty(MEMBER)),
            ("\u{feff}{}", Invalid::ByteOrderMark),
            ("[]", Invalid::NotObject(MEMBER)),
            ("null", Invalid::NotObject(MEMBER)),
            ("\"ScanDefinitionIds\"", Invalid::NotObject(MEMBER)),
            ("{}", Invalid::NoMember(MEMBER)),
            (r#"{"ScanDefinitionIds":[]}"#, Invalid::NoIds(MEMBER)),
            (r#"{"ScanDefinitionIds":[""]}"#, Invalid::EmptyId(MEMBER)),
            (
                r#"{"ScanDefinitionIds":" \t "}"#.replace("\\t", "\\u2003").leak(),
                Invalid::EmptyId(MEMBER),
            ),
            (r#"{"ScanDefinitionIds":null}"#, Invalid::NotStrings(MEMBER)),
            (r#"{"ScanDefinitionIds":7}"#, Invalid::NotStrings(MEMBER)),
            (r#"{"ScanDefinitionIds":{"a":"b"}}"#, Invalid::NotStrings(MEMBER)),
            (r#"{"ScanDefinitionIds":["a",7]}"#, Invalid::NotStrings(MEMBER)),
            (r#"{"ScanDefinitionIds":["a",null]}"#, Invalid::NotStrings(MEMBER)),
            (r#"{"ScanDefinitionIds":[["a"]]}"#, Invalid::NotStrings(MEMBER)),
            (
                r#"{"ScanDefinitionIds":["a"],"ScanDefinitionIds":["a"]}"#,
                Invalid::DoubleMember(MEMBER),
            ),
            (
                r#"{"scanDefinitionIds":["a"]}"#,
                Invalid::UnknownMember(Excerpt::new("scanDefinitionIds"), MEMBER),
            ),
            (
                r#"{"ScanDefinitionIds":["a"],"x":1}"#,
                Invalid::UnknownMember(Excerpt::new("x"), MEMBER),
            ),
        ];
        for (body, fault) in cases {
            assert_eq!(read(body).unwrap_err(), fault, "{body}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused_with_a_position() {
        for body in [
            r#"{"ScanDefinitionIds":"x""#,
            r#"{"ScanDefinitionIds":["x"]}}"#,
            r#"{"ScanDefinitionIds":["x"]} x"#,
            r#"{"ScanDefinitionIds":["x",]}"#,
            r#"{"ScanDefinitionIds":["\ud800"]}"#,
            r#"{"ScanDefinitionIds":["\udc00\ud800"]}"#,
            "{\"ScanDefinitionIds\":[\"a\nb\"]}",
            r"{'ScanDefinitionIds':['x']}",
            r#"{ScanDefinitionIds:["x"]}"#,
        ] {
            let fault = read(body).unwrap_err();
            assert!(
                matches!(&fault, Invalid::NotJson { reason } if reason.contains("line ")),
                "{body}: {fault:?}"
            );
        }
        assert_eq!(
            read_bytes(b"{\"ScanDefinitionIds\":\"\xff\"}").unwrap_err(),
            Invalid::NotUtf8 { valid_bytes: 22 }
        );
    }

    #[test]
    fn plain_bodies_are_read_as_by_the_whole_parser() {
        // With an escape in the name, the same body is read by the slow parser.
        let both = |list: &str| {
            let plain = format!("{{\"ScanDefinitionIds\": {list} }}");
            let escaped = plain.replacen("ScanD", "\\u0053canD", 1);
            (read(&plain), read(&escaped))
        };
        let guid = "7E8DA3A5-90E9-4E22-AC1A-9B3D9A3B1D0F";
        let long = "x".repeat(257);
        for ids in [
            vec!["a"],
            vec!["b", " a ", "", "b"],
            vec!["b", " a ", "\u{2003}x\u{2003}", "b"],
            vec![guid, &guid[1..], &long[1..]],
            vec!["a", &long],
            vec!["a", " \t"],
            vec![],
        ] {
            let (plain, whole) = both(&serde_json::to_string(&ids).unwrap());
            assert_eq!(plain, whole, "{ids:?}");
            let (plain, whole) = both(&serde_json::to_string_pretty(&ids).unwrap());
            assert_eq!(plain, whole, "{ids:?}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_without_a_deep_stack() {
        let deep = format!("{{\"ScanDefinitionIds\":{}", "[".repeat(1 << 20));
        assert_eq!(read(&deep).unwrap_err(), Invalid::NotStrings(MEMBER));
        let deep = format!("{{\"x\":{}", "{\"x\":".repeat(1 << 18));
        assert_eq!(
            read(&deep).unwrap_err(),
            Invalid::UnknownMember(Excerpt::new("x"), MEMBER)
        );
        assert_eq!(read(&"[".repeat(1 << 20)).unwrap_err(), Invalid::NotObject(MEMBER));
    }

    #[test]
    fn the_limits_are_where_they_are_said_to_be() {
        let list = |count: usize| {
            let ids: Vec<_> = (0..count).map(|n| format!("\"{n}\"")).collect();
            read(&format!("{{\"ScanDefinitionIds\":[{}]}}", ids.join(",")))
        };
        assert_eq!(list(Request::MAX_IDS).unwrap().len(), Request::MAX_IDS);
        assert_eq!(list(Request::MAX_IDS + 1).unwrap_err(), Invalid::TooManyIds(MEMBER));
        let id = |bytes: usize| read(&format!("{{\"ScanDefinitionIds\":\" {} \"}}", "x".repeat(bytes)));
        assert_eq!(id(Request::MAX_ID_BYTES).unwrap()[0].len(), Request::MAX_ID_BYTES);
        assert_eq!(
            id(Request::MAX_ID_BYTES + 1).unwrap_err(),
            Invalid::LongId {
                member: MEMBER,
                bytes: 257
            }
        );
    }
}
