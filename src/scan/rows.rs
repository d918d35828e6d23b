//! Splits an answer by id, without changing a byte of any row.
//!
//! However the upstream lays out its rows, on one line or on many, an answer made from them has the
//! same layout: each row keeps its bytes and the space before it.
//!
//! Of the envelope, which is everything around the rows, `@odata.context` and `value` are
//! documented. Other members stay where they are when an answer is split or joined, unless they
//! could be about certain rows or their number: then they would be wrong beside other rows.

use std::ops::Range;

use bytes::Bytes;

use crate::scan::Request;
use crate::scan::id_class::Asked;
use crate::scan::members::{Member, each_element, each_member, range_in, string, text_of};
use crate::telemetry::named_enum;

/// The rows of an answer to a plain request, each with its id.
///
/// Rows and envelope are ranges of the body as it came: numbers and escapes stay as they are.
#[derive(Clone, Debug)]
pub struct Rows {
    body: Bytes,
    /// The range between the brackets of `value`.
    inside: Range<usize>,
    list: Vec<Row>,
    asked: usize,
}

/// One row.
#[derive(Clone, Debug)]
struct Row {
    /// The number of its id among the requested ids.
    id: usize,
    text: Range<usize>,
    /// What can be compared as text of its `LastScanned`, if it has one.
    time: Option<Range<usize>>,
}

named_enum! {
    /// Why an answer cannot be split or joined with certainty.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error, serde::Serialize, serde::Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum SplitError, as_str {
        /// The status says that the request was rejected.
        #[error("the call was refused")]
        Refused = "refused",
        /// There was no answer, or one that says that the upstream could not answer now (429, 5xx).
        #[error("the call failed")]
        Failed = "failed",
        /// The body is not one object with `value`, or another member may be about certain rows or
        /// their number.
        #[error("the answer has an unknown shape")]
        Shape = "shape",
        /// There is a link to more rows.
        #[error("the answer is one page of several")]
        NextLink = "next_link",
        /// A row contains no id, two ids, or one that was not requested.
        #[error("a row cannot be attributed to one of the ids asked for")]
        Unattributed = "unattributed",
        /// No answer has had more rows yet, so this one may have been cut off where all answers
        /// are.
        #[error("the answer may be cut off: none has been longer")]
        Longest = "longest",
        /// It has as many rows as the longest answer seen, which may be the size of a page.
        #[error("the answer may be cut off: the longest one seen has as many rows")]
        FullPage = "full_page",
        /// The common order of rows from several answers is unknown.
        #[error("the order of rows is not known")]
        Order = "order",
        /// A request's part of the answer to several was not the answer to it alone.
        #[error("together the same ids were answered otherwise than alone")]
        Different = "different",
    }
}

/// The white space and commas between the brackets of `value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The space before the first row.
    pub before: Box<[u8]>,
    /// The text between the first row and the second, a comma and perhaps space; `None` when there
    /// is only one row.
    pub between: Option<Box<[u8]>>,
    /// The space after the last row.
    pub after: Box<[u8]>,
}

impl Layout {
    /// Whether there are only commas.
    pub fn is_compact(&self) -> bool {
        let between = self.between.as_deref();
        self.before.is_empty() && self.after.is_empty() && between.is_none_or(|between| between == b",")
    }
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
        let (inside, list) = read(&asked, body)?;
        Ok(Self {
            body: body.clone(),
            inside,
            list,
            asked: asked.ids.len(),
        })
    }

    /// The number of requested ids.
    pub fn asked(&self) -> usize {
        self.asked
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The body of the answer that a request for some of the ids would have got. `wanted` is called
    /// with the number of each row's id among the requested ids.
    pub fn only(&self, wanted: impl Fn(usize) -> bool) -> Bytes {
        if self.list.is_empty() {
            return self.body.clone();
        }
        // A buffer that is longer than its bytes would keep the rest as well.
        let mut body = Vec::with_capacity(self.bytes_of(&wanted));
        self.each_piece(wanted, |piece| body.extend_from_slice(piece));
        body.into()
    }

    /// How many bytes that body has.
    pub fn bytes_of(&self, wanted: impl Fn(usize) -> bool) -> usize {
        let mut bytes = 0;
        self.each_piece(wanted, |piece| bytes += piece.len());
        bytes
    }

    /// Shows the pieces of that body in order.
    fn each_piece(&self, wanted: impl Fn(usize) -> bool, mut piece: impl FnMut(&[u8])) {
        let (Some(first), Some(last)) = (self.list.first(), self.list.last()) else {
            return piece(&self.body);
        };
        // Up to the first row, if there is one; without rows no space is left between the brackets,
        // as JSON writers do it.
        piece(&self.body[..self.inside.start]);
        let mut has_rows = false;
        let mut end_before = first.text.start;
        for row in &self.list {
            if wanted(row.id) {
                let start = if has_rows {
                    end_before
                } else {
                    piece(&self.body[self.inside.start..first.text.start]);
                    row.text.start
                };
                piece(&self.body[start..row.text.end]);
                has_rows = true;
            }
            end_before = row.text.end;
        }
        let rest = if has_rows { last.text.end } else { self.inside.end };
        piece(&self.body[rest..]);
    }

    /// The rows in order: the number of the id, the bytes, and what can be compared as text of
    /// the time in them, if there is one.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (usize, &[u8], Option<Range<usize>>)> {
        self.list.iter().map(|row| {
            let start = row.text.start;
            let time = row.time.as_ref().map(|time| time.start - start..time.end - start);
            (row.id, &self.body[row.text.clone()], time)
        })
    }

    /// The text before the rows and after them, brackets included.
    pub fn envelope(&self) -> (&[u8], &[u8]) {
        (&self.body[..self.inside.start], &self.body[self.inside.end..])
    }

    /// The layout of the rows; `None` when there are none.
    pub fn layout(&self) -> Option<Layout> {
        let (first, last) = (self.list.first()?, self.list.last()?);
        let second = self.list.get(1);
        Some(Layout {
            before: self.body[self.inside.start..first.text.start].into(),
            between: second.map(|second| self.body[first.text.end..second.text.start].into()),
            after: self.body[last.text.end..self.inside.end].into(),
        })
    }
}

/// The range between the brackets of `value`, and the rows in it.
fn read(asked: &Asked<'_>, body: &[u8]) -> Result<(Range<usize>, Vec<Row>), SplitError> {
    let text = text_of(body).ok_or(SplitError::Shape)?;
    let envelope = Envelope::read(text)?;
    let (mut rows, mut count) = (Vec::new(), 0);
    let each = each_element(envelope.value, |row| {
        count += 1;
        rows.extend(Row::read(asked, body, row));
        Some(())
    });
    each.ok_or(SplitError::Shape)?;
    envelope.check(asked, count)?;
    if rows.len() < count {
        return Err(SplitError::Unattributed);
    }
    let list = range_in(body, envelope.value);
    Ok((list.start + 1..list.end - 1, rows))
}

impl Row {
    /// `None` when it is not certain which of the requested ids the row is about.
    fn read(asked: &Asked<'_>, body: &[u8], row: &str) -> Option<Self> {
        let (mut id, mut time, mut times) = (None, None, 0);
        each_member(row, |(name, value)| {
            if asked.is_id_name(&name) {
                let named = asked.find(&string(value)?)?;
                if id.replace(named).is_some_and(|id| id != named) {
                    return None;
                }
            } else if name == "LastScanned" {
                times += 1;
                time = timestamp(value);
            }
            Some(())
        })?;
        Some(Self {
            id: id?,
            text: range_in(body, row),
            time: time.filter(|_| times == 1).map(|time| range_in(body, time)),
        })
    }
}

/// What of a JSON string that is a timestamp, such as `2026-03-01T04:05:06.1234567Z`, compares as
/// text as the times do: it without the `Z`, and without zeros at the end of a fraction, which some
/// serializers leave out.
fn timestamp(value: &str) -> Option<&str> {
    const FORM: &[u8] = b"0000-00-00T00:00:00.0000000";
    const WHOLE: usize = b"0000-00-00T00:00:00".len();
    let text = value.strip_prefix('"')?.strip_suffix("Z\"")?;
    let fits = |(byte, form): (u8, &u8)| byte == *form || *form == b'0' && byte.is_ascii_digit();
    let (_, fraction) = text.split_at_checked(WHOLE)?;
    if text.len() > FORM.len() || fraction == "." || !text.bytes().zip(FORM).all(fits) {
        return None;
    }
    text.get(..WHOLE + fraction.trim_end_matches(['0', '.']).len())
}

/// The members of an answer.
#[derive(Debug)]
struct Envelope<'a> {
    /// The text of `value`.
    value: &'a str,
    /// The members that are not documented.
    others: Vec<Member<'a>>,
}

/// Parts of names that are about other pages, or about the number of rows.
const ABOUT_ROWS: [&str; 7] = ["link", "count", "total", "skip", "page", "delta", "error"];

impl<'a> Envelope<'a> {
    /// The most bytes of unknown members, because all of them are searched.
    const LARGEST: usize = 4096;
    /// The most unknown members.
    const MOST: usize = 100;

    /// Parses an answer.
    ///
    /// # Errors
    ///
    /// [`SplitError::NextLink`] when there is a link to more rows, [`SplitError::Shape`] when it is
    /// not one object with one `value`.
    fn read(text: &'a str) -> Result<Self, SplitError> {
        let (mut list, mut context, mut others) = (None, None, Vec::new());
        let mut links = false;
        let each = each_member(text, |(name, value)| {
            match &*name {
                "value" if list.is_none() => list = Some(value),
                "value" => return None,
                "@odata.context" if context.is_none() => context = Some(string(value)?),
                other if other.to_ascii_lowercase().ends_with("nextlink") => links = true,
                _ if others.len() == Self::MOST => return None,
                _ => others.push((name, value)),
            }
            (!links).then_some(())
        });
        if links {
            return Err(SplitError::NextLink);
        }
        let value = each.and(list).ok_or(SplitError::Shape)?;
        Ok(Self { value, others })
    }

    /// Checks that no member is about some of the rows only, or their number.
    ///
    /// # Errors
    ///
    /// [`SplitError::Shape`] when one may be.
    fn check(&self, asked: &Asked<'_>, rows: usize) -> Result<(), SplitError> {
        let bytes: usize = self.others.iter().map(|(_, value)| value.len()).sum();
        let is_about_rows = |(name, value): &Member<'_>| {
            let name = name.to_ascii_lowercase();
            ABOUT_ROWS.iter().any(|part| name.contains(part)) || value.parse() == Ok(rows) || names_an_id(asked, value)
        };
        if bytes > Self::LARGEST || self.others.iter().any(is_about_rows) {
            return Err(SplitError::Shape);
        }
        Ok(())
    }
}

/// Whether a text contains one of the requested ids as a word, or between quotes.
fn names_an_id(asked: &Asked<'_>, text: &str) -> bool {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '-');
    let quoted = text.split('"');
    words
        .chain(quoted)
        .any(|word| !word.is_empty() && asked.find(word).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::Endpoint;

    fn check(members: &str) -> Result<(), SplitError> {
        let text = format!(r#"{{"value":[1,2,3]{members}}}"#);
        let envelope = Envelope::read(&text)?;
        assert_eq!(envelope.value, "[1,2,3]");
        let guid = "7e8da3a5-90e9-4e22-ac1a-9b3d9a3b1d0f";
        let asked = Request::plain(Endpoint::HISTORY, [guid, "nightly"]).unwrap();
        envelope.check(&Asked::new(&asked), 3)
    }

    #[test]
    fn members_that_are_not_about_rows_can_be_split() {
        for members in [
            "",
            r#","@odata.type":"x""#,
            r#","x":null,"y":true,"z":{"a":[1.5e3,"b"]},"took_ms":17"#,
            r#","@odata.context":"c""#,
        ] {
            assert_eq!(check(members), Ok(()), "{members}");
        }
    }

    #[test]
    fn members_that_may_be_about_rows_cannot_be_split() {
        for members in [
            r#","@odata.count":7"#,
            r#","Total":9"#,
            r#","seen":3"#,
            r#","@odata.deltaLink":"x""#,
            r#","warnings":[{"id":"{7E8DA3A5-90E9-4E22-AC1A-9B3D9A3B1D0F}"}]"#,
            r#","warnings":"7e8da3a590e94e22ac1a9b3d9a3b1d0f was slow""#,
            r#","of":["nightly"]"#,
            r#","value":[]"#,
            r#","@odata.context":1"#,
            r#","@odata.context":"c","@odata.context":"c","nightly":"NIGHTLY""#,
            r#","error":null"#,
        ] {
            assert_eq!(check(members), Err(SplitError::Shape), "{members}");
        }
        let long = format!(r#","x":"{}""#, "-".repeat(5000));
        assert_eq!(check(&long), Err(SplitError::Shape));
        let many = |count: usize| r#","x":0"#.repeat(count);
        assert_eq!(check(&many(100)), Ok(()));
        assert_eq!(check(&many(101)), Err(SplitError::Shape));
    }

    #[test]
    fn a_link_to_more_is_one_in_every_casing() {
        for name in [
            "@odata.nextLink",
            "@odata.nextlink",
            "odata.nextLink",
            "@nextLink",
            "NEXTLINK",
            "nextLin\\u006b",
        ] {
            assert_eq!(
                check(&format!(r#","{name}":"https://x""#)),
                Err(SplitError::NextLink),
                "{name}"
            );
        }
    }
}
