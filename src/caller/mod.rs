//! The caller of a request and its directives. Plain values: no I/O, no clock.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::telemetry::log::steers;
use crate::telemetry::trace::Trace;

/// Everything about a request except what it asks for.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Its name, for fairness and limits only; it is not authenticated.
    pub name: Name,
    /// How urgent the caller says the request is.
    pub urgency: Urgency,
    /// The latest moment at which the upstream call may start. After it the request is refused.
    pub deadline: Instant,
    /// What the caller's `Prefer: wait` asked for, already clamped; `None` when it did not ask.
    pub wait: Option<Duration>,
    /// The directives of its `Cache-Control`.
    pub cache_directives: CacheDirectives,
    /// The request's id in logs and responses.
    pub request_id: RequestId,
    /// The request's context in a trace.
    pub trace: Trace,
    /// Whether something stands in for an answer that cannot be had in time, such as a stale one,
    /// or nobody waits for it: then a refusal is told to nobody.
    pub has_fallback: bool,
}

/// The name under which a caller's share of the quota is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// The longest name in bytes; the rest is cut off at a character boundary, so that names cannot
    /// fill memory.
    pub const MAX_BYTES: usize = 64;

    const LOCAL: &str = "local";

    /// A name from what the caller sent. Characters that steer a terminal or turn text around are
    /// dropped, and then spaces around the rest: names appear in logs and on the status page.
    pub fn new(text: &str) -> Self {
        let text = text.replace(steers, "");
        let mut name = String::new();
        for c in text.trim().chars() {
            if name.len() + c.len_utf8() > Self::MAX_BYTES {
                break;
            }
            name.push(c);
        }
        Self(name.into())
    }

    /// The name under which the gateway makes calls of its own. No caller has it, because spaces
    /// around the names of callers are dropped.
    pub fn of_gateway() -> Self {
        Self(" gateway".into())
    }

    /// The name of a caller over a Unix socket that gives none.
    pub fn of_unix_socket() -> Self {
        Self(Self::LOCAL.into())
    }

    /// Whether it says only that the caller is on the gateway's own machine, of which each has one.
    pub fn is_local(&self) -> bool {
        let address = self.0.parse::<IpAddr>();
        &*self.0 == Self::LOCAL || address.is_ok_and(|address| address.is_loopback())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The urgency of RFC 9218 §4.1: 0 (first) to 7 (last), 3 when the caller does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Urgency(u8);

impl Urgency {
    /// How many urgencies there are.
    pub const LEVELS: usize = 8;

    /// The least urgent class, for background work.
    pub const LAST: Self = Self(7);

    /// `None` when `level` is above 7; RFC 9218 §4 says to ignore such a parameter.
    pub fn new(level: u8) -> Option<Self> {
        (usize::from(level) < Self::LEVELS).then_some(Self(level))
    }

    /// 0 (first) to 7 (last).
    pub fn level(self) -> u8 {
        self.0
    }
}

impl Default for Urgency {
    fn default() -> Self {
        Self(3)
    }
}

/// The request directives of `Cache-Control` (RFC 9111 §5.2.1) that the gateway obeys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheDirectives {
    /// Do not answer from a cache.
    pub no_cache: bool,
    /// Do not store the answer.
    pub no_store: bool,
    /// Accept nothing older.
    pub max_age: Option<Duration>,
    /// Accept answers this long past their freshness; `Some(Duration::MAX)` for any staleness.
    pub max_stale: Option<Duration>,
    /// Accept only answers that stay fresh at least this long.
    pub min_fresh: Option<Duration>,
    /// Answer from a cache or not at all.
    pub only_if_cached: bool,
}

impl CacheDirectives {
    /// Whether the caller said how old an answer may be.
    pub fn limits_age(&self) -> bool {
        self.max_age.or(self.max_stale).or(self.min_fresh).is_some()
    }
}

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
    fn names_are_bounded_and_printable() {
        let name = Name::new(&format!(" a\r\nb{}", "é".repeat(100)));
        assert!(name.as_str().starts_with("abé"));
        assert!(name.as_str().len() <= Name::MAX_BYTES);
        for before in ["", "\u{80}", "\u{202e}", "\u{2028} "] {
            let name = Name::new(&format!("{before}{}", Name::of_gateway()));
            assert_eq!(name.as_str(), "gateway");
        }
    }

    #[test]
    fn urgencies_above_seven_are_no_urgencies() {
        assert_eq!(Urgency::new(7).map(Urgency::level), Some(7));
        assert_eq!(Urgency::new(8), None);
    }

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
