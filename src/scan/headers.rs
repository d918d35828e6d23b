//! The header fields of an answer.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

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
    use super::*;

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
        let fields: Headers = [(http::header::DATE, value)].into_iter().collect();
        assert!(buffer.is_unique(), "the buffer is free again");
        assert_eq!(fields.get("date").unwrap(), "xxxxxxxxxx");
    }

    #[test]
    fn bytes_that_are_no_text_are_kept() {
        let value = HeaderValue::from_bytes(b"caf\xe9").unwrap();
        let fields: Headers = [(http::header::DATE, value.clone())].into_iter().collect();
        assert_eq!(fields.get("date"), Some(&value));
    }
}
