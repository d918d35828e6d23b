//! The forward proxy, and the hosts that are reached without it.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};
use url::{Host, Url};

/// An HTTP proxy that tunnels `https` connections (`CONNECT`).
#[derive(Clone)]
pub struct Proxy {
    host: String,
    port: u16,
    tls: bool,
    authorization: Option<HeaderValue>,
    except: Vec<Rule>,
}

/// Why the proxy's address cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// It is no address.
    #[error("the proxy address is not a URL")]
    Address(#[source] url::ParseError),
    /// Only `http` and `https` proxies are supported.
    #[error("proxy scheme {0:?} is not supported, only http and https")]
    Scheme(String),
    /// The address contains no host.
    #[error("the proxy address names no host")]
    Host,
    /// The user name or password contains characters that cannot be sent.
    #[error("the proxy's user name or password holds a control character")]
    Credentials,
}

impl Proxy {
    /// A proxy as in `HTTPS_PROXY` (`[http[s]://][user:password@]host[:port]`), not used for what
    /// `NO_PROXY` lists: names (with all names below them, a leading dot allowed), IP addresses,
    /// networks (`10.0.0.0/8`), each with an optional `:port`, or `*`; separated by commas or
    /// blanks. Loopback is never proxied. Other entries match nothing.
    ///
    /// # Errors
    ///
    /// [`ProxyError`], which never repeats the password.
    pub fn new(address: &str, no_proxy: &str) -> Result<Self, ProxyError> {
        let address = address.trim();
        let url = if address.contains("://") {
            Url::parse(address)
        } else {
            Url::parse(&format!("http://{address}"))
        }
        .map_err(ProxyError::Address)?;
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            other => return Err(ProxyError::Scheme(other.to_owned())),
        };
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(ProxyError::Host)?;
        Ok(Self {
            host: host.to_owned(),
            port: url.port_or_known_default().unwrap_or(80),
            tls,
            authorization: authorization(&url)?,
            except: no_proxy
                .split([',', ' ', '\t'])
                .filter_map(|text| Rule::parse(text.trim()))
                .collect(),
        })
    }

    /// The same proxy with this `Proxy-Authorization`.
    ///
    /// # Errors
    ///
    /// [`ProxyError::Credentials`] when it cannot be sent.
    pub fn with_authorization(self, value: &str) -> Result<Self, ProxyError> {
        let mut value = HeaderValue::try_from(value).map_err(|_| ProxyError::Credentials)?;
        value.set_sensitive(true);
        Ok(Self {
            authorization: Some(value),
            ..self
        })
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls
    }

    pub(super) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// Whether connections to `destination` go through the proxy: only `https`, never loopback,
    /// nothing listed in `NO_PROXY`.
    #[must_use]
    pub fn covers(&self, destination: &Uri) -> bool {
        let (Some("https"), Some(host)) = (destination.scheme_str(), destination.host()) else {
            return false;
        };
        let port = destination.port_u16().unwrap_or(443);
        let name = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .trim_end_matches('.')
            .to_ascii_lowercase();
        let ip = name.parse::<IpAddr>().ok();
        let loopback = name == "localhost" || ip.is_some_and(|ip| ip.is_loopback());
        !loopback && !self.except.iter().any(|rule| rule.matches(&name, ip, port))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the credentials.
        write!(f, "Proxy({}:{})", self.host, self.port)
    }
}

/// Basic authorization (RFC 7617) from the address's user name and password.
fn authorization(url: &Url) -> Result<Option<HeaderValue>, ProxyError> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let mut text = percent_decoded(url.username());
    text.push(b':');
    text.extend(percent_decoded(url.password().unwrap_or_default()));
    if text.iter().any(u8::is_ascii_control) {
        return Err(ProxyError::Credentials);
    }
    let mut value =
        HeaderValue::try_from(format!("Basic {}", STANDARD.encode(text))).map_err(|_| ProxyError::Credentials)?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = text
            .get(at + 1..at + 3)
            .filter(|hex| bytes[at] == b'%' && hex.bytes().all(|b| b.is_ascii_hexdigit()));
        if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            out.push(byte);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}

/// One entry of `NO_PROXY`.
#[derive(Clone, Debug)]
struct Rule {
    what: What,
    port: Option<u16>,
}

#[derive(Clone, Debug)]
enum What {
    Everything,
    Network { address: IpAddr, prefix: u8 },
    Domain(String),
}

impl Rule {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self {
                what: What::Everything,
                port: None,
            });
        }
        if let Some(what) = network(text) {
            return Some(Self { what, port: None });
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().ok()?)),
            None => (text, None),
        };
        if let Some(what) = network(name) {
            return Some(Self { what, port });
        }
        let name = name.trim_start_matches("*.").trim_matches('.').to_ascii_lowercase();
        Host::parse(&name).ok()?;
        Some(Self {
            what: What::Domain(name),
            port,
        })
    }

    fn matches(&self, name: &str, ip: Option<IpAddr>, port: u16) -> bool {
        let here = match &self.what {
            What::Everything => true,
            What::Network { address, prefix } => ip.is_some_and(|ip| shares_prefix(ip, *address, *prefix)),
            What::Domain(domain) => name
                .strip_suffix(domain.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
        };
        here && self.port.is_none_or(|own| own == port)
    }
}

/// An address, with or without brackets, or a network in prefix notation.
fn network(text: &str) -> Option<What> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.unwrap_or(longest);
    (prefix <= longest).then_some(What::Network { address, prefix })
}

fn shares_prefix(one: IpAddr, other: IpAddr, prefix: u8) -> bool {
    // All bits below the prefix; for an exact address the shift by the whole width leaves none.
    let (differing, below) = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (
            u128::from(one.to_bits() ^ other.to_bits()),
            u128::from(u32::MAX.checked_shr(prefix.into()).unwrap_or(0)),
        ),
        (IpAddr::V6(one), IpAddr::V6(other)) => (
            one.to_bits() ^ other.to_bits(),
            u128::MAX.checked_shr(prefix.into()).unwrap_or(0),
        ),
        _ => return false,
    };
    differing & !below == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(no_proxy: &str, uri: &'static str) -> bool {
        Proxy::new("proxy.test:3128", no_proxy)
            .unwrap()
            .covers(&Uri::from_static(uri))
    }

    #[test]
    fn addresses_are_read_with_scheme_port_and_credentials() {
        let proxy = Proxy::new("http://us%40er:p%3Aw@proxy.test:3128", "").unwrap();
        assert_eq!(
            (proxy.host(), proxy.port(), proxy.is_tls()),
            ("proxy.test", 3128, false)
        );
        assert_eq!(
            proxy.authorization().unwrap(),
            &format!("Basic {}", STANDARD.encode("us@er:p:w"))
        );
        assert!(!format!("{proxy:?}").contains("p:w"));
        let proxy = Proxy::new("https://proxy.test", "").unwrap();
        assert_eq!((proxy.port(), proxy.is_tls()), (443, true));
        assert!(proxy.authorization().is_none());
        assert_eq!(
            Proxy::new("socks5://proxy.test", "").unwrap_err(),
            ProxyError::Scheme("socks5".into())
        );
        assert_eq!(
            Proxy::new("http://a:b%0d%0aX@proxy.test", "").unwrap_err(),
            ProxyError::Credentials
        );
        assert!(Proxy::new("", "").is_err());
    }

    #[test]
    fn only_https_outside_loopback_is_proxied() {
        assert!(covered("", "https://eu.api.security.microsoft.com/x"));
        assert!(!covered("", "http://169.254.169.254/metadata"));
        assert!(!covered("", "https://127.0.0.1:8443"));
        assert!(!covered("", "https://[::1]:8443"));
        assert!(!covered("", "https://localhost"));
    }

    #[test]
    fn no_proxy_knows_domains_addresses_networks_ports_and_the_star() {
        for (list, uri, expected) in [
            ("microsoft.com", "https://eu.api.security.microsoft.com", false),
            (".microsoft.com", "https://microsoft.com", false),
            ("*.microsoft.com", "https://eu.microsoft.com", false),
            ("microsoft.com", "https://notmicrosoft.com", true),
            ("microsoft.com:8443", "https://eu.microsoft.com", true),
            ("microsoft.com:443", "https://EU.Microsoft.COM.", false),
            ("a.test, b.test", "https://b.test", false),
            ("10.0.0.0/8", "https://10.200.3.4", false),
            ("10.0.0.0/8", "https://11.0.0.1", true),
            ("0.0.0.0/0", "https://11.0.0.1", false),
            ("0.0.0.0/0", "https://[2001:db8::1]", true),
            ("::/0", "https://[2001:db8::1]", false),
            ("2001:db8::/32", "https://[2001:db8:1::1]", false),
            ("192.0.2.7", "https://192.0.2.7:8443", false),
            ("192.0.2.7:443", "https://192.0.2.7:8443", true),
            ("*", "https://eu.test", false),
            ("10.0.0.0/99, ,:,..", "https://10.0.0.1", true),
        ] {
            assert_eq!(covered(list, uri), expected, "{list} {uri}");
        }
    }
}
