//! An answer of the upstream, and its header fields.

use std::borrow::Borrow;
use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use memchr::memmem::Finder;

use crate::memory::Reservation;
use crate::scan::members::{each_member, range_in, text_of};

/// An upstream answer, completely read. Clones share its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamResponse {
    /// The upstream's status.
    pub status: StatusCode,
    /// `Content-Type` and the few other header fields that callers may see; nothing hop-by-hop.
    pub headers: Headers,
    /// The body, byte for byte.
    pub body: Bytes,
}

impl UpstreamResponse {
    /// Its age when it arrived (RFC 9111 §5.1), because a cache between Defender and the gateway
    /// may have stored it. Zero when it does not say, or says nothing valid.
    pub fn age(&self) -> Duration {
        let age = self.headers.get(header::AGE).and_then(|age| age.to_str().ok());
        // Of several the first counts: each cache on the way may add its own instead of replacing it.
        let seconds = age.and_then(|ages| ages.split(',').next()).map(str::trim);
        let seconds = seconds.filter(|age| !age.is_empty());
        let digits = seconds.filter(|age| age.bytes().all(|byte| byte.is_ascii_digit()));
        // A number that does not fit counts as infinite (RFC 9111 §1.2.2).
        digits.map_or(Duration::ZERO, |age| {
            Duration::from_secs(age.parse().unwrap_or(OLDEST_S).min(OLDEST_S))
        })
    }

    /// The answer as it is stored: without the header fields that were valid only when it arrived.
    pub fn without_passing_fields(&self) -> Self {
        if !self.headers.iter().any(|(name, _)| is_passing(name.as_str())) {
            return self.clone();
        }
        let lasting = self.headers.iter().filter(|(name, _)| !is_passing(name.as_str()));
        Self {
            headers: lasting.map(|(name, value)| (name.clone(), value)).collect(),
            ..self.clone()
        }
    }

    /// The answer with the memory reserved for its body, until the last copy of that is dropped.
    pub fn with_memory(self, reservation: Reservation) -> Self {
        Self {
            body: reservation.hold(self.body),
            ..self
        }
    }
}

/// Larger ages are not distinguished (RFC 9111 §1.2.2).
const OLDEST_S: u64 = 1 << 31;

/// Whether a header field belongs to a moment (when to come back, how much of a limit is left, how
/// old the answer is), to one exchange or to one connection, and not to the answer.
fn is_passing(name: &str) -> bool {
    const NAMES: [&str; 16] = [
        "age",
        "retry-after",
        "retry-after-ms",
        "x-ms-retry-after-ms",
        "warning",
        "set-cookie",
        "www-authenticate",
        "content-length",
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "alt-svc",
    ];
    const BEGINNINGS: [&str; 5] = [
        "ratelimit",
        "x-ratelimit",
        "x-rate-limit",
        "x-ms-ratelimit",
        "x-ms-throttle",
    ];
    NAMES.contains(&name) || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

static NEXT_LINK: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("ink\""));

/// What a body contains in which a link's name may be written in another way.
static OTHERWISE: LazyLock<[Finder<'static>; 2]> = LazyLock::new(|| ["\\u", "INK\""].map(Finder::new));

/// The ends of all names of next-page links in `body`, closing quote included: `@odata.nextLink`
/// and its variants, in any case. Their values are not looked at.
pub fn next_links(body: &[u8]) -> impl Iterator<Item = usize> {
    let finder = &*NEXT_LINK;
    let ends = finder.find_iter(body).map(|at| at + finder.needle().len());
    let mut ends: Vec<_> = ends.filter(|end| is_next_link(&body[..end - 1])).collect();
    if OTHERWISE.iter().any(|finder| finder.find(body).is_some()) {
        ends.extend(own_links(body));
        ends.sort_unstable();
        ends.dedup();
    }
    ends.into_iter()
}

/// The same for the names of the answer's own members, however they are written.
fn own_links(body: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let each = text_of(body).and_then(|text| {
        each_member(text, |(name, value)| {
            if is_next_link(format!("\"{name}").as_bytes()) {
                let before = body[..range_in(body, value).start].trim_ascii_end();
                ends.push(before.strip_suffix(b":").unwrap_or(before).trim_ascii_end().len());
            }
            Some(())
        })
    });
    // What is no object has no links of its own.
    each.map_or(Vec::new(), |()| ends)
}

/// Whether the text ends with the name of a link, up to its last letter: `nextLink` or
/// `odata.nextLink`, alone or after a property name and an at sign.
fn is_next_link(text: &[u8]) -> bool {
    let without = |text: &[u8], end: &[u8]| {
        let start = text.len().checked_sub(end.len())?;
        text[start..].eq_ignore_ascii_case(end).then_some(start)
    };
    let Some(start) = without(text, b"nextlink") else {
        return false;
    };
    let start = without(&text[..start], b"odata.").unwrap_or(start);
    match text[..start] {
        // An escaped quote does not begin the name.
        [.., before, b'"'] => before != b'\\',
        [.., b'"' | b'@'] => true,
        _ => false,
    }
}

/// The header fields of an answer, in order. Clones share them.
///
/// A cache full of answers holds as many of these. The values are copied into one buffer, because
/// slices of the connection's read buffer would keep all of it alive. A `HeaderMap` of two fields
/// takes four times the memory.
///
/// ```
/// use defender_gateway::testing::scan::Headers;
/// use http::{HeaderValue, header};
///
/// let fields: Headers = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))].into_iter().collect();
/// assert_eq!(fields.get(header::CONTENT_TYPE).unwrap(), "application/json");
/// assert!(fields.get("date").is_none());
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Arc<[(HeaderName, HeaderValue)]>);

impl Headers {
    /// The first value of a field.
    pub fn get(&self, name: impl AsRef<str>) -> Option<&HeaderValue> {
        self.get_all(name).next()
    }

    /// All values of a field.
    pub fn get_all(&self, name: impl AsRef<str>) -> impl Iterator<Item = &HeaderValue> {
        let wanted = move |field: &&(HeaderName, HeaderValue)| field.0.as_str().eq_ignore_ascii_case(name.as_ref());
        self.0.iter().filter(wanted).map(|(_, value)| value)
    }

    /// All fields.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// The bytes of memory they take, without the allocator's overhead.
    pub fn bytes(&self) -> usize {
        let texts: usize = self.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        texts + size_of_val(&*self.0)
    }
}

/// The most common value, which is static so that copying it counts no references.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

impl<V: Borrow<HeaderValue>> FromIterator<(HeaderName, V)> for Headers {
    fn from_iter<T: IntoIterator<Item = (HeaderName, V)>>(fields: T) -> Self {
        let fields: Vec<_> = fields.into_iter().collect();
        let own = || {
            fields
                .iter()
                .map(|(_, value)| value.borrow())
                .filter(|value| *value != JSON)
        };
        let mut texts = Vec::with_capacity(own().map(HeaderValue::len).sum());
        own().for_each(|value| texts.extend_from_slice(value.as_bytes()));
        let mut texts = Bytes::from(texts);
        let packed = |(name, value): (HeaderName, V)| {
            let value = value.borrow();
            if value == JSON {
                return (name, JSON);
            }
            // A value that was valid stays valid.
            let copy = HeaderValue::from_maybe_shared(texts.split_to(value.len())).unwrap_or_else(|_| value.clone());
            (name, copy)
        };
        Self(fields.into_iter().map(packed).collect())
    }
}

impl From<HeaderMap> for Headers {
    fn from(map: HeaderMap) -> Self {
        map.iter().map(|(name, value)| (name.clone(), value)).collect()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn answer(fields: &[(&'static str, &'static str)]) -> UpstreamResponse {
        let field = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        UpstreamResponse {
            status: StatusCode::OK,
            headers: fields.iter().map(field).collect(),
            body: Bytes::new(),
        }
    }

    #[test]
    fn an_age_is_a_number_of_seconds_and_anything_else_is_none() {
        for (text, seconds) in [
            ("0", 0),
            ("25", 25),
            (" 7 ", 7),
            ("2147483648", 1 << 31),
            ("99999999999999999999999", 1 << 31),
            ("", 0),
            ("-5", 0),
            ("+5", 0),
            ("1.5", 0),
            ("5, 6", 5),
            ("old, 6", 0),
            ("old", 0),
        ] {
            assert_eq!(answer(&[("age", text)]).age(), Duration::from_secs(seconds), "{text:?}");
        }
        assert_eq!(answer(&[]).age(), Duration::ZERO);
    }

    #[test]
    fn header_fields_about_a_moment_are_dropped() {
        let kept = answer(&[
            ("content-type", "application/json"),
            ("age", "7"),
            ("retry-after", "8"),
            ("x-ms-retry-after-ms", "8000"),
            ("x-ms-ratelimit-remaining-tenant-reads", "3"),
            ("x-ms-request-id", "a"),
            ("date", "Sat, 28 Nov 2026 22:00:00 GMT"),
            ("ratelimit", "x"),
            ("set-cookie", "a=b"),
            ("connection", "close"),
            ("odata-version", "4.0"),
        ]);
        let kept = kept.without_passing_fields();
        let names: Vec<_> = kept.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["content-type", "x-ms-request-id", "date", "odata-version"]);
    }

    #[test]
    fn the_links_of_an_answer_are_found_however_their_names_are_written() {
        for body in [
            r#"{"value":[{"a":"\u00e9"}],"\u0040odata.nextLink" : "x"}"#,
            r#"{"value":[],"@odata.nextLin\u006B":"x"}"#,
            r#"{"value":[],"@odata.NEXTLINK":"x"}"#,
        ] {
            let ends: Vec<_> = next_links(body.as_bytes()).collect();
            let end = body.rfind('"').and_then(|end| body[..end].rfind("\"x")).unwrap();
            let name = body[..end].trim_end_matches([' ', ':']);
            assert_eq!(ends, [name.len()], "{body}");
        }
        let both = r#"{"value@odata.nextLink":"\u0078","next\u004cink":"y","@odata.nextLink":"z"}"#;
        let names: Vec<_> = next_links(both.as_bytes()).map(|end| &both[end..end + 4]).collect();
        assert_eq!(names, [r#":"\u"#, r#":"y""#, r#":"z""#], "in their order, each once");
        for body in [
            r#"{"a":"\u0040nextLink\""}"#,
            r#"{"a\u0040b":1}"#,
            r#""\u0040nextLink""#,
        ] {
            assert_eq!(next_links(body.as_bytes()).count(), 0, "{body}");
        }
    }

    #[test]
    fn links_are_found_in_every_casing_and_by_name_only() {
        let found = |text: &str| next_links(text.as_bytes()).count();
        for name in [
            "@odata.nextLink",
            "@odata.nextlink",
            "odata.nextLink",
            "@nextLink",
            "nextLink",
            "value@odata.nextLink",
        ] {
            assert_eq!(found(&format!(r#"{{"{name}":"x"}}"#)), 1, "{name}");
        }
        for name in [
            "@odata.deltaLink",
            "link",
            "mynextLink",
            "ink",
            "nextLinks",
            "@data.nextLink",
            "x.odata.nextLink",
        ] {
            assert_eq!(found(&format!(r#"{{"{name}":"x"}}"#)), 0, "{name}");
        }
    }

    fn fields(of: &[(&'static str, &'static str)]) -> Headers {
        let field = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        of.iter().map(field).collect()
    }

    #[test]
    fn values_keep_their_bytes_and_order() {
        let of = [("date", "now"), ("x-ms-a", "1"), ("odata-version", ""), ("x-ms-a", "2")];
        let fields = fields(&of);
        let read: Vec<_> = fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(read, of);
        assert_eq!(fields.get("X-MS-A").unwrap(), "1");
        assert_eq!(fields.get_all("x-ms-a").collect::<Vec<_>>(), ["1", "2"]);
        assert!(fields.get("age").is_none());
    }

    #[test]
    fn nothing_of_the_buffer_that_a_value_came_in_is_kept() {
        let buffer = Bytes::from(vec![b'x'; 8192]);
        let value = HeaderValue::from_maybe_shared(buffer.slice(..10)).unwrap();
        let fields: Headers = [(header::DATE, value)].into_iter().collect();
        assert!(buffer.is_unique(), "the buffer is free again");
        assert_eq!(fields.get("date").unwrap(), "xxxxxxxxxx");
    }

    #[test]
    fn bytes_that_are_no_text_are_kept() {
        let value = HeaderValue::from_bytes(b"caf\xe9").unwrap();
        let fields: Headers = [(header::DATE, value.clone())].into_iter().collect();
        assert_eq!(fields.get("date"), Some(&value));
    }
}
