//! How much a store says, found out before the client library reads it.
//!
//! The library keeps an answer until it is complete, however long that is, goes as deep as a
//! hundred arrays in one another, and gives an answer that nobody asked for to the next one who
//! asks. This counts along: RESP's lengths and nothing else (what the values are is the library's
//! business), in constant memory.

use std::io;

/// Largest answer in bytes. Shared answers are at most an eighth of that, and the ledger's are far
/// smaller.
const LARGEST: usize = 8 << 20;

/// Most values in one answer: each takes the library some 60 bytes, of three on the wire.
const MOST_VALUES: usize = 1 << 16;

/// How deep values may be nested. The gateway's commands are answered two deep at most.
const DEEPEST: usize = 8;

/// Longest line: an error, or a simple string.
const LONGEST_LINE: usize = 64 << 10;

/// Longest line with a number of bytes or values: what 64 bits hold, and some spaces.
const LONGEST_NUMBER: usize = 24;

/// What is wrong with what a store says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Excess {
    #[error("the store began an answer of more than {LARGEST} bytes")]
    Large,
    #[error("the store began an answer of more than {MOST_VALUES} values")]
    Values,
    #[error("the store began an answer of more than {DEEPEST} arrays in one another")]
    Deep,
    #[error("the store began a line of more than {LONGEST_LINE} bytes")]
    Line,
    #[error("the store speaks no RESP")]
    Strange,
    #[error("the store gave an answer that nobody asked for")]
    Unasked,
    #[error("the store sends messages faster than they can be taken")]
    Fast,
}

impl From<Excess> for io::Error {
    fn from(excess: Excess) -> Self {
        Self::new(io::ErrorKind::InvalidData, excess)
    }
}

/// Counts complete answers in a stream of bytes, or complete commands: both are written alike.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// The line under way: its kind, and what follows as far as a number can go.
    line: Vec<u8>,
    /// How long that line is by now, and whether the next byte may end it.
    length: usize,
    ends: bool,
    /// How many bytes of a string are still to come, and of its line end.
    bulk: usize,
    /// For each array that has begun, how many of its values are still to come.
    open: Vec<usize>,
    bytes: usize,
    values: usize,
    /// What the outermost value is.
    kind: u8,
    /// How many of those that are complete nobody asked for, and need not.
    pushes: usize,
}

impl Meter {
    /// Takes further bytes; how many answers they complete.
    ///
    /// # Errors
    /// [`Excess`]; then nothing more can be made of the stream.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<usize, Excess> {
        let mut complete = 0;
        while let Some(first) = bytes.first() {
            let (taken, is_value) = if self.bulk > 0 {
                let taken = bytes.len().min(self.bulk);
                self.bulk -= taken;
                (taken, self.bulk == 0)
            } else {
                (1, self.take(*first)? && self.line_ends()?)
            };
            bytes = &bytes[taken..];
            self.grow(taken, 0)?;
            if is_value && self.value_ends() {
                complete += 1;
            }
        }
        Ok(complete)
    }

    /// How many of the answers were messages that come by themselves, since this was asked last.
    pub(super) fn take_pushes(&mut self) -> usize {
        std::mem::take(&mut self.pushes)
    }

    /// Takes a byte of a line; whether the line ends with it.
    fn take(&mut self, byte: u8) -> Result<bool, Excess> {
        if self.length == 0 {
            if !b"+-:_,#($!=*~>%|".contains(&byte) {
                return Err(Excess::Strange);
            }
            if self.open.is_empty() {
                self.kind = byte;
            }
            self.line.clear();
        }
        if self.ends && byte == b'\n' {
            (self.length, self.ends) = (0, false);
            return Ok(true);
        }
        self.ends = byte == b'\r';
        if self.line.len() <= LONGEST_NUMBER {
            self.line.push(byte);
        }
        self.length += 1;
        if self.length > LONGEST_LINE {
            return Err(Excess::Line);
        }
        Ok(false)
    }

    /// Whether a value ends with its first line.
    fn line_ends(&mut self) -> Result<bool, Excess> {
        let kind = self.line[0];
        let per_entry = match kind {
            b'$' | b'!' | b'=' => {
                let Some(length) = self.number()? else { return Ok(true) };
                // With the line end. Announced is as good as said: nobody has to wait for it.
                self.bulk = length.checked_add(2).ok_or(Excess::Large)?;
                self.grow(0, self.bulk)?;
                return Ok(false);
            }
            b'*' | b'~' | b'>' => 1,
            b'%' | b'|' => 2,
            _ => return Ok(true),
        };
        // Attributes stand before the value that they are about, which the library counts to them.
        let about = usize::from(kind == b'|');
        let Some(entries) = self.number()? else { return Ok(true) };
        let values = entries
            .checked_mul(per_entry)
            .and_then(|values| values.checked_add(about));
        let values = values.ok_or(Excess::Values)?;
        self.values = self.values.saturating_add(values);
        if self.values > MOST_VALUES {
            return Err(Excess::Values);
        }
        if values == 0 {
            return Ok(true);
        }
        if self.open.len() == DEEPEST {
            return Err(Excess::Deep);
        }
        self.open.push(values);
        Ok(false)
    }

    /// The number on the line that has ended; `None` for a value that is absent.
    fn number(&self) -> Result<Option<usize>, Excess> {
        if self.line.len() > LONGEST_NUMBER {
            return Err(Excess::Strange);
        }
        let text = str::from_utf8(&self.line[1..]).map_err(|_| Excess::Strange)?;
        match text.trim().parse::<i64>().map_err(|_| Excess::Strange)? {
            -1 => Ok(None),
            number => usize::try_from(number).map(Some).map_err(|_| Excess::Strange),
        }
    }

    /// Whether the whole answer ends with the value that just did.
    fn value_ends(&mut self) -> bool {
        while let Some(left) = self.open.last_mut() {
            *left -= 1;
            if *left > 0 {
                return false;
            }
            self.open.pop();
        }
        (self.bytes, self.values) = (0, 0);
        self.pushes += usize::from(self.kind == b'>');
        true
    }

    fn grow(&mut self, said: usize, announced: usize) -> Result<(), Excess> {
        self.bytes += said;
        if self.bytes.saturating_add(announced) > LARGEST {
            return Err(Excess::Large);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn count(text: &str) -> Result<usize, Excess> {
        Meter::default().feed(text.as_bytes())
    }

    #[test]
    fn answers_of_every_kind_are_counted() {
        for (text, answers) in [
            ("+OK\r\n", 1),
            ("-ERR no\r\n:1\r\n", 2),
            ("$2\r\n\r\n\r\n", 1),
            ("$-1\r\n*-1\r\n*0\r\n$0\r\n\r\n", 4),
            ("*2\r\n$1\r\na\r\n*1\r\n:1\r\n+\r\n", 2),
            ("%1\r\n+a\r\n+b\r\n~1\r\n_\r\n>1\r\n#t\r\n", 3),
            ("|1\r\n+a\r\n+b\r\n:7\r\n", 1),
            ("=5\r\ntxt:a\r\n(12\r\n,1.5\r\n!1\r\nx\r\n", 4),
            ("+a\rb\r\r\n", 1),
            ("+OK\r", 0),
            ("*1\r\n", 0),
            ("$3\r\nab", 0),
        ] {
            assert_eq!(count(text), Ok(answers), "{text:?}");
        }
    }

    #[test]
    fn what_is_too_much_is_known_from_its_announcement() {
        for (text, excess) in [
            ("$999999999999\r\n", Excess::Large),
            ("$9223372036854775807\r\n", Excess::Large),
            ("*999999999\r\n", Excess::Values),
            ("%4611686018427387904\r\n", Excess::Values),
            ("%9223372036854775807\r\n", Excess::Values),
            ("*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", Excess::Deep),
            ("$-2\r\n", Excess::Strange),
            ("$1x\r\n", Excess::Strange),
            ("$\r\n", Excess::Strange),
            ("$99999999999999999999999999\r\n", Excess::Strange),
            ("HTTP/1.1 400 Bad Request\r\n", Excess::Strange),
        ] {
            assert_eq!(count(text), Err(excess), "{text:.40}");
        }
        assert_eq!(count(&format!("+{}", "x".repeat(LONGEST_LINE + 1))), Err(Excess::Line));
        let large = format!(
            "*3\r\n{}",
            format!("$4000000\r\n{}\r\n", "x".repeat(4_000_000)).repeat(3)
        );
        assert_eq!(count(&large), Err(Excess::Large), "several that are too large together");
        let many = format!("*2\r\n*40000\r\n{}*40000\r\n", ":1\r\n".repeat(40_000));
        assert_eq!(count(&many), Err(Excess::Values));
    }

    proptest! {
        /// However the bytes arrive, the same is made of them, and nothing panics.
        #[test]
        fn where_reads_end_does_not_matter(text in "[-+:$*%|~>=!a0-9\r\n]{0,60}", cuts in proptest::collection::vec(0_usize..60, 0..6)) {
            let whole = count(&text);
            let mut cuts: Vec<_> = cuts.into_iter().map(|at| at.min(text.len())).collect();
            cuts.sort_unstable();
            cuts.push(text.len());
            let (mut meter, mut from, mut answers) = (Meter::default(), 0, Ok(0));
            for to in cuts {
                let fed = meter.feed(&text.as_bytes()[from..to]);
                answers = answers.and_then(|before| fed.map(|more| before + more));
                from = to;
            }
            prop_assert_eq!(answers, whole);
        }
    }
}
