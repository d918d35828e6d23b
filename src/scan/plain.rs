//! Reads bodies as nearly all callers write them, in one pass and without looking at a byte twice.
//!
//! Not here: any judgement. A body that is not exactly of this form is left to [`body`](super::body), so that there is one place that
//! decides what is wrong with it. Invariant: what is read here is read in the same way there.

use crate::scan::ids::IdSet;

/// The ids of `{"ScanDefinitionIds":["…", …]}`, with ids of ASCII characters that need no escape; `None` for every other body.
pub(super) fn read_ids(body: &[u8]) -> Option<IdSet> {
    let mut rest = Rest(body);
    rest.token(b"{")?;
    rest.token(b"\"ScanDefinitionIds\"")?;
    rest.token(b":")?;
    rest.token(b"[")?;
    let mut ids = IdSet::with_room(body.len());
    loop {
        rest.token(b"\"")?;
        ids.push(rest.string()?).ok()?;
        if rest.token(b",").is_none() {
            break;
        }
    }
    rest.token(b"]")?;
    rest.token(b"}")?;
    rest.is_empty().then_some(ids)
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    /// Passes `token` and the white space in front of it (RFC 8259 §2).
    fn token(&mut self, token: &[u8]) -> Option<()> {
        let rest = self.0.strip_prefix(token).or_else(|| {
            self.skip_space();
            self.0.strip_prefix(token)
        });
        self.0 = rest?;
        Some(())
    }

    /// What is left of a string behind its opening quote, which ends here too.
    fn string(&mut self) -> Option<&'a str> {
        let plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
        let end = self.0.iter().position(|&byte| !plain(byte))?;
        let (string, rest) = self.0.split_at(end);
        self.0 = rest.strip_prefix(b"\"")?;
        std::str::from_utf8(string).ok()
    }

    fn is_empty(&mut self) -> bool {
        self.skip_space();
        self.0.is_empty()
    }

    fn skip_space(&mut self) {
        while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }
}
