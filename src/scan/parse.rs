//! Reads the ids from a body without building a tree; and says why a request is invalid, which is
//! always the caller's mistake.
//!
//! A body in the usual form is read in one pass, every byte once; serde reads all others.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use crate::scan::ids::{Guid, IdSet};
use crate::scan::key::KeyPrefix;
use crate::scan::members::Text;
use crate::scan::{Options, Request};
use crate::telemetry::log::steers;

/// Reads `{"<member>": [string, …]}`, or one string in place of the array, for a key that begins
/// with `head`.
pub(super) fn read_ids(head: &KeyPrefix, body: &[u8]) -> Result<IdSet, ParseError> {
    if body.is_empty() {
        return Err(ParseError::Empty(head.member()));
    }
    if let Some(ids) = read_usual(head, body) {
        return ids.canonical();
    }
    let text = std::str::from_utf8(body).map_err(|error| ParseError::NotUtf8 {
        valid_bytes: error.valid_up_to(),
    })?;
    // Parsers may ignore a byte order mark (RFC 8259 §8.1), and files from Windows begin with one.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reading = Reading::new(head, text.len());
    let mut json = serde_json::Deserializer::from_str(text);
    match reading.deserialize(&mut json).and_then(|()| json.end()) {
        Ok(()) => reading.ids.canonical(),
        Err(error) => Err(reading.fault.unwrap_or_else(|| match error.classify() {
            Category::Data => reading.wrong_type,
            Category::Syntax | Category::Eof | Category::Io => ParseError::NotJson {
                reason: error.to_string(),
            },
        })),
    }
}

/// The state of the parser.
struct Reading {
    ids: IdSet,
    /// The one member of the body.
    member: &'static str,
    /// The error for a value of the wrong type at the current position.
    wrong_type: ParseError,
    /// An error of this module. It is kept here because serde's errors are text.
    fault: Option<ParseError>,
}

impl Reading {
    fn new(head: &KeyPrefix, body_bytes: usize) -> Self {
        Self {
            ids: IdSet::with_room(head, body_bytes),
            member: head.member(),
            wrong_type: ParseError::NotObject(head.member()),
            fault: None,
        }
    }

    fn fail<E: serde::de::Error>(&mut self, fault: ParseError) -> E {
        self.fault = Some(fault);
        E::custom("refused")
    }

    fn push<E: serde::de::Error>(&mut self, id: &str) -> Result<(), E> {
        self.ids.push(id).map_err(|fault| self.fail(fault))
    }

    fn deserialize<'de, D: Deserializer<'de>>(&mut self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(Object(self))
    }
}

/// The whole body.
struct Object<'r>(&'r mut Reading);

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let member = self.0.member;
        let mut seen = false;
        while let Some(Text(name)) = map.next_key::<Text<'de>>()? {
            if name != member {
                return Err(self.0.fail(ParseError::UnknownMember(Excerpt::new(&name), member)));
            }
            if seen {
                return Err(self.0.fail(ParseError::DoubleMember(member)));
            }
            seen = true;
            self.0.wrong_type = ParseError::NotStrings(member);
            map.next_value_seed(List(&mut *self.0))?;
        }
        if !seen {
            return Err(self.0.fail(ParseError::NoMember(member)));
        }
        Ok(())
    }
}

/// The member's value: an array of strings, or a string.
struct List<'r>(&'r mut Reading);

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of strings")
    }

    fn visit_str<E: serde::de::Error>(self, id: &str) -> Result<(), E> {
        self.0.push(id)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(Text(id)) = list.next_element::<Text<'de>>()? {
            self.0.push(&id)?;
        }
        Ok(())
    }
}

/// The ids of `{"<member>":["…", …]}`, if none contains an escape; `None` for every other body.
///
/// It decides nothing: a body that does not have exactly this form is left to [`Reading`], so that
/// only that decides what is wrong with it. Invariant: what is accepted here is accepted there with
/// the same result. Measured: without it, a hit for three ids takes 1,480 instructions more, a
/// sixth of the whole.
fn read_usual(head: &KeyPrefix, body: &[u8]) -> Option<IdSet> {
    let mut rest = Rest(body);
    rest.mark(b'{')?;
    rest.mark(b'"')?;
    rest.pass(head.member())?;
    rest.pass("\"")?;
    rest.mark(b':')?;
    rest.mark(b'[')?;
    let mut ids = IdSet::with_room(head, body.len());
    loop {
        rest.mark(b'"')?;
        match rest.guid() {
            Some(guid) => ids.push_guid(&guid).ok()?,
            None => ids.push(rest.string()?).ok()?,
        }
        if rest.mark(b',').is_none() {
            break;
        }
    }
    rest.mark(b']')?;
    rest.mark(b'}')?;
    rest.is_empty().then_some(ids)
}

/// The bytes that have not been read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    /// Skips one ASCII character and the white space before it (RFC 8259 §2).
    #[inline]
    fn mark(&mut self, mark: u8) -> Option<()> {
        self.0 = match self.0 {
            [first, rest @ ..] if *first == mark => rest,
            [b' ', first, rest @ ..] if *first == mark => rest,
            _ => {
                self.skip_space();
                self.0.strip_prefix(&[mark])?
            }
        };
        Some(())
    }

    fn pass(&mut self, text: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(text.as_bytes())?;
        Some(())
    }

    /// A string that is a GUID, as nearly all are, after its opening quote; skips the closing one.
    /// Otherwise skips nothing.
    fn guid(&mut self) -> Option<Guid> {
        let (text, rest) = self.0.split_at_checked(Guid::BYTES)?;
        let [b'"', rest @ ..] = rest else {
            return None;
        };
        let guid = Guid::read(text)?;
        self.0 = rest;
        Some(guid)
    }

    /// The rest of a string after its opening quote; skips the closing one.
    fn string(&mut self) -> Option<&'a str> {
        let end = memchr::memchr(b'"', self.0)?;
        let (string, rest) = self.0.split_at(end);
        // Without branches, so that many bytes are compared at a time.
        let odd = |byte: u8| u8::from(byte == b'\\') | u8::from(byte < b' ');
        let odd = string.iter().fold(0, |any, byte| any | odd(*byte));
        self.0 = &rest[1..];
        (odd == 0).then(|| std::str::from_utf8(string).ok()).flatten()
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

/// Why a request is invalid. The text is for the caller; variants about a body contain the name of
/// its one member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The body has no bytes.
    #[error("the body is empty; send {{\"{0}\": [\"…\"]}}")]
    Empty(&'static str),
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
            Self::Empty(_) | Self::NotUtf8 { .. } | Self::NotJson { .. } | Self::NotObject(_) => None,
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

    /// The first characters of `text`; those that control how others are shown become U+FFFD.
    pub fn new(text: &str) -> Self {
        let mut kept: String = text
            .chars()
            .take(Self::MAX_CHARS)
            .map(|c| if steers(c) { char::REPLACEMENT_CHARACTER } else { c })
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
