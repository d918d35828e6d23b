//! Splits an answer by id, without changing a byte of any row.
//!
//! However the upstream lays out its rows, on one line or on many, an answer made from them has the
//! same layout: each row keeps its bytes and the space before it.

use std::ops::Range;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::scan::envelope::Envelope;
use crate::scan::id_class::Asked;
use crate::scan::row::row_info;
use crate::scan::upstream_response::without_mark;
use crate::scan::walk::{Found, Stop, walk};
use crate::scan::{Request, SplitError};

/// The rows of an answer to a plain request, each with its id.
///
/// Rows and envelope are ranges of the body as it came; numbers, escapes and doubled members stay
/// as they are.
#[derive(Clone, Debug)]
pub struct Rows {
    body: Bytes,
    /// The range between the brackets of `value`.
    inside: Range<usize>,
    list: Vec<Row>,
    asked: usize,
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// The number of its id among the requested ids.
    pub(super) id: usize,
    pub(super) text: Range<usize>,
    /// Its `LastScanned`, if it has one that can be compared as text.
    pub(super) time: Option<Range<usize>>,
}

/// The white space and commas between the brackets of `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout<'a> {
    /// The space before the first row.
    pub before: &'a [u8],
    /// The text between the first row and the second, a comma and perhaps space; `None` when there
    /// is only one row.
    pub between: Option<&'a [u8]>,
    /// The space after the last row.
    pub after: &'a [u8],
}

impl Rows {
    /// Splits the body of an answer to `request`.
    ///
    /// # Errors
    ///
    /// [`SplitError`] when the result would not be certain. Whether the answer may be cut off is
    /// not decided here.
    pub fn split(request: &Request, body: &Bytes) -> Result<Self, SplitError> {
        if !request.has_distinct_ids() {
            return Err(SplitError::Unattributed);
        }
        let asked = Asked::new(request);
        let found = walk(&asked, body).or_else(|_| read(&asked, body))?;
        Ok(Self::new(found, &asked, body))
    }

    /// The same for callers that do not need the reason of a failure, which can often be seen at
    /// the first row.
    #[must_use]
    pub fn certain(request: &Request, body: &Bytes) -> Option<Self> {
        if !request.has_distinct_ids() {
            return None;
        }
        let asked = Asked::new(request);
        let found = match walk(&asked, body) {
            Ok(found) => found,
            Err(Stop::Never) => return None,
            Err(Stop::Unsure) => read(&asked, body).ok()?,
        };
        Some(Self::new(found, &asked, body))
    }

    fn new((inside, list): Found, asked: &Asked<'_>, body: &Bytes) -> Self {
        Self {
            body: body.clone(),
            inside,
            list,
            asked: asked.ids.len(),
        }
    }

    /// The number of requested ids.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.asked
    }

    /// The number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The body of the answer that a request for some of the ids would have got. `wanted` is called
    /// with the number of each row's id among the requested ids.
    pub fn only(&self, wanted: impl Fn(usize) -> bool) -> Bytes {
        let (Some(first), Some(last)) = (self.list.first(), self.list.last()) else {
            return self.body.clone();
        };
        let mut body = Vec::with_capacity(self.body.len());
        // Up to the first row, if there is one; without rows no space is left between the brackets,
        // as JSON writers do it.
        body.extend_from_slice(&self.body[..self.inside.start]);
        let mut has_rows = false;
        let mut end_before = first.text.start;
        for row in &self.list {
            if wanted(row.id) {
                let start = if has_rows {
                    end_before
                } else {
                    body.extend_from_slice(&self.body[self.inside.start..first.text.start]);
                    row.text.start
                };
                body.extend_from_slice(&self.body[start..row.text.end]);
                has_rows = true;
            }
            end_before = row.text.end;
        }
        let rest = if has_rows { last.text.end } else { self.inside.end };
        body.extend_from_slice(&self.body[rest..]);
        body.into()
    }

    /// The rows in order: the number of the id, the bytes, and the range of the time in them, if
    /// there is one.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (usize, &[u8], Option<Range<usize>>)> {
        self.list.iter().map(|row| {
            let start = row.text.start;
            let time = row.time.as_ref().map(|time| time.start - start..time.end - start);
            (row.id, &self.body[row.text.clone()], time)
        })
    }

    /// The text before the rows and after them, brackets included.
    #[must_use]
    pub fn envelope(&self) -> (&[u8], &[u8]) {
        (&self.body[..self.inside.start], &self.body[self.inside.end..])
    }

    /// The layout of the rows; `None` when there are none.
    #[must_use]
    pub fn layout(&self) -> Option<Layout<'_>> {
        let (first, last) = (self.list.first()?, self.list.last()?);
        let between = self
            .list
            .get(1)
            .map(|second| &self.body[first.text.end..second.text.start]);
        Some(Layout {
            before: &self.body[self.inside.start..first.text.start],
            between,
            after: &self.body[last.text.end..self.inside.end],
        })
    }
}

/// Splits an answer in any layout.
pub(super) fn read(asked: &Asked<'_>, body: &[u8]) -> Result<Found, SplitError> {
    let text = std::str::from_utf8(body).map_err(|_| SplitError::Shape)?;
    let json = std::str::from_utf8(without_mark(body)).map_err(|_| SplitError::Shape)?;
    let (raw, envelope) = Envelope::read::<Vec<&RawValue>>(json)?;
    envelope.check(asked, raw.len())?;
    let Some((first, last)) = raw.first().zip(raw.last()) else {
        let (list, _) = Envelope::read::<&RawValue>(json)?;
        let list = within(text, list.get()).ok_or(SplitError::Shape)?;
        return Ok((list.start + 1..list.end - 1, Vec::new()));
    };
    let begin = within(text, first.get()).ok_or(SplitError::Shape)?.start;
    let end = within(text, last.get()).ok_or(SplitError::Shape)?.end;
    let mut rows = Vec::with_capacity(raw.len());
    for row in raw {
        let row_info = row_info(asked, row.get())?;
        rows.push(Row {
            id: row_info.id,
            text: within(text, row.get()).ok_or(SplitError::Shape)?,
            time: row_info.time.and_then(|time| within(text, time)),
        });
    }
    // Between brackets and rows there is only space.
    let start = text[..begin].trim_end_matches(SPACE).len();
    let end = text.len() - text[end..].trim_start_matches(SPACE).len();
    Ok((start..end, rows))
}

/// White space in JSON (RFC 8259 §2).
const SPACE: [char; 4] = [' ', '\n', '\r', '\t'];

/// The range of `part`, a slice of `whole`, in it.
fn within(whole: &str, part: &str) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    let range = start..start + part.len();
    (whole.get(range.clone())? == part).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::Endpoint;
    use crate::scan::id_class::tests::spellings;
    use crate::scan::walk::tests::{agree, value};
    use proptest::prelude::*;

    fn request(ids: &[&str]) -> Request {
        Request::plain(Endpoint::HISTORY, ids.iter().copied()).unwrap()
    }

    fn split(ids: &[&str], body: &str) -> Result<Rows, SplitError> {
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
    fn a_row_is_attributed_however_it_or_the_question_spells_the_id() {
        let guid = "7e8da3a5-90e9-4e22-ac1a-9b3d9a3b1d0f";
        let spellings = spellings(guid);
        for asked in &spellings {
            for named in &spellings {
                let named = serde_json::Value::from(&**named);
                let row = format!(r#"{{"ScanDefinitionIds":{named}}}"#);
                let body = format!(r#"{{"value":[{row},{{"scanDefinitionId":"b"}}]}}"#);
                let expected = format!(r#"{{"value":[{row}]}}"#);
                assert_eq!(only(&[asked, "b"], &body, &[asked.trim(), guid]), expected, "{asked}");
            }
            let twice = split(&[guid, asked], r#"{"value":[]}"#).map(|rows| rows.len());
            let is_one = request(&[guid, asked]).ids().len() == 1;
            assert_eq!(twice.is_ok(), is_one, "{asked}: whose rows they would be is not known");
        }
    }

    #[test]
    fn rows_are_written_in_the_manner_of_the_answer() {
        let body = "{\r\n  \"value\": [\r\n    {\"ScanDefinitionIds\":\"a\"},\r\n    {\n\"ScanDefinitionIds\" :\"b\"} ,\t{\"ScanDefinitionIds\":\"a\",\"n\":2}\r\n  ],\r\n  \"@odata.context\": \"c\", \"x\": {\"y\": [1]}\r\n}\r\n";
        assert_eq!(only(&["a", "b"], body, &["a", "b"]), body);
        assert_eq!(
            only(&["a", "b"], body, &["a"]),
            "{\r\n  \"value\": [\r\n    {\"ScanDefinitionIds\":\"a\"} ,\t{\"ScanDefinitionIds\":\"a\",\"n\":2}\r\n  ],\r\n  \"@odata.context\": \"c\", \"x\": {\"y\": [1]}\r\n}\r\n"
        );
        assert_eq!(
            only(&["a", "b"], body, &["b"]),
            "{\r\n  \"value\": [\r\n    {\n\"ScanDefinitionIds\" :\"b\"}\r\n  ],\r\n  \"@odata.context\": \"c\", \"x\": {\"y\": [1]}\r\n}\r\n"
        );
        assert_eq!(
            only(&["a", "b"], body, &[]),
            "{\r\n  \"value\": [],\r\n  \"@odata.context\": \"c\", \"x\": {\"y\": [1]}\r\n}\r\n"
        );
        let marked = "\u{feff}{\"value\":[ {\"ScanDefinitionIds\":\"a\"} ]}";
        assert_eq!(only(&["a", "b"], marked, &["b"]), "\u{feff}{\"value\":[]}");
        assert_eq!(only(&["a", "b"], "{\"value\":[ \n ]}", &["b"]), "{\"value\":[ \n ]}");
    }

    #[test]
    fn whatever_is_not_certain_cannot_be_split() {
        for (body, split_error) in [
            ("", SplitError::Shape),
            ("[]", SplitError::Shape),
            ("{}", SplitError::Shape),
            (r#"{"value":null}"#, SplitError::Shape),
            (r#"{"value":{}}"#, SplitError::Shape),
            (r#"{"value":[]}{}"#, SplitError::Shape),
            (r#"{"value":[],"value":[]}"#, SplitError::Shape),
            (r#"{"@odata.context":1,"value":[]}"#, SplitError::Shape),
            (r#"{"value":[],"@odata.nextLink":"https://x"}"#, SplitError::NextLink),
            (
                r#"{"@odata.nextLin\u006b":"https://x","value":[]}"#,
                SplitError::NextLink,
            ),
            (r#"{"value":[{}]}"#, SplitError::Unattributed),
            (r#"{"value":[1]}"#, SplitError::Unattributed),
            (r#"{"value":[{"ScanDefinitionIds":1}]}"#, SplitError::Unattributed),
            (r#"{"value":[{"ScanDefinitionIds":["a"]}]}"#, SplitError::Unattributed),
            (r#"{"value":[{"ScanDefinitionIds":"c"}]}"#, SplitError::Unattributed),
            (r#"{"value":[{"scandefinitionid":"a"}]}"#, SplitError::Unattributed),
            (
                r#"{"value":[{"ScanDefinitionIds":"a","scanDefinitionId":"b"}]}"#,
                SplitError::Unattributed,
            ),
        ] {
            assert_eq!(split(&["a", "b"], body).unwrap_err(), split_error, "{body}");
            assert!(
                walk(
                    &Asked::new(&Request::plain(Endpoint::HISTORY, ["a", "b"]).unwrap()),
                    body.as_bytes()
                )
                .is_err(),
                "{body}"
            );
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

    /// Members of an envelope, before `value` and after it.
    fn members() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(String::new()),
            Just("\"@odata.context\" :\"c\"".to_owned()),
            Just("\"took\": \"0.5\" ,\r\n\"flags\": {\"x\": [null, true]}".to_owned()),
        ]
    }

    proptest! {
        #[test]
        fn any_choice_of_ids_gets_exactly_its_rows(
            rows in proptest::collection::vec((0..4_usize, 0..3_usize, value(), value()), 0..12),
            chosen in proptest::array::uniform4(any::<bool>()),
            space in proptest::array::uniform4("[ \r\n\t]{0,3}"),
            others in (members(), members()),
        ) {
            let others = (
                if others.0.is_empty() { String::new() } else { format!("{},", others.0) },
                if others.1.is_empty() || others.0.contains("context") { String::new() } else { format!(" ,{}", others.1) },
            );
            let ids = ["a", "b", "c\"\\", "d"];
            let between = format!("{},{}", space[0], space[1]);
            let names = ["ScanDefinitionIds", "ScanDefinitionId", "scanDefinitionId"];
            let text: Vec<_> = rows.iter().map(|(id, name, before, after)| {
                let id = serde_json::Value::from(ids[*id]);
                format!("{{ \"x\":{before},\"{}\": {id},\"x\":{after}}}", names[*name])
            }).collect();
            let body = |list: &[&str]| {
                let (before, after) = if list.is_empty() && !rows.is_empty() { ("", "") } else { (&*space[2], &*space[3]) };
                format!("{{{}\"value\": [{before}{}{after}]{}}}", others.0, list.join(&between), others.1)
            };
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
