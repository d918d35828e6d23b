//! Parses answers in the upstream's usual layout in one pass.
//!
//! It decides nothing: an answer that does not have exactly this form is left to
//! [`rows`](super::rows), so that only one module decides whether it can be split. Invariant: what
//! is accepted here is accepted there with the same result, and what is rejected here is rejected
//! there.

use std::ops::Range;

use memchr::{memchr, memchr2};

use crate::scan::id_class::Asked;
use crate::scan::row::is_timestamp;
use crate::scan::rows::Row;

/// The range between the brackets of `value`, and the rows in it.
pub(super) type Found = (Range<usize>, Vec<Row>);

/// Why parsing has ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The answer cannot be split, whatever follows: a row has an id that was not requested.
    Never,
    /// It is written in an unusual way.
    Unsure,
}

/// The deepest nesting of a row's members here.
const DEPTH: u8 = 8;

/// Parses the body of an answer to a request for these ids.
pub(super) fn walk(asked: &Asked<'_>, body: &[u8]) -> Result<Found, Stop> {
    let mut walker = Walker { asked, body, at: 0 };
    let found = walker.envelope()?;
    // Nothing inside strings has been checked.
    if is_text(body) { Ok(found) } else { Err(Stop::Unsure) }
}

/// Whether it is UTF-8, with control characters only between strings, where they were taken for
/// white space. Nearly all answers are ASCII without line breaks, which is checked for many bytes
/// at a time.
fn is_text(body: &[u8]) -> bool {
    let is_odd = |odd, byte: &u8| odd | (byte.cast_signed() < 0x20);
    if !body.iter().fold(false, is_odd) {
        return true;
    }
    let has_control = |text: &[u8]| text.iter().any(|byte| *byte < 0x20);
    std::str::from_utf8(body).is_ok() && (!has_control(body) || !strings(body).any(has_control))
}

/// The contents of strings without escapes: between each odd quote and the next.
fn strings(mut body: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let start = memchr(b'"', body)? + 1;
        let end = start + memchr(b'"', &body[start..])?;
        let string = &body[start..end];
        body = &body[end + 1..];
        Some(string)
    })
}

struct Walker<'a> {
    asked: &'a Asked<'a>,
    body: &'a [u8],
    at: usize,
}

impl Walker<'_> {
    fn envelope(&mut self) -> Result<Found, Stop> {
        let (mut found, mut context) = (None, false);
        self.mark(b'{')?;
        loop {
            self.skip_space();
            let name = self.name()?;
            match &self.body[name] {
                b"value" if found.is_none() => found = Some(self.rows()?),
                b"@odata.context" if !context => {
                    context = true;
                    self.string()?;
                }
                _ => return Err(Stop::Unsure),
            }
            if !self.goes_on(b'}')? {
                break;
            }
        }
        self.skip_space();
        match found {
            Some(found) if self.at == self.body.len() => Ok(found),
            _ => Err(Stop::Unsure),
        }
    }

    /// The rows, and the positions of the brackets around them.
    fn rows(&mut self) -> Result<Found, Stop> {
        self.pass(b'[')?;
        let begin = self.at;
        self.skip_space();
        let mut rows = Vec::with_capacity(4);
        if self.pass(b']').is_err() {
            loop {
                let before = rows.last().map(|row: &Row| row.id);
                rows.push(self.row(before)?);
                if !self.goes_on(b']')? {
                    break;
                }
                self.skip_space();
            }
        }
        Ok((begin..self.at - 1, rows))
    }

    /// A row; probably one more about the same id as the row before.
    fn row(&mut self, before: Option<usize>) -> Result<Row, Stop> {
        let start = self.at;
        let (mut id, mut time, mut times) = (None, None, 0);
        self.pass(b'{')?;
        loop {
            self.skip_space();
            let name = self.name()?;
            match &self.body[name] {
                name if self.asked.is_id_name(name) => {
                    let named = self.string()?;
                    let number = self.number_of(&self.body[named], id.or(before)).ok_or(Stop::Never)?;
                    if id.is_some_and(|id| id != number) {
                        return Err(Stop::Never);
                    }
                    id = Some(number);
                }
                b"LastScanned" => {
                    times += 1;
                    let text = self.at + 1;
                    self.value(DEPTH)?;
                    let text = text..(self.at - 1).max(text);
                    time = is_timestamp(&self.body[text.clone()]).then_some(text);
                }
                _ => self.value(DEPTH)?,
            }
            if !self.goes_on(b'}')? {
                break;
            }
        }
        Ok(Row {
            id: id.ok_or(Stop::Unsure)?,
            text: start..self.at,
            time: time.filter(|_| times == 1),
        })
    }

    /// The number of the requested id with this spelling; `guess` is likely.
    fn number_of(&self, raw: &[u8], guess: Option<usize>) -> Option<usize> {
        if let Some(guess) = guess
            && self.asked.ids[guess].as_bytes() == raw
        {
            return Some(guess);
        }
        let find = |id: &[u8]| self.asked.ids.binary_search_by(|asked| asked.as_bytes().cmp(id));
        // The requested ids are canonical, and so is what equals one.
        find(raw)
            .ok()
            .or_else(|| self.asked.find(std::str::from_utf8(raw).ok()?))
    }

    fn value(&mut self, depth: u8) -> Result<(), Stop> {
        match self.peek() {
            b'"' => self.string().map(drop),
            b'-' | b'0'..=b'9' => self.number(),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            b'[' if depth > 0 => self.list(b']', |walker| walker.value(depth - 1)),
            b'{' if depth > 0 => self.list(b'}', |walker| {
                walker.name()?;
                walker.value(depth - 1)
            }),
            _ => Err(Stop::Unsure),
        }
    }

    fn list(&mut self, end: u8, mut item: impl FnMut(&mut Self) -> Result<(), Stop>) -> Result<(), Stop> {
        self.at += 1;
        self.skip_space();
        if self.pass(end).is_ok() {
            return Ok(());
        }
        loop {
            self.skip_space();
            item(self)?;
            if !self.goes_on(end)? {
                return Ok(());
            }
        }
    }

    /// The name of a member, up to its value.
    fn name(&mut self) -> Result<Range<usize>, Stop> {
        let name = self.string()?;
        self.mark(b':')?;
        self.skip_space();
        Ok(name)
    }

    /// The content of a string without escapes.
    fn string(&mut self) -> Result<Range<usize>, Stop> {
        self.pass(b'"')?;
        let start = self.at;
        let bytes = memchr2(b'"', b'\\', &self.body[start..]).ok_or(Stop::Unsure)?;
        self.at = start + bytes;
        self.pass(b'"')?;
        Ok(start..start + bytes)
    }

    fn number(&mut self) -> Result<(), Stop> {
        let _ = self.pass(b'-');
        // No digit follows a leading zero.
        if self.pass(b'0').is_err() {
            self.digits()?;
        }
        if self.pass(b'.').is_ok() {
            self.digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Stop> {
        let start = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(Stop::Unsure) }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), Stop> {
        if !self.body[self.at..].starts_with(word) {
            return Err(Stop::Unsure);
        }
        self.at += word.len();
        Ok(())
    }

    /// Whether a comma follows, and not the end.
    fn goes_on(&mut self, end: u8) -> Result<bool, Stop> {
        self.skip_space();
        match self.peek() {
            b',' => {
                self.at += 1;
                Ok(true)
            }
            other if other == end => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(Stop::Unsure),
        }
    }

    /// Skips this character and the white space before it.
    fn mark(&mut self, mark: u8) -> Result<(), Stop> {
        self.skip_space();
        self.pass(mark)
    }

    fn pass(&mut self, mark: u8) -> Result<(), Stop> {
        if self.peek() != mark {
            return Err(Stop::Unsure);
        }
        self.at += 1;
        Ok(())
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    /// The next byte; 0, which is invalid here, at the end.
    fn peek(&self) -> u8 {
        self.body.get(self.at).copied().unwrap_or(0)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::scan::rows::read;
    use crate::scan::{Endpoint, Request, Rows, SplitError};
    use proptest::prelude::*;

    /// The two parsers agree: what the one finds the other finds, and what the one rejects the
    /// other rejects.
    pub(in crate::scan) fn agree(ids: &[&str], body: &[u8]) -> Result<(), TestCaseError> {
        let asked = Request::plain(Endpoint::HISTORY, ids.iter().copied()).unwrap();
        let asked = Asked::new(&asked);
        match walk(&asked, body) {
            Ok(found) => prop_assert_eq!(Ok(found), read(&asked, body)),
            Err(Stop::Never) => prop_assert!(read(&asked, body).is_err()),
            Err(Stop::Unsure) => {}
        }
        Ok(())
    }

    #[test]
    fn answers_as_the_upstream_writes_them_are_read_in_one_pass() {
        let row = |id: &str| {
            format!(
                r#"{{"orgId":"{id}","scanDefinitionId":"{id}","n":[1.5e-3, -0 ,{{ "x" : null}}],"ok":true,"LastScanned":"2026-03-01T04:05:06.1234567Z"}}"#
            )
        };
        let question = Request::plain(Endpoint::HISTORY, ["a", "b"]).unwrap();
        for rows in [vec![], vec!["a"], vec!["b", "a", "a", " A "]] {
            let rows: Vec<_> = rows.into_iter().map(row).collect();
            let body = format!(r#"{{"@odata.context": "https://x/é","value":[{}]}}"#, rows.join(","));
            let asked = Asked::new(&question);
            let found = walk(&asked, body.as_bytes());
            assert_eq!(found.as_ref().map(|(_, list)| list.len()), Ok(rows.len()), "{body}");
            assert_eq!(found.map_err(|_| SplitError::Shape), read(&asked, body.as_bytes()));
        }
        let body = format!(r#"{{"value":[{}]}}"#, row("c"));
        assert_eq!(walk(&Asked::new(&question), body.as_bytes()), Err(Stop::Never));
        assert!(Rows::certain(&Request::plain(Endpoint::HISTORY, ["a"]).unwrap(), &body.into()).is_none());
    }

    /// A JSON value as some upstream might write it.
    pub(in crate::scan) fn value() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("1e400".to_owned()),
            Just("-0.10".to_owned()),
            Just("12345678901234567890123".to_owned()),
            Just(r#""\u00e9\ud83d\ude00 ]},[{""#.to_owned()),
            any::<String>().prop_map(|text| serde_json::Value::from(text).to_string()),
        ];
        leaf.prop_recursive(4, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(|list| format!("[{}]", list.join(" , "))),
                proptest::collection::vec(inner, 0..4).prop_map(|list| {
                    let members: Vec<_> = list.iter().map(|value| format!("\"k\" :{value}")).collect();
                    format!("{{{}}}", members.join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn an_answer_with_a_mistake_is_read_in_the_same_way(
            values in proptest::collection::vec(value(), 1..4), at in any::<proptest::sample::Index>(),
            byte in prop_oneof![any::<u8>(), proptest::sample::select(&b"{}[],:\"\\ \n0e.-tz"[..])], cut in any::<bool>(),
        ) {
            let rows: Vec<_> = values.iter().map(|value| {
                format!(r#"{{"x":{value},"scanDefinitionId":"a","LastScanned":"2026-03-01T04:05:06.1234567Z"}}"#)
            }).collect();
            let mut body = format!(r#"{{"@odata.context":"c","value":[{}]}}"#, rows.join(",")).into_bytes();
            agree(&["a"], &body)?;
            let at = at.index(body.len());
            if cut {
                body.remove(at);
            } else {
                body[at] = byte;
            }
            agree(&["a"], &body)?;
        }
    }
}
