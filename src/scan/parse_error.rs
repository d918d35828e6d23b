//! Why a request is invalid, which is always the caller's mistake.

use std::fmt;

use crate::scan::{Options, Request};

/// Why a request is invalid. The text is for the caller; variants about a body contain the name of
/// its one member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The body has no bytes.
    #[error("the body is empty; send {{\"{0}\": [\"…\"]}}")]
    Empty(&'static str),
    /// The operation takes no body.
    #[error("this operation takes no body")]
    Body,
    /// JSON text must not begin with U+FEFF (RFC 8259 §8.1).
    #[error("the body starts with a byte order mark, which JSON does not allow")]
    ByteOrderMark,
    /// JSON text must be UTF-8 (RFC 8259 §8.1).
    #[error("the body is not UTF-8 from byte {valid_bytes} on")]
    NotUtf8 {
        /// The number of valid bytes.
        valid_bytes: usize,
    },
    /// The body is no JSON.
    #[error("the body is not JSON: {reason}")]
    NotJson {
        /// The parser's message, with line and column.
        reason: String,
    },
    /// The body is JSON, but not an object.
    #[error("the body must be a JSON object with the member {0}")]
    NotObject(&'static str),
    /// The object lacks the one member.
    #[error("the body has no member {0} (names are case-sensitive)")]
    NoMember(&'static str),
    /// The object has another member, most likely a misspelt one.
    #[error("the body has an unknown member {0}; the only one is {1} (names are case-sensitive)")]
    UnknownMember(Excerpt, &'static str),
    /// The member is there twice, and it is unknown which one is meant.
    #[error("the member {0} appears more than once")]
    DoubleMember(&'static str),
    /// The member is neither an array of strings nor a string.
    #[error("{0} must be an array of strings, or one string")]
    NotStrings(&'static str),
    /// The array is empty.
    #[error("{0} names no id")]
    NoIds(&'static str),
    /// An id is empty or consists of white space.
    #[error("{0} contains an empty id")]
    EmptyId(&'static str),
    /// An id is longer than any real one.
    #[error("{member} contains an id of {bytes} bytes; the limit is {}", Request::MAX_ID_BYTES)]
    LongId {
        /// The member.
        member: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// More ids than one request may have.
    #[error("{0} names more than {max} ids", max = Request::MAX_IDS)]
    TooManyIds(&'static str),
    /// `$top` is not a number in its range.
    #[error("$top must be a whole number from 1 to {}", Options::MAX_TOP)]
    Top,
    /// `$skip` is not a number in its range.
    #[error("$skip must be a whole number from 0 to {}", Options::MAX_SKIP)]
    Skip,
    /// An option is there twice, and it is unknown which one is meant.
    #[error("the query option {0} appears more than once")]
    DoubleOption(&'static str),
    /// A query option about credentials.
    #[error("the query option {0} must not be about scanAuthenticationParams, which may hold credentials")]
    SecretOption(Excerpt),
    /// A query option that the upstream does not document for this operation.
    #[error("the query option {0} is not supported; only $top and $skip are")]
    UnknownOption(Excerpt),
}

impl ParseError {
    /// Whether the query is wrong and not the body, for which Defender has different error codes.
    pub fn is_about_options(&self) -> bool {
        matches!(
            self,
            Self::Top | Self::Skip | Self::DoubleOption(_) | Self::UnknownOption(_) | Self::SecretOption(_)
        )
    }

    /// Defender's `error.target`: the part of the request that is wrong; `None` when it is the body
    /// as a whole.
    pub fn target(&self) -> Option<&str> {
        match self {
            Self::Top => Some("$top"),
            Self::Skip => Some("$skip"),
            Self::DoubleOption(name) => Some(name),
            Self::UnknownOption(name) | Self::SecretOption(name) | Self::UnknownMember(name, _) => Some(name.as_str()),
            Self::NoMember(member)
            | Self::DoubleMember(member)
            | Self::NotStrings(member)
            | Self::NoIds(member)
            | Self::EmptyId(member)
            | Self::LongId { member, .. }
            | Self::TooManyIds(member) => Some(member),
            Self::Empty(_)
            | Self::Body
            | Self::ByteOrderMark
            | Self::NotUtf8 { .. }
            | Self::NotJson { .. }
            | Self::NotObject(_) => None,
        }
    }
}

/// The beginning of a text from the caller, short and printable, to be shown to the caller and
/// logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt(String);

impl Excerpt {
    /// The most characters.
    pub const MAX_CHARS: usize = 64;

    /// The first characters of `text`; control characters become U+FFFD.
    pub fn new(text: &str) -> Self {
        let mut kept: String = text
            .chars()
            .take(Self::MAX_CHARS)
            .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
            .collect();
        if kept.len() < text.len() && text.chars().nth(Self::MAX_CHARS).is_some() {
            kept.push('…');
        }
        Self(kept)
    }

    /// The excerpt as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_short_and_printable() {
        assert_eq!(Excerpt::new("a\r\nb").as_str(), "a\u{fffd}\u{fffd}b");
        assert_eq!(Excerpt::new(&"é".repeat(64)).as_str(), "é".repeat(64));
        assert_eq!(Excerpt::new(&"é".repeat(65)).as_str(), "é".repeat(64) + "…");
    }

    #[test]
    fn messages_name_the_limits() {
        assert_eq!(
            ParseError::Top.to_string(),
            "$top must be a whole number from 1 to 10000"
        );
        assert!(ParseError::Top.is_about_options());
        assert_eq!(
            ParseError::TooManyIds("ScanDefinitionIds").to_string(),
            "ScanDefinitionIds names more than 10000 ids"
        );
        assert!(!ParseError::TooManyIds("ScanDefinitionIds").is_about_options());
        assert_eq!(
            ParseError::UnknownMember(Excerpt::new("scanDefinitionIds"), "ScanDefinitionIds").target(),
            Some("scanDefinitionIds")
        );
    }
}
