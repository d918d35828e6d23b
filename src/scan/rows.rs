//! Splits an answer by id, without changing a byte of any row.
//!
//! However the upstream lays out its rows, on one line or on many, an answer made from them has the
//! same layout: each row keeps its bytes and the space before it.

use std::ops::Range;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::scan::envelope::Envelope;
use crate::scan::id_class::Asked;
use crate::scan::response_kind::without_mark;
use crate::scan::row::row_info;
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
    pub fn envelope(&self) -> (&[u8], &[u8]) {
        (&self.body[..self.inside.start], &self.body[self.inside.end..])
    }

    /// The layout of the rows; `None` when there are none.
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
