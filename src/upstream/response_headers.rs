//! Which header fields of an answer are passed on.

use http::header::{AGE, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, DATE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue};

use crate::scan::{Headers, TokenOwner};

/// The name under which a field is kept: a static copy where there is one, which takes no memory.
///
/// Kept are all `x-ms-*`, what callers can use (content, caching, the ids that Microsoft's support
/// asks for), `Age`, to which the cache adds, and `Retry-After`, also in milliseconds, which the
/// quota reads. Everything else, above all hop-by-hop fields and cookies, is dropped.
fn kept(name: &HeaderName) -> Option<HeaderName> {
    // As text, because comparing lengths decides nearly all cases.
    Some(match name.as_str() {
        "content-type" => CONTENT_TYPE,
        "cache-control" => CACHE_CONTROL,
        "date" => DATE,
        "age" => AGE,
        "retry-after" => RETRY_AFTER,
        "retry-after-ms" => HeaderName::from_static("retry-after-ms"),
        "odata-version" => HeaderName::from_static("odata-version"),
        "request-id" => HeaderName::from_static("request-id"),
        "mise-correlation-id" => HeaderName::from_static("mise-correlation-id"),
        text if text.starts_with("x-ms-") => name.clone(),
        _ => return None,
    })
}

/// The fields on the allow-list, in order. A challenge (RFC 9110 §11.6.1) is for the owner of the
/// rejected token: a caller can do nothing about the gateway's. Fields listed in `Connection` were
/// for this connection only (RFC 9110 §7.6.1).
pub(super) fn allowed(headers: &HeaderMap, owner: TokenOwner) -> Headers {
    let challenge =
        |name: &HeaderName| (owner == TokenOwner::Caller && *name == WWW_AUTHENTICATE).then_some(WWW_AUTHENTICATE);
    headers
        .iter()
        .filter(|(name, _)| !is_of_connection(headers, name))
        .filter_map(|(name, value)| Some((kept(name).or_else(|| challenge(name))?, value)))
        .collect()
}

fn is_of_connection(headers: &HeaderMap, name: &HeaderName) -> bool {
    // A message without its content type could not be read, so listing it is ignored.
    let is_named = |options: &str| {
        options
            .split(',')
            .any(|option| option.trim().eq_ignore_ascii_case(name.as_str()))
    };
    *name != CONTENT_TYPE
        && headers
            .get_all(CONNECTION)
            .iter()
            .any(|options| options.to_str().is_ok_and(is_named))
}

/// Whether a `Content-Encoding` value means that the body is not encoded.
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
            ("connection", "close, X-MS-Hop"),
            ("x-ms-hop", "here"),
            ("age", "25"),
            ("transfer-encoding", "chunked"),
            ("content-length", "7"),
            ("server", "x"),
            ("odata-version", "4.0"),
            ("retry-after", "8"),
            ("retry-after-ms", "8000"),
            ("www-authenticate", "Bearer"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let sorted = |owner| {
            let kept = allowed(&headers, owner);
            let mut sorted: Vec<_> = kept
                .iter()
                .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
                .collect();
            sorted.sort();
            sorted
        };
        let mut expected = vec![
            "age=25",
            "content-type=application/json",
            "odata-version=4.0",
            "retry-after-ms=8000",
            "retry-after=8",
            "x-ms-request-id=1",
            "x-ms-request-id=2",
        ];
        assert_eq!(sorted(TokenOwner::Gateway), expected);
        expected.push("www-authenticate=Bearer");
        expected.sort_unstable();
        assert_eq!(sorted(TokenOwner::Caller), expected);
    }
}
