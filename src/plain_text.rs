//! Reads text files as editors and shells leave them: with a byte order mark, in UTF-16, with a
//! NUL, with white space at the end.
//!
//! A byte order mark is dropped, because it is never meant. Everything else is left as it is or
//! rejected, with the position of what is wrong. No message quotes the content, which may be
//! secret.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr_iter;

/// UTF-8's byte order mark.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// A position in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

impl Position {
    /// The position of the byte at `at` in `text`, whose byte order mark has been dropped.
    fn of(text: &[u8], at: usize) -> Self {
        let before = &text[..at.min(text.len())];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        // Every byte except those that continue a character.
        let characters = before[line_start..].iter().filter(|byte| **byte & 0xc0 != 0x80);
        Self {
            line: memchr_iter(b'\n', before).count() + 1,
            column: characters.count() + 1,
        }
    }
}

/// Why bytes are no valid text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// There are no characters but white space.
    #[error("it is empty")]
    Empty,
    /// Every other byte is zero, or the byte order mark says so.
    #[error("it is not UTF-8 but UTF-16 text, as Windows PowerShell writes it; save it as UTF-8")]
    Utf16,
    /// A zero byte.
    #[error("it holds a NUL byte at {0}")]
    Nul(Position),
    /// No UTF-8.
    #[error("it is not UTF-8 text: {0} holds another byte")]
    NotUtf8(Position),
    /// More than one line.
    #[error("it should hold one line of text, but another begins at {0}")]
    Lines(Position),
    /// A control character other than a line break.
    #[error("it holds the control character U+{code:04X} at {at}")]
    Control {
        /// Its Unicode code point.
        code: u32,
        /// Its position.
        at: Position,
    },
}

/// Something unusual in a line that can still be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oddity {
    /// It begins with a byte order mark.
    Mark,
    /// It begins or ends with white space.
    Blank(Position),
    /// It contains a character outside ASCII.
    Foreign {
        /// Its Unicode code point.
        code: u32,
        /// Its position.
        at: Position,
    },
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mark => f.write_str("it begins with a byte order mark, which is left out"),
            Self::Blank(at) => write!(f, "it holds white space at {at}, which is taken as a part of it"),
            Self::Foreign { code, at } => write!(f, "it holds the character U+{code:04X} at {at}"),
        }
    }
}

/// The bytes without a byte order mark at their start.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(MARK).unwrap_or(bytes)
}

/// The one line of text in `bytes`, without the line breaks that editors and `echo` leave at its
/// end.
///
/// # Errors
///
/// What makes it unusable, and where.
pub fn line(bytes: &[u8]) -> Result<&str, Malformed> {
    let bytes = single_byte(bytes)?;
    let text =
        std::str::from_utf8(bytes).map_err(|error| Malformed::NotUtf8(Position::of(bytes, error.valid_up_to())))?;
    let line = text.trim_end_matches(['\r', '\n']);
    if line.trim().is_empty() {
        return Err(Malformed::Empty);
    }
    match line.char_indices().find(|(_, c)| c.is_control()) {
        None => Ok(line),
        Some((at, '\r' | '\n')) => {
            let rest = line[at..].trim_start_matches(['\r', '\n']);
            Err(Malformed::Lines(Position::of(bytes, line.len() - rest.len())))
        }
        Some((at, c)) => Err(Malformed::Control {
            code: c.into(),
            at: Position::of(bytes, at),
        }),
    }
}

/// What is unusual in a one-line file that [`line()`] accepts: people may not see the difference to
/// the text that was meant.
pub fn oddities(bytes: &[u8]) -> Vec<Oddity> {
    let Ok(line) = line(bytes) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    if bytes.starts_with(MARK) {
        found.push(Oddity::Mark);
    }
    let at = |index| Position::of(line.as_bytes(), index);
    let trimmed = line.trim_start();
    if trimmed.len() < line.len() {
        found.push(Oddity::Blank(at(0)));
    }
    let end = line.trim_end().len();
    if end < line.len() {
        found.push(Oddity::Blank(at(end)));
    }
    if let Some((index, c)) = line.char_indices().find(|(_, c)| !c.is_ascii() && !c.is_whitespace()) {
        found.push(Oddity::Foreign {
            code: c.into(),
            at: at(index),
        });
    }
    found
}

/// PEM text without byte order marks, also inside, where files that begin with one were
/// concatenated.
///
/// # Errors
///
/// When it is UTF-16 or contains a NUL.
pub fn pem(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Malformed> {
    let bytes = single_byte(bytes)?;
    if !bytes.windows(MARK.len()).any(|window| window == MARK) {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut plain = Vec::with_capacity(bytes.len());
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        plain.extend_from_slice(without_mark(line));
    }
    Ok(Cow::Owned(plain))
}

/// The bytes without byte order mark, if they are not UTF-16.
fn single_byte(bytes: &[u8]) -> Result<&[u8], Malformed> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(Malformed::Utf16);
    }
    let bytes = without_mark(bytes);
    let Some(first) = bytes.iter().position(|byte| *byte == 0) else {
        return Ok(bytes);
    };
    // Nearly all characters of such a file are ASCII, so in UTF-16 every other byte is zero.
    let zeros = memchr_iter(0, bytes).count();
    let utf16 = bytes.len() >= 4 && bytes.len().is_multiple_of(2) && first < 2 && zeros * 4 >= bytes.len();
    Err(if utf16 {
        Malformed::Utf16
    } else {
        Malformed::Nul(Position::of(bytes, first))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize, column: usize) -> Position {
        Position { line, column }
    }

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    #[test]
    fn only_the_mark_and_the_line_break_at_the_end_are_dropped() {
        assert_eq!(line(b"abc~.Q\n"), Ok("abc~.Q"));
        assert_eq!(line(b"abc \r\n"), Ok("abc "));
        assert_eq!(line(b"\xef\xbb\xbfabc\r\n\r\n"), Ok("abc"));
        assert_eq!(line("g\u{fc}nstig".as_bytes()), Ok("g\u{fc}nstig"));
    }

    #[test]
    fn what_cannot_be_used_is_named_with_its_place() {
        for (bytes, expected) in [
            (&b""[..], Malformed::Empty),
            (b"\n", Malformed::Empty),
            (b"\xef\xbb\xbf \r\n", Malformed::Empty),
            (b"\xff\xfes\0", Malformed::Utf16),
            (b"\xfe\xff\0s", Malformed::Utf16),
            (b"ab\0c", Malformed::Nul(at(1, 3))),
            (b"abcdef\n\0", Malformed::Nul(at(2, 1))),
            (b"ab\xffc", Malformed::NotUtf8(at(1, 3))),
            (b"a\nb", Malformed::Lines(at(2, 1))),
            (b"a\r\n\r\nb\n", Malformed::Lines(at(3, 1))),
            ("\u{fc}\tb".as_bytes(), Malformed::Control { code: 9, at: at(1, 2) }),
        ] {
            assert_eq!(line(bytes), Err(expected), "{bytes:?}");
        }
        for bytes in [u16::to_le_bytes, u16::to_be_bytes] {
            assert_eq!(line(&utf16("secret\n", bytes)), Err(Malformed::Utf16));
            assert_eq!(pem(&utf16("\u{feff}-----BEGIN", bytes)), Err(Malformed::Utf16));
        }
        assert_eq!(
            Malformed::Nul(at(1, 3)).to_string(),
            "it holds a NUL byte at line 1, column 3"
        );
    }

    #[test]
    fn what_can_be_used_but_is_odd_is_named_with_its_place() {
        assert_eq!(oddities(b"abc~.Q\r\n"), []);
        assert_eq!(
            oddities("\u{feff} ab\u{200b}c \t".as_bytes()),
            [],
            "a control character makes it unusable"
        );
        assert_eq!(
            oddities("\u{feff} ab\u{200b}c  \n".as_bytes()),
            [
                Oddity::Mark,
                Oddity::Blank(at(1, 1)),
                Oddity::Blank(at(1, 6)),
                Oddity::Foreign {
                    code: 0x200b,
                    at: at(1, 4)
                },
            ]
        );
    }

    #[test]
    fn marks_are_dropped_from_pem_wherever_a_file_began() {
        assert_eq!(&*pem(b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n").unwrap(), b"one\ntwo\n");
        assert!(matches!(pem(b"one\n"), Ok(Cow::Borrowed(_))));
        assert_eq!(pem(b"one\0"), Err(Malformed::Nul(at(1, 4))));
    }
}
