//! Reads bodies as nearly all callers write them, in one pass and without looking at a byte twice.
//!
//! Not here: any judgement. A body that is not exactly of this form is left to [`body`](super::body), so that there is one place that
//! decides what is wrong with it. Invariant: what is read here is read in the same way there.

use crate::scan::ids::IdSet;

/// The ids of `{"ScanDefinitionIds":["…", …]}`, if none needs an escape; `None` for every other body.
pub(super) fn read_ids(body: &[u8]) -> Option<IdSet> {
    let mut rest = Rest(std::str::from_utf8(body).ok()?);
    rest.mark(b'{')?;
    rest.mark(b'"')?;
    rest.pass("ScanDefinitionIds\"")?;
    rest.mark(b':')?;
    rest.mark(b'[')?;
    let mut ids = IdSet::with_room(body.len());
    loop {
        rest.mark(b'"')?;
        ids.push(rest.string()?).ok()?;
        if rest.mark(b',').is_none() {
            break;
        }
    }
    rest.mark(b']')?;
    rest.mark(b'}')?;
    rest.is_empty().then_some(ids)
}

/// What has not been read yet.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    /// Passes one ASCII character and the white space in front of it (RFC 8259 §2).
    fn mark(&mut self, mark: u8) -> Option<()> {
        if self.0.as_bytes().first() != Some(&mark) {
            self.skip_space();
        }
        (self.0.as_bytes().first() == Some(&mark)).then(|| self.0 = &self.0[1..])
    }

    fn pass(&mut self, text: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    /// What is left of a string behind its opening quote; passes the closing one.
    fn string(&mut self) -> Option<&'a str> {
        let end = memchr::memchr(b'"', self.0.as_bytes())?;
        let (string, rest) = self.0.split_at(end);
        // Without branches, so that many bytes are looked at at once.
        let odd = |byte: u8| u8::from(byte == b'\\') | u8::from(byte < b' ');
        let odd = string.bytes().fold(0, |any, byte| any | odd(byte));
        self.0 = &rest[1..];
        (odd == 0).then_some(string)
    }

    fn is_empty(&mut self) -> bool {
        self.skip_space();
        self.0.is_empty()
    }

    fn skip_space(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t', '\n', '\r']);
    }
}
