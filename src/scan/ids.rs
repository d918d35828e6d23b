//! Ids in canonical form.

use std::borrow::Cow;

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
    /// The first bytes as a number, which almost always decides a comparison without looking at the text.
    head: u64,
    start: usize,
    end: usize,
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
        self.pieces.iter().map(|piece| &self.text[piece.start..piece.end])
    }

    /// Checks one more id and takes it in, in canonical form.
    pub(super) fn push(&mut self, raw: &str) -> Result<(), Invalid> {
        // Nearly all ids are GUIDs, which need no other look.
        let guid = is_guid(raw.as_bytes());
        let id = if guid { raw } else { raw.trim() };
        if id.is_empty() {
            return Err(Invalid::EmptyId);
        }
        if id.len() > Request::MAX_ID_BYTES {
            return Err(Invalid::LongId { bytes: id.len() });
        }
        if self.pieces.len() == Request::MAX_IDS {
            return Err(Invalid::TooManyIds);
        }
        let start = self.text.len();
        self.text.push_str(id);
        if guid || is_guid(id.as_bytes()) {
            self.text[start..].make_ascii_lowercase();
        }
        let canonical = &self.text.as_bytes()[start..];
        let mut head = [0; 8];
        let known = canonical.len().min(head.len());
        head[..known].copy_from_slice(&canonical[..known]);
        self.pieces.push(Piece {
            head: u64::from_be_bytes(head),
            start,
            end: self.text.len(),
        });
        Ok(())
    }

    /// Sorts the ids and drops duplicates.
    pub(super) fn canonical(mut self) -> Result<Self, Invalid> {
        if self.pieces.is_empty() {
            return Err(Invalid::NoIds);
        }
        let text = &self.text;
        let id = |piece: &Piece| &text[piece.start..piece.end];
        self.pieces
            .sort_unstable_by(|a, b| a.head.cmp(&b.head).then_with(|| id(a).cmp(id(b))));
        self.pieces.dedup_by(|a, b| a.head == b.head && id(a) == id(b));
        Ok(self)
    }
}

/// The canonical form of one id: trimmed, and in lower case if it is a GUID.
pub(super) fn canonical(raw: &str) -> Cow<'_, str> {
    let id = raw.trim();
    if is_guid(id.as_bytes()) && id.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(id.to_ascii_lowercase())
    } else {
        Cow::Borrowed(id)
    }
}

/// Whether `id` is written as 8-4-4-4-12 hexadecimal digits.
pub(super) fn is_guid(id: &[u8]) -> bool {
    let Ok(id) = <&[u8; 36]>::try_from(id) else {
        return false;
    };
    // Without branches, so that many bytes are looked at at once.
    let others = id.iter().fold(0_u8, |others, byte| {
        let digit = byte.wrapping_sub(b'0') < 10;
        let letter = (byte | 0x20).wrapping_sub(b'a') < 6;
        others + u8::from(!(digit | letter))
    });
    others == 4 && [8, 13, 18, 23].iter().all(|&at| id[at] == b'-')
}
