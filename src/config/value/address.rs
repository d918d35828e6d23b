//! Addresses: of other services, which are `https`, or on this machine, because a token or secret
//! is sent to them; and to accept connections on, an IP address and port, or a Unix socket.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

use url::{Host, Url};

use crate::server::Address;

/// Parses the address of an upstream or sign-in host: `https`, or `http` for loopback; without
/// user, query or fragment.
///
/// The error is a phrase that follows the value in a message, and does not contain the value.
pub(in crate::config) fn trusted(text: &str) -> Result<Url, String> {
    let url = plain(text)?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => Err("would send a token unencrypted; http:// is for loopback addresses only, write https://".into()),
        _ => Err("does not start with https://".into()),
    }
}

/// Like [`trusted`], and without a path: the path is fixed in the program.
pub(in crate::config) fn base(text: &str) -> Result<Url, String> {
    let url = trusted(text)?;
    if url.path() == "/" {
        Ok(url)
    } else {
        Err("holds a path; write the scheme and host only".into())
    }
}

/// A URL with a host, without user, query or fragment.
pub(in crate::config) fn plain(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("is no address ({error}); write https://HOST"))?;
    if url.host().is_none() {
        return Err("has no host; write https://HOST".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user name or password".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("holds a query or fragment".into());
    }
    Ok(url)
}

/// Whether the address is on this machine, according to its text.
pub(in crate::config) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.to_canonical().is_loopback(),
        None => false,
    }
}

/// Whether the address is link-local IPv4, as Azure's metadata services are.
pub(in crate::config) fn is_link_local(url: &Url) -> bool {
    matches!(url.host(), Some(Host::Ipv4(ip)) if ip.is_link_local())
}

/// The kernel's `sun_path` holds 108 bytes with the terminating zero.
const MAX_PATH_BYTES: usize = 107;

impl Address {
    /// Whether only this machine (in a pod: only this pod) can connect.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Whether the two cannot both be bound: the same address, or one port with one of them on all
    /// addresses, among them the other.
    pub fn collides(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix(one), Self::Unix(two)) => one == two,
            (Self::Tcp(one), Self::Tcp(two)) => {
                let (first, second) = (one.ip().to_canonical(), two.ip().to_canonical());
                // Port 0 becomes a different port each time.
                one.port() != 0
                    && one.port() == two.port()
                    && (first == second || contains(first, second) || contains(second, first))
            }
            _ => false,
        }
    }
}

/// Whether listening on `all` takes connections to `one` as well: `[::]` means IPv4 too (see
/// `server::bind`).
fn contains(all: IpAddr, one: IpAddr) -> bool {
    all.is_unspecified() && (all.is_ipv6() || one.is_ipv4())
}

/// Reads `ADDRESS:PORT`, `[ADDRESS]:PORT` or `unix:/PATH`. The error is a phrase that follows the
/// value in a message.
impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path);
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Tcp(address));
        }
        if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Err(format!("has no port; write {}", SocketAddr::new(ip, 8080)));
        }
        if let Some(port) = text.strip_prefix("localhost:") {
            return Err(format!(
                "holds a name, which could mean two addresses; write 127.0.0.1:{port} or [::1]:{port}"
            ));
        }
        if text.contains("://") {
            return Err("holds a scheme; leave it away".into());
        }
        Err("is no IP address with a port".into())
    }
}

fn unix(path: &str) -> Result<Address, String> {
    if !Path::new(path).is_absolute() {
        return Err("has no absolute path; write unix:/run/defender-gateway/gateway.sock".into());
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(format!(
            "has a path of {} bytes; the system allows {}",
            path.len(),
            MAX_PATH_BYTES
        ));
    }
    if path.contains('\0') {
        return Err("has a zero byte in its path".into());
    }
    Ok(Address::Unix(path.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_for_loopback_only() {
        for good in [
            "https://eu.api.security.microsoft.com",
            "https://eu.api.security.microsoft.com/",
            "http://127.0.0.1:9000",
            "http://[::1]:9000",
            "http://[::ffff:127.0.0.1]:9000",
            "http://localhost:9000",
        ] {
            assert!(base(good).is_ok(), "{good}");
        }
        for (text, reason) in [
            ("http://10.0.0.1", "would send a token unencrypted"),
            ("http://localhost.example.com", "would send a token unencrypted"),
            ("http://127.0.0.1.example.com", "would send a token unencrypted"),
            ("ftp://a", "does not start with https://"),
            ("eu.api.security.microsoft.com", "is no address"),
            ("https://", "is no address"),
            ("https://user@a", "holds a user name"),
            ("https://:pw@a", "holds a user name"),
            ("https://a?x", "holds a query"),
            ("https://a#x", "holds a query"),
            ("https://a/api", "holds a path"),
        ] {
            let error = base(text).unwrap_err();
            assert!(error.starts_with(reason), "{text:?}: {error}");
        }
        assert!(!base("https://user:hunter2@a").unwrap_err().contains("hunter2"));
    }

    fn listen(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn odd_addresses_are_refused_with_a_reason() {
        let long = format!("unix:/{}", "x".repeat(107));
        for (text, reason) in [
            ("127.0.0.1", "has no port; write 127.0.0.1:8080"),
            ("::1", "has no port; write [::1]:8080"),
            ("[::1]", "has no port; write [::1]:8080"),
            ("localhost:80", "holds a name"),
            ("http://127.0.0.1:80", "holds a scheme"),
            ("gateway:80", "is no IP address"),
            ("127.0.0.1:99999", "is no IP address"),
            ("unix:gateway.sock", "has no absolute path"),
            ("unix:/a\0b", "has a zero byte"),
            (long.as_str(), "has a path of 108 bytes; the system allows 107"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.starts_with(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn only_loopback_and_sockets_are_local() {
        for local in [
            "127.0.0.1:1",
            "127.9.9.9:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
            "unix:/run/g.sock",
        ] {
            assert!(listen(local).is_local(), "{local}");
        }
        for open in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"] {
            assert!(!listen(open).is_local(), "{open}");
        }
    }

    #[test]
    fn addresses_that_cannot_both_be_bound_collide() {
        for (one, two, collide) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("[::1]:80", "[::]:80", true),
            ("[::1]:80", "0.0.0.0:80", false),
            // [::] is listened on for both families.
            ("0.0.0.0:80", "[::]:80", true),
            ("[::]:9901", "127.0.0.1:9901", true),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "[::1]:80", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("unix:/a", "unix:/a", true),
            ("unix:/a", "unix:/b", false),
        ] {
            assert_eq!(listen(one).collides(&listen(two)), collide, "{one} {two}");
        }
    }
}
