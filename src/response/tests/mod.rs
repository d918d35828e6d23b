//! Tests of the table row by row, and of whole responses; and of the scheme in the links to next
//! pages.

mod layer;
pub(crate) mod openapi;
mod passthrough;
mod rate_limit;
mod table;

use http::HeaderMap;

use super::{X_FORWARDED_PROTO, forwarded, scheme};

#[test]
fn the_first_proxy_on_the_way_tells_the_scheme() {
    let of = |fields: &[(&'static str, &str)]| {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, value.parse().unwrap());
        }
        let named = forwarded(&map, "proto", X_FORWARDED_PROTO);
        named.and_then(scheme).map(|scheme| scheme.as_str().to_owned())
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
