//! Rejects requests that a browser sends for a page of another site.

use http::{HeaderMap, HeaderName, header};

use super::Host;
use crate::response::RequestError;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Rejects a request that a page of another site made a browser send. Programs send neither field.
///
/// `Sec-Fetch-Site` cannot be set by a page (Fetch Metadata). Browsers without it still send
/// `Origin` with every request that is not a plain `GET` or `HEAD`.
pub(crate) fn refuse_cross_site(fields: &HeaderMap, host: &Host) -> Result<(), RequestError> {
    let other_site = fields
        .get_all(SEC_FETCH_SITE)
        .iter()
        .any(|site| site != "same-origin" && site != "none");
    let other_origin = fields
        .get_all(header::ORIGIN)
        .iter()
        .any(|origin| !origin.to_str().is_ok_and(|origin| is_origin(origin, fields, host)));
    if other_site || other_origin {
        return Err(RequestError::CrossSite);
    }
    Ok(())
}

/// Whether the request has one of the fields by which browsers name the page behind it.
pub(super) fn may_be_cross_site(fields: &HeaderMap) -> bool {
    fields.contains_key(SEC_FETCH_SITE) || fields.contains_key(header::ORIGIN)
}

/// Whether `origin` is the address that the request itself was sent to. The port counts, because
/// another port is another program.
fn is_origin(origin: &str, fields: &HeaderMap, host: &Host) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else {
        return false;
    };
    let default = match scheme {
        "http" => "80",
        "https" => "443",
        _ => return false,
    };
    let port = |authority: &str| match authority.rsplit_once(':') {
        Some((_, port)) if !port.is_empty() && !port.ends_with(']') => port.to_owned(),
        _ => default.to_owned(),
    };
    // In HTTP/2 the authority may be in the target only; then only the host is compared.
    let sent_to = fields.get(header::HOST).and_then(|host| host.to_str().ok());
    Host::parse(authority).as_ref() == Some(host) && sent_to.is_none_or(|sent_to| port(sent_to) == port(authority))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &'static str, value: &'static str) -> Result<(), RequestError> {
        let mut fields = HeaderMap::new();
        fields.insert(header::HOST, "localhost:8080".parse().unwrap());
        fields.insert(name, value.parse().unwrap());
        refuse_cross_site(&fields, &Host::parse("localhost:8080").unwrap())
    }

    #[test]
    fn pages_of_other_sites_are_kept_out() {
        for value in ["cross-site", "same-site", "", "Same-Origin"] {
            assert_eq!(check("sec-fetch-site", value), Err(RequestError::CrossSite), "{value}");
        }
        for value in [
            "null",
            "",
            "https://evil.example",
            "http://localhost",
            "http://localhost:81",
            "http://localhost:8080.evil.example",
            "ftp://localhost:8080",
            "http://localhost:8080/",
        ] {
            assert_eq!(check("origin", value), Err(RequestError::CrossSite), "{value}");
        }
    }

    #[test]
    fn programs_and_our_own_pages_pass() {
        assert_eq!(check("user-agent", "curl"), Ok(()));
        assert_eq!(check("sec-fetch-site", "same-origin"), Ok(()));
        assert_eq!(check("sec-fetch-site", "none"), Ok(()));
        assert_eq!(check("origin", "http://localhost:8080"), Ok(()));
    }
}
