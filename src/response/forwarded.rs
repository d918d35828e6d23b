//! What a trusted proxy in front of the gateway says about the caller's connection.

use http::uri::Scheme;
use http::{HeaderMap, HeaderName, header};

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The scheme that the caller used, according to the first proxy on the way, which is the first one
/// listed. `Forwarded` (RFC 7239) takes precedence over `X-Forwarded-Proto`. `None` when neither
/// names a possible scheme.
pub(super) fn scheme(fields: &HeaderMap) -> Option<Scheme> {
    let text = |name| fields.get(name).and_then(|value| value.to_str().ok());
    let named = text(header::FORWARDED)
        .and_then(proto)
        .or_else(|| text(X_FORWARDED_PROTO));
    let first = named?.split(',').next().unwrap_or_default().trim();
    [Scheme::HTTP, Scheme::HTTPS]
        .into_iter()
        .find(|scheme| scheme.as_str().eq_ignore_ascii_case(first))
}

/// The `proto` of the first element. Commas and semicolons inside quoted strings occur only in
/// addresses, so they need no attention here.
fn proto(forwarded: &str) -> Option<&str> {
    let first = forwarded.split(',').next()?;
    let pairs = first.split(';').filter_map(|pair| pair.split_once('='));
    let mut protos = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("proto"));
    protos.next().map(|(_, value)| value.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_proxy_on_the_way_tells_the_scheme() {
        let of = |fields: &[(&'static str, &str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in fields {
                map.append(*name, value.parse().unwrap());
            }
            scheme(&map).map(|scheme| scheme.as_str().to_owned())
        };
        let https = Some("https".to_owned());
        for value in [
            "proto=https",
            "for=192.0.2.60;proto=https;by=203.0.113.43",
            "For=\"[2001:db8::1]\"; Proto=\"HTTPS\", for=10.0.0.1;proto=http",
        ] {
            assert_eq!(
                of(&[("forwarded", value), ("x-forwarded-proto", "http")]),
                https,
                "{value}"
            );
        }
        assert_eq!(of(&[("x-forwarded-proto", "https")]), https);
        assert_eq!(of(&[("x-forwarded-proto", "HTTPS, http")]), https);
        assert_eq!(
            of(&[("forwarded", "for=10.0.0.1"), ("x-forwarded-proto", "https")]),
            https
        );
        for fields in [
            &[("forwarded", "proto=javascript")][..],
            &[("x-forwarded-proto", "wss")],
            &[("x-forwarded-proto", "")],
            &[],
        ] {
            assert_eq!(of(fields), None, "{fields:?}");
        }
    }
}
