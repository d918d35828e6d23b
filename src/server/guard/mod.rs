//! Rejects misrouted requests, DNS rebinding and the browsers of other sites.
//!
//! Not here: authentication. Every program that reaches the listener may send requests; the guard
//! only makes sure that a web page does not reach it. Invariant: below it, every request names
//! exactly one host, and that host is this gateway.

mod host;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use tower::filter::Predicate;

use super::{Config, InboundRequest, RequestMeta};
use crate::BoxError;
use crate::response::RequestError;

pub use host::{Host, Hosts};

/// Rejects requests without exactly one valid host (400), for other hosts (421), from other sites
/// (403), and with too many header fields (431), which HTTP/2 would let through; and those that the
/// connection has already refused.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Hosts>);

impl Guard {
    /// A guard that accepts requests for `hosts`.
    pub fn new(hosts: Hosts) -> Self {
        Self(Arc::new(hosts))
    }

    /// The accepted hosts.
    pub fn hosts(&self) -> &Hosts {
        &self.0
    }
}

impl<B> Predicate<InboundRequest<B>> for Guard {
    type Request = InboundRequest<B>;

    fn check(&mut self, request: InboundRequest<B>) -> Result<InboundRequest<B>, BoxError> {
        check(request.meta(), &self.0)?;
        Ok(request)
    }
}

fn check(meta: &RequestMeta, hosts: &Arc<Hosts>) -> Result<(), RequestError> {
    if let Some(refusal) = &meta.refused {
        return Err(refusal.clone());
    }
    let (request, peer) = (&meta.head, &meta.peer);
    if request.headers().len() > Config::MAX_HEADERS {
        return Err(RequestError::Fields);
    }
    let field = only_host(request);
    if let Some(field) = field
        && peer.is_accepted(field, hosts)
        && (meta.plain || !may_be_cross_site(request.headers()))
    {
        return Ok(());
    }
    let host = Host::of(request)?;
    if !hosts.accept(&host, Some(peer)) {
        let host = match host {
            Host::Name(name) => name,
            Host::Ip(address) => address.to_string(),
        };
        return Err(RequestError::ForeignHost { host });
    }
    refuse_cross_site(request.headers(), &host)?;
    if let Some(field) = field {
        peer.accept(field, hosts);
    }
    Ok(())
}

/// The `Host` field, if nothing else in the request names a host.
fn only_host(request: &Request<()>) -> Option<&HeaderValue> {
    if request.uri().authority().is_some() {
        return None;
    }
    let mut fields = request.headers().get_all(header::HOST).iter();
    match (fields.next(), fields.next()) {
        (Some(host), None) => Some(host),
        _ => None,
    }
}

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
fn may_be_cross_site(fields: &HeaderMap) -> bool {
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
