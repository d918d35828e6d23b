//! Taking an answer apart by id, without touching a byte of any row.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::scan::row::{Text, facts};
use crate::scan::walk::{Found, Stop, walk};
use crate::scan::{Doubt, Request};

/// The rows of an answer to a plain request, each with the id it is about.
///
/// Rows and envelope are ranges of the body as it came; numbers, escapes and doubled members stay as they are.
#[derive(Clone, Debug)]
pub struct Rows {
    body: Bytes,
    /// What lies between the brackets of `value`.
    inside: Range<usize>,
    list: Vec<Row>,
    asked: usize,
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// The number of its id among the ids asked for.
    pub(super) id: usize,
    pub(super) text: Range<usize>,
    /// Its `LastScanned`, where it has one that can be compared as text.
    pub(super) time: Option<Range<usize>>,
}

impl Rows {
    /// Takes apart the body of an answer to `request`.
    ///
    /// # Errors
    ///
    /// [`Doubt`] when that is not certain to be right. Whether the answer may be cut off is not decided here.
    pub fn split(request: &Request, body: &Bytes) -> Result<Self, Doubt> {
        let asked: Vec<&str> = request.ids().collect();
        let found = walk(&asked, body).or_else(|_| read(&asked, body))?;
        Ok(Self::new(found, &asked, body))
    }

    /// The same for those who do not mind why it is not certain, which often is seen at the first row.
    #[must_use]
    pub fn certain(request: &Request, body: &Bytes) -> Option<Self> {
        let asked: Vec<&str> = request.ids().collect();
        let found = match walk(&asked, body) {
            Ok(found) => found,
            Err(Stop::Never) => return None,
            Err(Stop::Unsure) => read(&asked, body).ok()?,
        };
        Some(Self::new(found, &asked, body))
    }

    fn new((inside, list): Found, asked: &[&str], body: &Bytes) -> Self {
        Self {
            body: body.clone(),
            inside,
            list,
            asked: asked.len(),
        }
    }

    /// How many ids were asked for.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.asked
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The body of the answer that a request for some of the ids would have got. `wanted` is asked with the number of each row's id among
    /// the ids asked for.
    pub fn only(&self, wanted: impl Fn(usize) -> bool) -> Bytes {
        let mut body = Vec::with_capacity(self.body.len());
        body.extend_from_slice(&self.body[..self.inside.start]);
        let mut first = true;
        for row in self.list.iter().filter(|row| wanted(row.id)) {
            if !first {
                body.push(b',');
            }
            first = false;
            body.extend_from_slice(&self.body[row.text.clone()]);
        }
        body.extend_from_slice(&self.body[self.inside.end..]);
        body.into()
    }

    /// The rows in order: the number of each one's id, its bytes, and where in them its time is, if it has one.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (usize, &[u8], Option<Range<usize>>)> {
        self.list.iter().map(|row| {
            let start = row.text.start;
            let time = row.time.as_ref().map(|time| time.start - start..time.end - start);
            (row.id, &self.body[row.text.clone()], time)
        })
    }

    /// What comes before the first row and after the last.
    #[must_use]
    pub fn envelope(&self) -> (&[u8], &[u8]) {
        (&self.body[..self.inside.start], &self.body[self.inside.end..])
    }
}

/// Takes an answer apart, however it is written.
pub(super) fn read(asked: &[&str], body: &[u8]) -> Result<Found, Doubt> {
    let text = std::str::from_utf8(body).map_err(|_| Doubt::Shape)?;
    let raw: Vec<&RawValue> = envelope(text)?;
    let Some(first) = raw.first() else {
        return none(text);
    };
    let begin = within(text, first.get()).ok_or(Doubt::Shape)?.start;
    let mut rows = Vec::with_capacity(raw.len());
    // Rows follow each other after exactly one comma; then what was cut out can be put together again.
    let mut at = begin;
    for row in raw {
        let range = within(text, row.get()).ok_or(Doubt::Shape)?;
        if range.start != at {
            return Err(Doubt::Layout);
        }
        at = range.end + 1;
        let facts = facts(row.get())?;
        let id = asked.binary_search(&&*facts.id).map_err(|_| Doubt::Unattributed)?;
        let time = facts.time.and_then(|time| within(text, time));
        rows.push(Row { id, text: range, time });
    }
    // Nor is there anything between the brackets and the rows.
    let inside = begin..at - 1;
    let brackets = (
        text.as_bytes().get(begin.wrapping_sub(1)),
        text.as_bytes().get(inside.end),
    );
    if brackets != (Some(&b'['), Some(&b']')) {
        return Err(Doubt::Layout);
    }
    Ok((inside, rows))
}

/// An answer without rows.
fn none(text: &str) -> Result<Found, Doubt> {
    let list: &RawValue = envelope(text)?;
    let list = within(text, list.get()).ok_or(Doubt::Shape)?;
    if list.len() != "[]".len() {
        return Err(Doubt::Layout);
    }
    Ok((list.start + 1..list.end - 1, Vec::new()))
}

/// Where `part`, a slice of `whole`, lies in it.
fn within(whole: &str, part: &str) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    let range = start..start + part.len();
    (whole.get(range.clone())? == part).then_some(range)
}

/// The `value` of the answer, if the answer is nothing but the documented envelope around it.
fn envelope<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, Doubt> {
    let mut json = serde_json::Deserializer::from_str(text);
    let mut doubt = Doubt::Shape;
    let envelope = Envelope {
        doubt: &mut doubt,
        list: PhantomData,
    };
    let list = envelope
        .deserialize(&mut json)
        .and_then(|list| json.end().map(|()| list));
    list.map_err(|_| doubt)
}

struct Envelope<'d, T> {
    doubt: &'d mut Doubt,
    list: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Envelope<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Envelope<'_, T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an answer")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        use serde::de::Error as _;
        let (mut list, mut context) = (None, false);
        while let Some(name) = map.next_key::<Text<'de>>()? {
            match &*name.0 {
                "value" if list.is_none() => list = Some(map.next_value()?),
                "@odata.context" if !context => {
                    context = true;
                    map.next_value::<Text<'de>>()?;
                }
                "@odata.nextLink" | "odata.nextLink" | "@nextLink" => {
                    *self.doubt = Doubt::NextLink;
                    return Err(A::Error::custom("next link"));
                }
                _ => return Err(A::Error::custom("unknown member")),
            }
        }
        list.ok_or_else(|| A::Error::custom("no value"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::Version;
    use crate::scan::walk::tests::{agree, value};
    use proptest::prelude::*;

    fn request(ids: &[&str]) -> Request {
        Request::plain(Version::Latest, ids.iter().copied()).unwrap()
    }

    fn split(ids: &[&str], body: &str) -> Result<Rows, Doubt> {
        Rows::split(&request(ids), &Bytes::copy_from_slice(body.as_bytes()))
    }

    fn only(ids: &[&str], body: &str, wanted: &[&str]) -> String {
        let asked = request(ids);
        let numbers: Vec<_> = asked.ids().map(|id| wanted.contains(&id)).collect();
        let bytes = split(ids, body).unwrap().only(|id| numbers[id]);
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn rows_are_cut_out_byte_for_byte() {
        let body = r#" {"@odata.context" : "https://x/$metadata","value":[{"ScanDefinitionIds":"b","n":1e400,"n":123456789012345678901234567890},{ "scanDefinitionId" : "A" ,"x":"\u00e9\/"},{"ScanDefinitionId":"b"}] } "#;
        assert_eq!(only(&["A", "b"], body, &["A", "b"]), body);
        assert_eq!(
            only(&["A", "b"], body, &["A"]),
            r#" {"@odata.context" : "https://x/$metadata","value":[{ "scanDefinitionId" : "A" ,"x":"\u00e9\/"}] } "#
        );
        assert_eq!(
            only(&["A", "b"], body, &["b"]),
            r#" {"@odata.context" : "https://x/$metadata","value":[{"ScanDefinitionIds":"b","n":1e400,"n":123456789012345678901234567890},{"ScanDefinitionId":"b"}] } "#
        );
        assert_eq!(
            only(&["A", "b"], body, &[]),
            r#" {"@odata.context" : "https://x/$metadata","value":[] } "#
        );
    }

    #[test]
    fn a_row_is_attributed_in_whatever_case_it_names_a_guid() {
        let guid = "7e8da3a5-90e9-4e22-ac1a-9b3d9a3b1d0f";
        let body = format!(r#"{{"value":[{{"ScanDefinitionIds":"{}"}}]}}"#, guid.to_uppercase());
        assert_eq!(split(&[guid], &body).unwrap().len(), 1);
    }

    #[test]
    fn whatever_is_not_certain_is_a_doubt() {
        let row = r#"{"ScanDefinitionIds":"a"}"#;
        for (body, doubt) in [
            ("", Doubt::Shape),
            ("[]", Doubt::Shape),
            ("{}", Doubt::Shape),
            (r#"{"value":null}"#, Doubt::Shape),
            (r#"{"value":{}}"#, Doubt::Shape),
            (r#"{"value":[]}{}"#, Doubt::Shape),
            (r#"{"value":[],"value":[]}"#, Doubt::Shape),
            (r#"{"value":[],"@odata.count":0}"#, Doubt::Shape),
            (r#"{"value":[],"extra":"x"}"#, Doubt::Shape),
            (r#"{"@odata.context":1,"value":[]}"#, Doubt::Shape),
            (r#"{"value":[],"@odata.nextLink":"https://x"}"#, Doubt::NextLink),
            (r#"{"@odata.nextLin\u006b":"https://x","value":[]}"#, Doubt::NextLink),
            (r#"{"value":[ ]}"#, Doubt::Layout),
            (&format!(r#"{{"value":[{row}, {row}]}}"#), Doubt::Layout),
            (&format!("{{\"value\":[{row}\n]}}"), Doubt::Layout),
            (&format!(r#"{{"value":[ {row}]}}"#), Doubt::Layout),
            (r#"{"value":[{}]}"#, Doubt::Unattributed),
            (r#"{"value":[1]}"#, Doubt::Unattributed),
            (r#"{"value":[{"ScanDefinitionIds":1}]}"#, Doubt::Unattributed),
            (r#"{"value":[{"ScanDefinitionIds":["a"]}]}"#, Doubt::Unattributed),
            (r#"{"value":[{"ScanDefinitionIds":"c"}]}"#, Doubt::Unattributed),
            (r#"{"value":[{"scandefinitionid":"a"}]}"#, Doubt::Unattributed),
            (
                r#"{"value":[{"ScanDefinitionIds":"a","scanDefinitionId":"b"}]}"#,
                Doubt::Unattributed,
            ),
        ] {
            assert_eq!(split(&["a", "b"], body).unwrap_err(), doubt, "{body}");
            assert!(walk(&["a", "b"], body.as_bytes()).is_err(), "{body}");
        }
        assert!(Rows::split(&request(&["a"]), &Bytes::from_static(b"{\"value\":[\xff]}")).is_err());
    }

    #[test]
    fn only_times_in_the_documented_form_are_compared() {
        let time = |text: &str| {
            let body = format!(r#"{{"value":[{{"scanDefinitionId":"a",{text}}}]}}"#);
            let rows = split(&["a"], &body).unwrap();
            let (_, row, time) = rows.iter().next().unwrap();
            time.map(|time| String::from_utf8(row[time].to_vec()).unwrap())
        };
        let good = "2026-03-01T04:05:06.1234567Z";
        assert_eq!(time(&format!(r#""LastScanned":"{good}""#)).as_deref(), Some(good));
        for other in [
            r#""LastScanned":null"#,
            r#""LastScanned":"2026-03-01T04:05:06Z""#,
            r#""LastScanned":"2026-03-01T04:05:06.123456\u005a""#,
            r#""lastScanned":"2026-03-01T04:05:06.1234567Z""#,
            r#""LastScanned":"2026-03-01T04:05:06.1234567Z","LastScanned":"2026-03-01T04:05:06.1234567Z""#,
        ] {
            assert_eq!(time(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_choice_of_ids_gets_exactly_its_rows(
            rows in proptest::collection::vec((0..4_usize, 0..3_usize, value(), value()), 0..12),
            chosen in proptest::array::uniform4(any::<bool>()),
        ) {
            let ids = ["a", "b", "c\"\\", "d"];
            let names = ["ScanDefinitionIds", "ScanDefinitionId", "scanDefinitionId"];
            let text: Vec<_> = rows.iter().map(|(id, name, before, after)| {
                let id = serde_json::Value::from(ids[*id]);
                format!("{{ \"x\":{before},\"{}\": {id},\"x\":{after}}}", names[*name])
            }).collect();
            let body = |rows: &[&str]| format!("{{\"@odata.context\":\"c\",\"value\":[{}]}}", rows.join(","));
            let all: Vec<_> = text.iter().map(String::as_str).collect();
            let some: Vec<_> = rows.iter().zip(&all).filter(|((id, ..), _)| chosen[*id]).map(|(_, text)| *text).collect();
            let split = split(&ids, &body(&all)).unwrap();
            prop_assert_eq!(split.only(|_| true), body(&all));
            prop_assert_eq!(split.only(|id| chosen[id]), body(&some));
            agree(&ids, body(&all).as_bytes())?;
            agree(&ids[..2], body(&all).as_bytes())?;
        }

        #[test]
        fn no_body_makes_the_splitter_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            agree(&["a"], &body)?;
        }
    }
}
