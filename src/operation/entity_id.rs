//! The id of an entity, as it stands in a path.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The id of an entity that a path names, decoded and checked.
///
/// What is certain: written into a path, it is one segment that every server reads in the same way,
/// and it is not the name of an action.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EntityId(Box<str>);

impl EntityId {
    /// Longest id, in bytes. The upstream's have up to 77.
    pub const MAX_BYTES: usize = 256;

    /// Reads a segment of a path; `None` when it is no id that could be asked for.
    ///
    /// Refused are separators of any kind, a second coding (`%25`), dots alone, space at an end,
    /// and letters alone: names of actions, such as `BatchDelete`, consist of letters, and every id
    /// of the upstream has a digit.
    pub fn read(segment: &str) -> Option<Self> {
        let id = decoded(segment)?;
        let is_forbidden =
            |c: char| c.is_control() || matches!(c, '/' | '\\' | ';' | '%' | '?' | '#' | '(' | ')' | '\'' | '"');
        let has_digit = id.bytes().any(|byte| byte.is_ascii_digit());
        let is_good = has_digit
            && id.len() <= Self::MAX_BYTES
            && id.trim() == id
            && !id.starts_with('$')
            && !id.contains(is_forbidden);
        is_good.then(|| Self(canonical(&id)))
    }

    /// The id itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An id that a canonical request holds.
    pub(crate) fn of_canonical(id: &str) -> Self {
        Self(id.into())
    }

    /// The id as a segment of a path: all but unreserved characters are encoded (RFC 3986 §2.3).
    pub fn encoded(&self) -> Cow<'_, str> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        if self.0.bytes().all(is_plain) {
            return Cow::Borrowed(&self.0);
        }
        let encode = |mut text: String, byte: u8| {
            if is_plain(byte) {
                text.push(char::from(byte));
            } else {
                // Writing to a string cannot fail.
                let _ = write!(text, "%{byte:02X}");
            }
            text
        };
        Cow::Owned(self.0.bytes().fold(String::new(), encode))
    }
}

/// GUIDs in lower case, as ids in bodies are; everything else as it is.
fn canonical(id: &str) -> Box<str> {
    let is_guid = id.len() == 36
        && id.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    if is_guid {
        id.to_ascii_lowercase().into()
    } else {
        id.into()
    }
}

/// A segment without its escapes (RFC 3986 §2.1); `None` when one is cut off, or the result is no
/// text.
fn decoded(segment: &str) -> Option<Cow<'_, str>> {
    if !segment.contains('%') {
        return Some(Cow::Borrowed(segment));
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let [high, low, after @ ..] = rest else { return None };
        bytes.push(digit(*high)? << 4 | digit(*low)?);
        rest = after;
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}
