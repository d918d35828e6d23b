//! Ids in canonical form.

use std::borrow::Cow;

use crate::scan::key::{Delimited, KeyPrefix};
use crate::scan::{ParseError, Request};

/// Canonical ids, as a key contains them: trimmed, GUIDs in lower case, sorted, without duplicates,
/// each after its length.
///
/// The key's text is written while the ids are read. If they come in order, nothing is left to do.
#[derive(Debug)]
pub(super) struct IdSet {
    /// The beginning of a key, and the ids after it.
    text: Vec<u8>,
    /// The member of the body that they come from.
    member: &'static str,
    pub(super) ids_at: usize,
    pub(super) count: usize,
    /// Where the last id begins, after its length, and its first bytes.
    last_at: usize,
    last_head: u64,
    /// Whether each id is greater than the one before it.
    ascending: bool,
    /// The bits in which the first bytes of ids differ.
    varying: u64,
}

impl IdSet {
    /// An empty set for a key with this beginning, with room for the ids of a body of this many
    /// bytes.
    pub(super) fn with_room(head: &KeyPrefix, body_bytes: usize) -> Self {
        let text = head.text(body_bytes).into_bytes();
        Self {
            member: head.member(),
            ids_at: text.len(),
            count: 0,
            last_at: text.len(),
            last_head: 0,
            ascending: true,
            varying: 0,
            text,
        }
    }

    /// The set of `ids`, each checked, as they come.
    pub(super) fn of<'a>(head: &KeyPrefix, ids: impl IntoIterator<Item = &'a str>) -> Result<Self, ParseError> {
        let mut set = Self::with_room(head, 0);
        for id in ids {
            set.push(id)?;
        }
        Ok(set)
    }

    /// The text of the key.
    ///
    /// # Errors
    ///
    /// None: only text was added. One check at the end costs less than one for each id.
    pub(super) fn into_text(self) -> Result<String, ParseError> {
        String::from_utf8(self.text).map_err(|error| ParseError::NotUtf8 {
            valid_bytes: error.utf8_error().valid_up_to(),
        })
    }

    /// Checks one more id and adds it in canonical form.
    pub(super) fn push(&mut self, raw: &str) -> Result<(), ParseError> {
        let id = raw.trim();
        if id.is_empty() {
            return Err(ParseError::EmptyId(self.member));
        }
        if id.len() > Request::MAX_ID_BYTES {
            return Err(ParseError::LongId {
                member: self.member,
                bytes: id.len(),
            });
        }
        match Guid::read(id.as_bytes()) {
            Some(guid) => self.push_guid(&guid),
            None => self.add(id.as_bytes(), |text| Delimited::push(text, id.as_bytes())),
        }
    }

    /// Adds one more id that is known to be a GUID.
    #[inline]
    pub(super) fn push_guid(&mut self, guid: &Guid) -> Result<(), ParseError> {
        self.add(&guid.0, |text| Delimited::push_guid(text, &guid.0))
    }

    #[inline]
    fn add(&mut self, canonical: &[u8], push: impl FnOnce(&mut Vec<u8>)) -> Result<(), ParseError> {
        if self.count == Request::MAX_IDS {
            return Err(ParseError::TooManyIds(self.member));
        }
        let head = head(canonical);
        if self.count > 0 {
            self.varying |= head ^ self.last_head;
            // Once they are not ascending nothing is compared any more, because the processor could
            // not predict the results.
            self.ascending = self.ascending
                && (self.last_head < head || self.last_head == head && self.text[self.last_at..] < *canonical);
        }
        push(&mut self.text);
        self.count += 1;
        self.last_at = self.text.len() - canonical.len();
        self.last_head = head;
        Ok(())
    }

    /// Sorts the ids and drops duplicates.
    pub(super) fn canonical(mut self) -> Result<Self, ParseError> {
        if self.count == 0 {
            return Err(ParseError::NoIds(self.member));
        }
        if !self.ascending {
            self.sort();
        }
        Ok(self)
    }

    fn sort(&mut self) {
        let ids = &self.text[self.ids_at..];
        let (guids, rest) = ids.as_chunks::<{ Guid::BYTES + 1 }>();
        // Where each begins with the length of a GUID, all are GUIDs, or have the same length.
        let sorted = if rest.is_empty() && guids.iter().all(|[length, ..]| *length == Delimited::GUID) {
            self.sorted(0..guids.len(), |nth| Delimited::guid(&guids[nth]))
        } else {
            let starts = std::iter::successors(Some(0), |start| Some(start + Delimited::at(ids, *start).whole.len()));
            self.sorted(starts.take(self.count), |start| Delimited::at(ids, start))
        };
        (self.text, self.count) = sorted;
    }

    /// The text with its ids sorted and without duplicates, and their number. `at` returns the id
    /// at each of the `places`.
    #[inline]
    fn sorted<'a>(&self, places: impl Iterator<Item = usize>, at: impl Fn(usize) -> Delimited<'a>) -> (Vec<u8>, usize) {
        // The bits that all ids begin with distinguish nothing.
        let known = self.varying.leading_zeros().min(SortKey::PLACE_BITS);
        let mut pieces: Vec<_> = Vec::with_capacity(self.count);
        pieces.extend(places.map(|place| SortKey::new(head(at(place).id) << known, place)));
        pieces.sort_unstable();
        let mut sorted = Vec::with_capacity(self.text.len());
        sorted.extend_from_slice(&self.text[..self.ids_at]);
        let mut count = 0;
        for alike in pieces.chunk_by_mut(|a, b| a.head() == b.head()) {
            if let [piece] = alike {
                sorted.extend_from_slice(at(piece.place()).whole);
                count += 1;
                continue;
            }
            // They have not been sorted yet.
            alike.sort_unstable_by(|a, b| at(a.place()).id.cmp(at(b.place()).id));
            for same in alike.chunk_by(|a, b| at(a.place()).id == at(b.place()).id) {
                sorted.extend_from_slice(at(same[0].place()).whole);
                count += 1;
            }
        }
        (sorted, count)
    }
}

/// The first bytes as a number, which compares several times faster than text, and almost always
/// with the same result.
#[inline]
fn head(id: &[u8]) -> u64 {
    let mut head = [0; 8];
    match id.first_chunk() {
        Some(first) => head = *first,
        None => head[..id.len()].copy_from_slice(id),
    }
    u64::from_be_bytes(head)
}

/// A sort key: the first distinguishing bits of an id, and its place. It is one number, because
/// numbers are sorted fastest. Measured: with slices of text sorted instead, the key of 500 ids in
/// no order takes twice the instructions and four times as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SortKey(u64);

impl SortKey {
    /// The most ids of the greatest length take a thousandth of what these bits can express.
    const PLACE_BITS: u32 = 32;

    fn new(head: u64, place: usize) -> Self {
        Self(head >> Self::PLACE_BITS << Self::PLACE_BITS | place as u64)
    }

    fn head(self) -> u64 {
        self.0 >> Self::PLACE_BITS
    }

    fn place(self) -> usize {
        usize::try_from(self.0 & u64::from(u32::MAX)).unwrap_or(usize::MAX)
    }
}

/// The canonical text of a GUID: 8-4-4-4-12 hexadecimal digits, in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Guid([u8; Self::BYTES]);

impl Guid {
    /// The length of its text.
    pub(super) const BYTES: usize = 36;

    /// `None` when `text` is not exactly a GUID, in either case.
    #[inline]
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let text: &[u8; Self::BYTES] = text.try_into().ok()?;
        // Without branches, so that many bytes are compared at a time, and one step after the
        // other, so that every build vectorises it.
        let mut wrong = [0; Self::BYTES];
        for nth in 0..Self::BYTES {
            let (byte, dash) = (text[nth], DASHES[nth]);
            let digit = byte.wrapping_sub(b'0') < 10;
            let letter = (byte | 0x20).wrapping_sub(b'a') < 6;
            let no_digit = u8::from(digit | letter).wrapping_sub(1);
            wrong[nth] = (no_digit & IS_DIGIT[nth]) | ((byte ^ dash) & !IS_DIGIT[nth]);
        }
        let wrong = wrong.iter().fold(0, |any, byte| any | byte);
        // Among the characters of a GUID this bit is missing in upper-case letters only.
        let mut lower = *text;
        for byte in &mut lower {
            *byte |= 0x20;
        }
        (wrong == 0).then_some(Self(lower))
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// The dashes of a GUID, with zeros for its digits.
const DASHES: [u8; Guid::BYTES] = {
    let mut dashes = [0; Guid::BYTES];
    dashes[8] = b'-';
    dashes[13] = b'-';
    dashes[18] = b'-';
    dashes[23] = b'-';
    dashes
};

/// The opposite: no bits for a dash, all bits for a digit.
const IS_DIGIT: [u8; Guid::BYTES] = {
    let mut digits = [0xFF; Guid::BYTES];
    digits[8] = 0;
    digits[13] = 0;
    digits[18] = 0;
    digits[23] = 0;
    digits
};

/// The canonical form of one id: trimmed, and in lower case if it is a GUID.
pub fn canonical(raw: &str) -> Cow<'_, str> {
    let id = raw.trim();
    match Guid::read(id.as_bytes()) {
        Some(guid) if guid.as_str() != id => Cow::Owned(guid.as_str().to_owned()),
        _ => Cow::Borrowed(id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Endpoint, Options};
    use proptest::prelude::*;

    fn head() -> KeyPrefix {
        KeyPrefix {
            endpoint: Endpoint::HISTORY,
            options: Options::default(),
        }
    }

    fn canonical_ids(ids: &[String]) -> Vec<String> {
        let set = IdSet::of(&head(), ids.iter().map(String::as_str))
            .unwrap()
            .canonical()
            .unwrap();
        let (mut at, count) = (set.ids_at, set.count);
        let mut found = Vec::new();
        while at < set.text.len() {
            let one = Delimited::at(&set.text, at);
            found.push(String::from_utf8(one.id.to_vec()).unwrap());
            at += one.whole.len();
        }
        assert_eq!(found.len(), count);
        assert!(set.into_text().unwrap().starts_with("history_by_definition/latest///"));
        found
    }

    /// Ids of every length that has a form of its own, many with equal beginnings, and many
    /// duplicates.
    fn ids() -> impl Strategy<Value = Vec<String>> {
        let id = prop_oneof![
            "[0-9a-b]{2}0000[01]{2}-0000-0000-0000-[01]{12}",
            "[ab]{36}",
            "[ab]{1,9}",
            "a{6,8}\u{0}?b?",
            "a{126,130}[bc]?",
            "[\u{80}\u{800}]{1,3}",
        ];
        let alike = proptest::collection::vec("[0-9a-f]{8}-0000-0000-0000-000000000000", 0..300);
        prop_oneof![proptest::collection::vec(id, 1..40), alike]
    }

    proptest! {
        #[test]
        fn ids_are_sorted_as_texts_and_told_apart(ids in ids(), ordered in any::<bool>()) {
            prop_assume!(!ids.is_empty());
            let mut ids = ids;
            let mut expected = ids.clone();
            expected.sort_unstable();
            expected.dedup();
            if ordered {
                ids.clone_from(&expected);
            }
            prop_assert_eq!(canonical_ids(&ids), expected);
        }

        #[test]
        fn a_guid_is_what_its_definition_says(text in prop_oneof![
            "[0-9a-gA-G@`:/]{8}-[0-9a-f]{4}-[0-9A-F]{4}-[0-9a-f]{4}-[0-9a-fA-F]{12}",
            "[0-9a-f-]{36}",
            "[0-9A-F]{8}[,-.][0-9a-f]{4}-[0-9A-F]{4}-[0-9a-f]{4}[-\r][0-9a-fA-F]{12}",
            any::<[u8; 36]>().prop_map(|bytes| bytes.map(|byte| char::from(byte & 0x7F)).iter().collect::<String>()),
            "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{11,13}",
        ]) {
            let digits = |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            let parts: Vec<_> = text.split('-').collect();
            let is_guid = parts.len() == 5 && parts.iter().zip([8, 4, 4, 4, 12]).all(|(part, count)| digits(part, count));
            let read = Guid::read(text.as_bytes());
            prop_assert_eq!(read.map(|guid| guid.as_str().to_owned()), is_guid.then(|| text.to_lowercase()));
        }
    }

    #[test]
    fn a_guid_is_put_in_a_key_as_any_id_of_its_length() {
        let guid = Guid([b'a'; Guid::BYTES]);
        let (mut at_once, mut in_general) = (Vec::new(), Vec::new());
        Delimited::push_guid(&mut at_once, &guid.0);
        Delimited::push(&mut in_general, &guid.0);
        assert_eq!(at_once, in_general);
    }
}
