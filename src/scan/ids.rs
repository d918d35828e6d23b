//! Ids in canonical form.

use std::borrow::Cow;
use std::ops::Range;

use crate::scan::{Invalid, Request};

/// Canonical ids: trimmed, GUIDs in lower case, sorted, without duplicates.
#[derive(Debug, Default)]
pub(super) struct IdSet {
    /// All ids, one after the other, in the order of arrival.
    text: String,
    pieces: Vec<Piece>,
}

/// Where an id stands in the text.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// The first bytes as a number, which sorts several times faster than a text and almost always in the same way.
    head: u64,
    start: u32,
    bytes: u32,
}

impl Piece {
    fn range(self) -> Range<usize> {
        self.start as usize..self.start as usize + self.bytes as usize
    }
}

impl IdSet {
    /// An empty set, with room for the ids of a body of this many bytes.
    pub(super) fn with_room(body_bytes: usize) -> Self {
        Self {
            text: String::with_capacity(body_bytes),
            // A GUID takes 39 bytes in a body. With other ids the vector grows.
            pieces: Vec::with_capacity(body_bytes / 39 + 1),
        }
    }

    /// The set of `ids`, each checked.
    pub(super) fn from_ids<'a>(ids: impl IntoIterator<Item = &'a str>) -> Result<Self, Invalid> {
        let mut set = Self::default();
        for id in ids {
            set.push(id)?;
        }
        set.canonical()
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.text.len() + self.pieces.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().map(|piece| &self.text[piece.range()])
    }

    /// Checks one more id and takes it in, in canonical form.
    pub(super) fn push(&mut self, raw: &str) -> Result<(), Invalid> {
        let id = raw.trim();
        if id.is_empty() {
            return Err(Invalid::EmptyId);
        }
        if id.len() > Request::MAX_ID_BYTES {
            return Err(Invalid::LongId { bytes: id.len() });
        }
        match Guid::read(id.as_bytes()) {
            Some(guid) => self.push_guid(&guid),
            None => self.add(id),
        }
    }

    /// Takes in one more id that is known to be a GUID.
    pub(super) fn push_guid(&mut self, guid: &Guid) -> Result<(), Invalid> {
        self.add(guid.as_str())
    }

    fn add(&mut self, canonical: &str) -> Result<(), Invalid> {
        if self.pieces.len() == Request::MAX_IDS {
            return Err(Invalid::TooManyIds);
        }
        // As many ids as are allowed, of the greatest length, take a thousandth of what 32 bits can tell.
        let (Ok(start), Ok(bytes)) = (self.text.len().try_into(), canonical.len().try_into()) else {
            return Err(Invalid::TooManyIds);
        };
        let mut head = [0; 8];
        let known = canonical.len().min(head.len());
        head[..known].copy_from_slice(&canonical.as_bytes()[..known]);
        let head = u64::from_be_bytes(head);
        self.pieces.push(Piece { head, start, bytes });
        self.text.push_str(canonical);
        Ok(())
    }

    /// Sorts the ids and drops duplicates.
    pub(super) fn canonical(mut self) -> Result<Self, Invalid> {
        if self.pieces.is_empty() {
            return Err(Invalid::NoIds);
        }
        let text = &self.text;
        let id = |piece: &Piece| &text[piece.range()];
        self.pieces.sort_unstable_by_key(|piece| piece.head);
        // Those that begin alike have not been sorted yet.
        for alike in self.pieces.chunk_by_mut(|a, b| a.head == b.head) {
            if alike.len() > 1 {
                alike.sort_unstable_by(|a, b| id(a).cmp(id(b)));
            }
        }
        self.pieces.dedup_by(|a, b| a.head == b.head && id(a) == id(b));
        Ok(self)
    }
}

/// The canonical text of a GUID: 8-4-4-4-12 hexadecimal digits, in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Guid([u8; Self::BYTES]);

impl Guid {
    /// The length of its text.
    pub(super) const BYTES: usize = 36;

    /// `None` when `text` is not exactly a GUID, in either case.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let text: &[u8; Self::BYTES] = text.try_into().ok()?;
        // Without branches, so that many bytes are looked at at once.
        let others = text.iter().fold(0_u8, |others, byte| {
            let digit = byte.wrapping_sub(b'0') < 10;
            let letter = (byte | 0x20).wrapping_sub(b'a') < 6;
            others + u8::from(!(digit | letter))
        });
        let good = others == 4 && [8, 13, 18, 23].iter().all(|&at| text[at] == b'-');
        // Of the characters of a GUID this bit is missing in the upper-case letters only.
        let mut lower = *text;
        for byte in &mut lower {
            *byte |= 0x20;
        }
        good.then_some(Self(lower))
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// The canonical form of one id: trimmed, and in lower case if it is a GUID.
pub(super) fn canonical(raw: &str) -> Cow<'_, str> {
    let id = raw.trim();
    match Guid::read(id.as_bytes()) {
        Some(guid) if guid.as_str() != id => Cow::Owned(guid.as_str().to_owned()),
        _ => Cow::Borrowed(id),
    }
}
