//! The host that a request is addressed to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::{Request, header};

use crate::response::RequestError;
use crate::server::Peer;

/// A host name or address without its port, in lower case, without a trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name (RFC 3986 `reg-name`, without percent-encoding).
    Name(String),
    /// An address.
    Ip(IpAddr),
}

impl Host {
    /// The longest name in DNS, in bytes.
    pub const MAX_BYTES: usize = 253;

    /// Parses `host [":" port]` (RFC 9112 §3.2). `None` when it is anything else, for example has a
    /// user part or an empty host.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            (Self::Ip(IpAddr::V6(address).to_canonical()), port)
        } else {
            let end = text.find(':').unwrap_or(text.len());
            (Self::name(&text[..end])?, &text[end..])
        };
        // The port may be empty (RFC 3986 §3.2.3).
        let port_ok = match port.strip_prefix(':') {
            Some("") => true,
            Some(digits) => digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok(),
            None => port.is_empty(),
        };
        port_ok.then_some(host)
    }

    fn name(text: &str) -> Option<Self> {
        let name = text.strip_suffix('.').unwrap_or(text);
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte);
        if name.is_empty() || name.len() > Self::MAX_BYTES || !name.bytes().all(legal) {
            return None;
        }
        Some(match name.parse::<Ipv4Addr>() {
            Ok(address) => Self::Ip(address.into()),
            Err(_) => Self::Name(name.to_ascii_lowercase()),
        })
    }

    /// The one host that `request` is addressed to.
    ///
    /// HTTP/1.1 needs exactly one `Host`, even when the target names a host, which then takes
    /// precedence (RFC 9112 §3.2.2). In HTTP/2 `:authority` replaces it; if both are there, they
    /// must agree (RFC 9113 §8.3.1).
    pub fn of<B>(request: &Request<B>) -> Result<Self, RequestError> {
        let mut fields = request.headers().get_all(header::HOST).iter();
        let field = match (fields.next(), fields.next()) {
            (None, _) => None,
            (Some(one), None) => Some(one.to_str().ok().and_then(Self::parse).ok_or(RequestError::Host)?),
            (Some(_), Some(_)) => return Err(RequestError::Host),
        };
        let target = request
            .uri()
            .authority()
            .map(|authority| Self::parse(authority.as_str()).ok_or(RequestError::Host));
        let target = target.transpose()?;
        if request.version() >= http::Version::HTTP_2 {
            return match (target, field) {
                (Some(target), Some(field)) if target != field => Err(RequestError::Host),
                (target, field) => target.or(field).ok_or(RequestError::Host),
            };
        }
        let field = field.ok_or(RequestError::Host)?;
        Ok(target.unwrap_or(field))
    }

    fn is_loopback(&self) -> bool {
        match self {
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
            Self::Ip(address) => address.is_loopback(),
        }
    }
}

/// The hosts that the gateway accepts: loopback ones, the address that the connection came in on,
/// and the configured ones.
///
/// On a Unix socket there is no address to rebind, so every valid host is accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(Vec<Host>);

impl Hosts {
    /// `configured` are additional names; ports are ignored. A text that is no host is returned as
    /// the error.
    pub fn new<'a>(configured: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let host = |text: &'a str| Host::parse(text).ok_or_else(|| text.to_owned());
        configured.into_iter().map(host).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a request for `host` over a connection with `peer` is meant for this gateway.
    pub fn accept(&self, host: &Host, peer: Option<&Peer>) -> bool {
        if peer.is_some_and(Peer::is_unix) || host.is_loopback() || self.0.contains(host) {
            return true;
        }
        let own = peer.and_then(Peer::local_ip);
        own.is_some_and(|address| *host == Host::Ip(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_strictly() {
        let name = |text: &str| Some(Host::Name(text.into()));
        let ip = |text: &str| Some(Host::Ip(text.parse().unwrap()));
        assert_eq!(Host::parse("LocalHost:8080"), name("localhost"));
        assert_eq!(Host::parse("gw.ns.svc.cluster.local."), name("gw.ns.svc.cluster.local"));
        assert_eq!(Host::parse("127.0.0.1:"), ip("127.0.0.1"));
        assert_eq!(Host::parse("[::1]:80"), ip("::1"));
        assert_eq!(Host::parse("[::ffff:127.0.0.1]"), ip("127.0.0.1"));
        for bad in [
            "", ":80", ".", "a b", "a:b", "a:65536", "a:-1", "a:+1", "a:1:2", "::1", "[::1", "[::1]x", "[a]", "u@h",
            "a/b", "a?b", "a#b", "a\\b", "a%20b", "é", "a,b:x",
        ] {
            assert_eq!(Host::parse(bad), None, "{bad:?}");
        }
        assert_eq!(Host::parse(&"a".repeat(254)), None);
    }

    fn request(version: http::Version, target: &str, hosts: &[&str]) -> Request<()> {
        let mut request = Request::builder().version(version).uri(target);
        for host in hosts {
            request = request.header("host", *host);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn http_1_needs_exactly_one_valid_host() {
        let of = |target: &str, hosts: &[&str]| Host::of(&request(http::Version::HTTP_11, target, hosts));
        assert_eq!(of("/", &["a"]), Ok(Host::Name("a".into())));
        assert_eq!(of("http://b/", &["a"]), Ok(Host::Name("b".into())));
        for hosts in [&[][..], &[""], &["a", "a"], &["a/"], &["a", ""]] {
            assert_eq!(of("/", hosts), Err(RequestError::Host), "{hosts:?}");
            assert_eq!(of("http://b/", hosts), Err(RequestError::Host), "{hosts:?}");
        }
        assert_eq!(of("http://user@b/", &["b"]), Err(RequestError::Host));
    }

    #[test]
    fn http_2_needs_an_authority_or_a_host_and_no_contradiction() {
        let of = |target: &str, hosts: &[&str]| Host::of(&request(http::Version::HTTP_2, target, hosts));
        assert_eq!(of("http://a:1/", &[]), Ok(Host::Name("a".into())));
        assert_eq!(of("http://a:1/", &["A:1"]), Ok(Host::Name("a".into())));
        assert_eq!(of("/", &["a"]), Ok(Host::Name("a".into())));
        assert_eq!(of("/", &[]), Err(RequestError::Host));
        assert_eq!(of("http://a/", &["b"]), Err(RequestError::Host));
    }

    #[test]
    fn only_our_own_names_are_accepted() {
        let hosts = Hosts::new(["gateway.svc:8080"]).unwrap();
        let peer = Peer::tcp("10.0.0.9:5".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
        let accept = |host: &str| hosts.accept(&Host::parse(host).unwrap(), Some(&peer));
        for good in [
            "localhost",
            "a.localhost",
            "127.9.9.9",
            "[::1]",
            "10.0.0.1:80",
            "GATEWAY.svc",
        ] {
            assert!(accept(good), "{good}");
        }
        for bad in [
            "evil.example",
            "10.0.0.2",
            "localhost.evil.example",
            "notlocalhost",
            "127.0.0.1.evil.example",
            "0.0.0.0",
        ] {
            assert!(!accept(bad), "{bad}");
        }
        assert!(hosts.accept(&Host::parse("anything").unwrap(), Some(&Peer::unix())));
        assert_eq!(Hosts::new(["good", "http://bad"]), Err("http://bad".into()));
    }
}
