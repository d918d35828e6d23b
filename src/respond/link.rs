//! Turns an `@odata.nextLink` on an upstream host into one on the address that the caller used.
//!
//! Left as it is, the link would lead callers around the gateway, without a token. Nothing else of the body changes by a byte.

use bytes::Bytes;

use crate::scan;

/// `body` with its links rewritten to `origin` (`http://host:port`, made only when needed), or `None` when there is nothing to do.
///
/// `upstream` holds the upstream's host names in lower case, without ports. A key cannot be mistaken: inside a JSON string the
/// quote after the key would be escaped, and after a string that merely ends like the key there is no colon.
pub(super) fn rewrite(body: &[u8], upstream: &[String], origin: impl Fn() -> String) -> Option<Bytes> {
    let mut rewritten = Vec::new();
    let mut copied = 0;
    for after_key in scan::next_links(body) {
        let Some((start, end)) = value(body, after_key) else {
            continue;
        };
        let Some(new) = replace(&body[start..end], upstream, &origin()) else {
            continue;
        };
        rewritten.extend_from_slice(&body[copied..start]);
        rewritten.extend_from_slice(&new);
        copied = end;
    }
    if copied == 0 {
        return None;
    }
    rewritten.extend_from_slice(&body[copied..]);
    Some(rewritten.into())
}

/// Where the string after the colon starts and ends, quotes included.
fn value(body: &[u8], after_key: usize) -> Option<(usize, usize)> {
    let colon = skip_space(body, after_key);
    if body.get(colon) != Some(&b':') {
        return None;
    }
    let start = skip_space(body, colon + 1);
    if body.get(start) != Some(&b'"') {
        return None;
    }
    let mut at = start + 1;
    loop {
        match body.get(at)? {
            b'"' => return Some((start, at + 1)),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn skip_space(body: &[u8], mut at: usize) -> usize {
    while body.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

/// The JSON string `raw` with its origin replaced, if that is an upstream's.
fn replace(raw: &[u8], upstream: &[String], origin: &str) -> Option<Vec<u8>> {
    let link: String = serde_json::from_slice(raw).ok()?;
    let rest = link.strip_prefix("https://").or_else(|| link.strip_prefix("http://"))?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.split_once(':').map_or(authority, |(host, _)| host);
    if authority.contains('@') || !upstream.iter().any(|name| name.eq_ignore_ascii_case(host)) {
        return None;
    }
    // An escaped path stays as the upstream escaped it, if the part before it was written plainly.
    let plain = link.len() - path.len() + 1;
    if raw.get(1..plain) == Some(&link.as_bytes()[..plain - 1]) {
        return Some([b"\"", origin.as_bytes(), &raw[plain..]].concat());
    }
    serde_json::to_vec(&format!("{origin}{path}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(body: &str) -> Option<String> {
        let upstream = ["api-eu.securitycenter.microsoft.com".to_owned()];
        let bytes = rewrite(body.as_bytes(), &upstream, || "http://127.0.0.1:8080".to_owned())?;
        Some(String::from_utf8(bytes.into()).unwrap())
    }

    #[test]
    fn the_host_changes_and_nothing_else() {
        let body = "{ \"@odata.nextLink\" :\n \"https://api-eu.securitycenter.microsoft.com/api/X?$skip=2&a=\\u0062\", \"value\":[1.0]}";
        let expected = "{ \"@odata.nextLink\" :\n \"http://127.0.0.1:8080/api/X?$skip=2&a=\\u0062\", \"value\":[1.0]}";
        assert_eq!(rewritten(body).as_deref(), Some(expected));
    }

    #[test]
    fn escaped_slashes_ports_and_capitals_are_understood() {
        let body = r#"{"@odata.nextLink":"https:\/\/API-EU.securitycenter.microsoft.com:443\/api\/X"}"#;
        assert_eq!(
            rewritten(body).as_deref(),
            Some(r#"{"@odata.nextLink":"http://127.0.0.1:8080/api/X"}"#)
        );
    }

    #[test]
    fn several_links_are_all_rewritten() {
        let body = r#"{"a@odata.nextLink":"https://api-eu.securitycenter.microsoft.com/1","@odata.nextLink":"https://api-eu.securitycenter.microsoft.com"}"#;
        let expected = r#"{"a@odata.nextLink":"http://127.0.0.1:8080/1","@odata.nextLink":"http://127.0.0.1:8080"}"#;
        assert_eq!(rewritten(body).as_deref(), Some(expected));
    }

    #[test]
    fn what_is_not_a_link_to_the_upstream_stays() {
        for body in [
            r#"{"value":[]}"#,
            r#"{"@odata.nextLink":"https://elsewhere.example/api"}"#,
            r#"{"@odata.nextLink":"https://api-eu.securitycenter.microsoft.com.evil.example/"}"#,
            r#"{"@odata.nextLink":"https://api-eu.securitycenter.microsoft.com@evil.example/"}"#,
            r#"{"@odata.nextLink":"https://api-eu.securitycenter.microsoft.com:x@evil.example/"}"#,
            r#"{"@odata.nextLink":null}"#,
            r#"{"x":"@odata.nextLink","y":"https://api-eu.securitycenter.microsoft.com/"}"#,
            r#"{"x":"\"@odata.nextLink\":\"https://api-eu.securitycenter.microsoft.com/\""}"#,
            r#"{"@odata.nextLink":"https://api-eu.securitycenter.microsoft.com/"#,
            r#"{"@odata.nextLink":"\"#,
            r#""@odata.nextLink""#,
        ] {
            assert_eq!(rewritten(body), None, "{body}");
        }
    }
}
