//! Rewrites an `@odata.nextLink` to an upstream host, or a relative one, into one to the address
//! that the caller used.
//!
//! Otherwise the link would lead callers around the gateway, without a token. No other byte of the
//! body changes.
//!
//! Links are opaque (`OData` 4.01 §11.2.6.7), so the query goes back to the upstream as it came;
//! only what no URI may hold, such as a space, is percent-encoded, since many clients cannot send
//! it. A query that the gateway would reject from a caller is marked, so that the rewritten link
//! works. The path of an operation is written in the gateway's own form.

use std::borrow::Cow;

use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::scan::{self, Endpoint, Options};

/// The domains of Defender's hosts: answers of one host link to others.
const FAMILY: [&str; 5] = [
    "securitycenter.microsoft.com",
    "securitycenter.windows.com",
    "security.microsoft.com",
    "securitycenter.microsoft.us",
    "security.microsoft.us",
];

/// What no URI holds as it is (RFC 3986 §2). What is encoded already stays so.
const NO_URI: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// The address that the caller used: what relative links are relative to.
#[derive(Clone, Debug)]
pub(super) struct Base {
    /// `http://host:port`.
    pub(super) origin: String,
    /// `None` when the path is no operation's.
    pub(super) path: Option<String>,
}

impl Base {
    /// The path and query of a relative link (RFC 3986 §5.2). `None` when it cannot be resolved, as
    /// one to another kind of address, or is empty.
    fn resolved<'a>(&self, link: &'a str) -> Option<Cow<'a, str>> {
        let start = &link[..link.find(['/', '?', '#']).unwrap_or(link.len())];
        if link.is_empty() || start.contains(':') || link.starts_with("//") {
            return None;
        }
        if link.starts_with('/') {
            return Some(Cow::Borrowed(link));
        }
        let path = self.path.as_ref()?;
        let folder = &path[..=path.rfind('/')?];
        let before = if start.is_empty() { path } else { folder };
        Some(Cow::Owned(format!("{before}{link}")))
    }
}

/// `body` with its links rewritten to `base`, which is computed only when needed, or `None` when
/// there is no link to rewrite.
///
/// `upstream` holds the upstream's host names in lower case, without ports. The key cannot be
/// mistaken: inside a JSON string the quote after it would be escaped, and no colon follows a
/// string that merely ends like the key.
pub(super) fn rewrite(body: &[u8], upstream: &[String], base: impl Fn() -> Base) -> Option<Bytes> {
    let mut rewritten = Vec::new();
    let mut copied = 0;
    for after_key in scan::next_links(body) {
        let Some((start, end)) = value(body, after_key) else {
            continue;
        };
        let Some(new) = replace(&body[start..end], upstream, &base()) else {
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

/// The JSON string `raw` with its origin replaced, if that is an upstream's or the link is relative,
/// and its query marked if necessary.
fn replace(raw: &[u8], upstream: &[String], base: &Base) -> Option<Vec<u8>> {
    let link: String = serde_json::from_slice(raw).ok()?;
    let rest = match authority(&link) {
        Some((authority, rest)) if is_upstream(authority, upstream) => Cow::Borrowed(rest),
        Some(_) => return None,
        None => base.resolved(&link)?,
    };
    let target = target(&rest);
    let target = Cow::from(utf8_percent_encode(&target, NO_URI));
    let Base { origin, .. } = base;
    // An escaped path stays as the upstream escaped it, if the part before it was not escaped.
    if target == rest && link.ends_with(&*rest) {
        let plain = link.len() - rest.len() + 1;
        if raw.get(1..plain) == Some(&link.as_bytes()[..plain - 1]) {
            return Some([b"\"", origin.as_bytes(), &raw[plain..]].concat());
        }
    }
    serde_json::to_vec(&format!("{origin}{target}")).ok()
}

/// The authority of a link and the rest after it; `None` when the link is relative.
fn authority(link: &str) -> Option<(&str, &str)> {
    let scheme = link.find("//").map_or("", |at| &link[..at]);
    let is_http = ["", "http:", "https:"]
        .iter()
        .any(|http| scheme.eq_ignore_ascii_case(http));
    let rest = link.get(scheme.len()..)?.strip_prefix("//").filter(|_| is_http)?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    Some(rest.split_at(end))
}

fn is_upstream(authority: &str, upstream: &[String]) -> bool {
    // Colons between brackets belong to an IPv6 address.
    let port = authority
        .rfind(':')
        .filter(|at| authority.rfind(']').is_none_or(|end| end < *at));
    let host = &authority[..port.unwrap_or(authority.len())];
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_of = |parent: &&str| host.strip_suffix(*parent).is_some_and(|start| start.ends_with('.'));
    !authority.contains('@') && (upstream.contains(&host) || FAMILY.iter().any(is_of))
}

/// Path and query as the gateway accepts them. Those of a link to no operation stay as they are.
fn target(link: &str) -> Cow<'_, str> {
    let (link_path, query) = link.split_once('?').unwrap_or((link, ""));
    let Some((path, endpoint)) = operation(link_path) else {
        return Cow::Borrowed(link);
    };
    let (query, fragment) = query.find('#').map_or((query, ""), |at| query.split_at(at));
    let is_taken = Options::of(endpoint, Some(query)).is_ok();
    if is_taken && path == link_path {
        return Cow::Borrowed(link);
    }
    let mark = if is_taken { "" } else { Options::LINK_MARK };
    let parts: Vec<_> = [query, mark].into_iter().filter(|part| !part.is_empty()).collect();
    let query = if parts.is_empty() {
        String::new()
    } else {
        format!("?{}", parts.join("&"))
    };
    Cow::Owned(format!("{path}{query}{fragment}"))
}

/// The operation that a path leads to, and the path in the gateway's own form.
fn operation(path: &str) -> Option<(String, Endpoint)> {
    let trimmed = path.trim_end_matches('/');
    let mut known = Endpoint::all().map(|endpoint| (endpoint.template(), endpoint));
    known.find(|(known, _)| known.eq_ignore_ascii_case(trimmed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(origin: &str) -> Base {
        Base {
            origin: origin.to_owned(),
            path: Some(Endpoint::HISTORY.template()),
        }
    }

    #[test]
    fn a_link_with_an_escaped_name_is_rewritten() {
        let link = |host: &str| format!(r#"{{"\u0040odata.nextLink": "{host}/x?$skiptoken=\u0031","value":[]}}"#);
        let body = link("https://eu.securitycenter.microsoft.com");
        let rewritten = rewrite(body.as_bytes(), &[], || base("http://gw:8080")).unwrap();
        assert_eq!(rewritten, link("http://gw:8080"));
    }

    fn rewritten(body: &str) -> Option<String> {
        let upstream = ["api-eu.securitycenter.microsoft.com".to_owned()];
        let bytes = rewrite(body.as_bytes(), &upstream, || base("http://127.0.0.1:8080"))?;
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
    fn links_to_other_hosts_stay() {
        for body in [
            r#"{"value":[]}"#,
            r#"{"@odata.nextLink":"https://elsewhere.example/api"}"#,
            r#"{"@odata.nextLink":"https://evilsecuritycenter.microsoft.com/api"}"#,
            r#"{"@odata.nextLink":"https://api.securitycenter.microsoft.com@evil.example/api"}"#,
            r#"{"@odata.nextLink":"https://evil.example/https://api.securitycenter.microsoft.com/api"}"#,
            r#"{"@odata.nextLink":"ftp://api.securitycenter.microsoft.com/api"}"#,
            r#"{"@odata.nextLink":""}"#,
            r#"{"mynextLink":"https://api-eu.securitycenter.microsoft.com/"}"#,
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

    fn link(link: &str) -> String {
        let body = rewritten(&serde_json::json!({ "@odata.nextLink": link }).to_string()).unwrap();
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        body["@odata.nextLink"].as_str().unwrap().to_owned()
    }

    #[test]
    fn links_to_every_host_of_the_family_lead_back() {
        for host in [
            "api.securitycenter.microsoft.com",
            "api.securitycenter.windows.com",
            "API-US.security.microsoft.com",
            "eu.api.security.microsoft.com:443",
            "api-gov.securitycenter.microsoft.us",
            "api-gcc.security.microsoft.us",
            "api.security.microsoft.com.",
        ] {
            for scheme in ["https:", "http:", "HTTPS:", ""] {
                assert_eq!(
                    link(&format!("{scheme}//{host}/api/X?a=b")),
                    "http://127.0.0.1:8080/api/X?a=b"
                );
            }
        }
    }

    #[test]
    fn rewritten_links_are_accepted() {
        let path = Endpoint::HISTORY.template();
        for (query, expected) in [
            ("?$skiptoken=a%2Fb&x=1", "?$skiptoken=a%2Fb&x=1"),
            ("?$top=5&$skip=10", "?$top=5&$skip=10"),
            ("", ""),
            ("?pagesize=2&page=3", "?pagesize=2&page=3&defender-gateway-link"),
            (
                "??=1&=10000&$skip=10000",
                "??=1&=10000&$skip=10000&defender-gateway-link",
            ),
            ("?$top=0#x", "?$top=0&defender-gateway-link#x"),
        ] {
            let handed_out = link(&format!("https://api.securitycenter.windows.com{path}{query}"));
            assert_eq!(handed_out, format!("http://127.0.0.1:8080{path}{expected}"));
            let query = handed_out
                .split('#')
                .next()
                .unwrap()
                .split_once('?')
                .map(|(_, query)| query);
            assert!(Options::parse(query).is_ok(), "{handed_out}");
        }
        let v1 = Endpoint::HISTORY_V1.template();
        let other = format!(
            "https://api.securitycenter.windows.com{}/?$skiptoken=x",
            v1.to_lowercase()
        );
        assert_eq!(link(&other), format!("http://127.0.0.1:8080{v1}?$skiptoken=x"));
        let list = "/api/v1.0/DeviceAuthenticatedScanAgents";
        for query in ["?pagesize=2&page=3", "?=&=10000&$skip=10000", "?$top=0"] {
            let handed_out = link(&format!("https://api.securitycenter.windows.com{list}{query}"));
            assert_eq!(
                handed_out,
                format!("http://127.0.0.1:8080{list}{query}"),
                "a list takes any query"
            );
        }
    }

    #[test]
    fn relative_links_lead_to_the_gateway() {
        let here = format!("http://127.0.0.1:8080{}", Endpoint::HISTORY.template());
        let folder = here.strip_suffix("GetScanHistoryByScanDefinitionId").unwrap();
        for (relative, expected) in [
            ("?page=2", format!("{here}?page=2&defender-gateway-link")),
            ("?$skiptoken=a/b:c", format!("{here}?$skiptoken=a/b:c")),
            (
                "GetScanHistoryByScanDefinitionId?page=2",
                format!("{here}?page=2&defender-gateway-link"),
            ),
            ("other", format!("{folder}other")),
            ("/api/X?page=2", "http://127.0.0.1:8080/api/X?page=2".to_owned()),
        ] {
            assert_eq!(link(relative), expected);
        }
    }

    #[test]
    fn what_no_uri_holds_is_encoded_and_nothing_else() {
        let list = "/api/DeviceAuthenticatedScanDefinitions";
        let query = r#"$filter=a eq 'b' and c eq "ä%20+<>\^`{|}"&$skiptoken=[1,2];(x)!*~"#;
        let encoded =
            "$filter=a%20eq%20'b'%20and%20c%20eq%20%22%C3%A4%20+%3C%3E%5C%5E%60%7B%7C%7D%22&$skiptoken=[1,2];(x)!*~";
        for path in [list, &Endpoint::HISTORY.template()] {
            for start in ["https://api.securitycenter.windows.com", ""] {
                let handed_out = link(&format!("{start}{path}?{query}"));
                assert_eq!(handed_out, format!("http://127.0.0.1:8080{path}?{encoded}"));
                assert!(handed_out.parse::<http::Uri>().is_ok());
            }
        }
    }

    #[test]
    fn every_casing_of_the_name_is_found() {
        for name in ["@odata.nextlink", "odata.nextLink", "@nextLink", "nextLink"] {
            let body = format!(r#"{{"value":[],"{name}" : "https://api.security.microsoft.com/x"}}"#);
            let expected = format!(r#"{{"value":[],"{name}" : "http://127.0.0.1:8080/x"}}"#);
            assert_eq!(rewritten(&body), Some(expected));
        }
    }
}
