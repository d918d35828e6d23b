//! Reads bodies as nearly all callers write them, in one pass and without looking at a byte twice.
//!
//! Not here: any judgement. A body that is not exactly of this form is left to [`body`](super::body), so that there is one place that
//! decides what is wrong with it. Invariant: what is read here is read in the same way there.

use crate::scan::ids::IdSet;

/// The ids of `{"ScanDefinitionIds":["…", …]}`, if none needs an escape; `None` for every other body.
pub(super) fn read_ids(body: &[u8]) -> Option<IdSet> {
    let mut rest = Rest(std::str::from_utf8(body).ok()?);
    rest.token("{")?;
    rest.token("\"ScanDefinitionIds\"")?;
    rest.token(":")?;
    rest.token("[")?;
    let mut ids = IdSet::with_room(body.len());
    loop {
        rest.token("\"")?;
        ids.push(rest.string()?).ok()?;
        if rest.token(",").is_none() {
            break;
        }
    }
    rest.token("]")?;
    rest.token("}")?;
    rest.is_empty().then_some(ids)
}

/// What has not been read yet.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    /// Passes `token` and the white space in front of it (RFC 8259 §2).
    fn token(&mut self, token: &str) -> Option<()> {
        let rest = self.0.strip_prefix(token).or_else(|| {
            self.skip_space();
            self.0.strip_prefix(token)
        });
        self.0 = rest?;
        Some(())
    }

    /// What is left of a string behind its opening quote; passes the closing one.
    fn string(&mut self) -> Option<&'a str> {
        let end = memchr::memchr(b'"', self.0.as_bytes())?;
        let (string, rest) = self.0.split_at(end);
        // Without branches, so that many bytes are looked at at once.
        let odd = |byte: u8| u8::from(byte == b'\\') | u8::from(byte < b' ');
        let odd = string.bytes().fold(0, |any, byte| any | odd(byte));
        self.0 = rest.strip_prefix('"')?;
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
