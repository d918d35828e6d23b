//! Which fields of an answer go further.

use http::header::{CACHE_CONTROL, CONTENT_TYPE, DATE, HeaderName, RETRY_AFTER};
use http::{HeaderMap, HeaderValue};

/// Kept, besides all `x-ms-*`: what callers can use (content, caching, the ids that Microsoft's support asks for) and `Retry-After`,
/// which the quota reads. Everything else, hop-by-hop fields and cookies above all, ends here.
fn is_kept(name: &HeaderName) -> bool {
    [CONTENT_TYPE, CACHE_CONTROL, DATE, RETRY_AFTER].contains(name)
        || ["odata-version", "request-id", "mise-correlation-id"].contains(&name.as_str())
        || name.as_str().starts_with("x-ms-")
}

/// The fields on the allow-list, in order. Their values are copied: as they came they are slices of the connection's read buffer, and
/// would keep all of its kilobytes in memory for as long as the answer is stored.
pub(super) fn allowed(headers: HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(headers.len());
    let mut current = None;
    for (name, value) in headers {
        // `HeaderMap` names a field once and leaves the name out for its further values.
        if name.is_some() {
            current = name;
        }
        if let Some(name) = current.as_ref().filter(|name| is_kept(name)) {
            // A value that was read is one that can be made.
            let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) else {
                continue;
            };
            kept.append(name.clone(), value);
        }
    }
    kept
}

/// Whether a `Content-Encoding` value means that the body is as it was written.
pub(super) fn is_identity(value: &HeaderValue) -> bool {
    value.is_empty() || value.as_bytes().eq_ignore_ascii_case(b"identity")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fields_on_the_list_pass_with_all_their_values() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "application/json"),
            ("x-ms-request-id", "1"),
            ("x-ms-request-id", "2"),
            ("set-cookie", "a=b"),
            ("set-cookie", "c=d"),
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("content-length", "7"),
            ("server", "x"),
            ("odata-version", "4.0"),
            ("retry-after", "8"),
            ("www-authenticate", "Bearer"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let kept: Vec<_> = allowed(headers)
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
            .collect();
        let mut sorted = kept.clone();
        sorted.sort();
        assert_eq!(
            sorted,
            [
                "content-type=application/json",
                "odata-version=4.0",
                "retry-after=8",
                "x-ms-request-id=1",
                "x-ms-request-id=2"
            ]
        );
    }
}
