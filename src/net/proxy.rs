//! The forward proxy, and the hosts that are reached without it.

use std::fmt;
use std::net::IpAddr;

use http::{HeaderValue, Uri};
use url::{Host, Url};

use super::Network;

/// An HTTP proxy that tunnels `https` connections (`CONNECT`).
#[derive(Clone)]
pub struct Proxy {
    host: String,
    port: u16,
    authorization: Option<HeaderValue>,
    except: Vec<Rule>,
}

/// Why the proxy cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The address contains no host.
    #[error("the proxy address names no host")]
    Host,
    /// The value for `Proxy-Authorization` contains characters that cannot be sent.
    #[error("the proxy's user name or password holds a control character")]
    Credentials,
}

impl Proxy {
    /// The proxy at an `http` address, not used for what `NO_PROXY` lists: names (with all names
    /// below them, a leading dot allowed), IP addresses, networks (`10.0.0.0/8`), each with an
    /// optional `:port`, or `*`. Loopback is never proxied. Other entries match nothing.
    ///
    /// # Errors
    ///
    /// [`ProxyError`], which never repeats the password.
    pub fn new(address: &Url, authorization: Option<&str>, no_proxy: &[String]) -> Result<Self, ProxyError> {
        let host = address.host_str().filter(|host| !host.is_empty());
        let mut authorization = authorization
            .map(HeaderValue::try_from)
            .transpose()
            .map_err(|_| ProxyError::Credentials)?;
        if let Some(value) = &mut authorization {
            value.set_sensitive(true);
        }
        Ok(Self {
            host: host.ok_or(ProxyError::Host)?.to_owned(),
            port: address.port_or_known_default().unwrap_or(80),
            authorization,
            except: no_proxy.iter().filter_map(|text| Rule::parse(text.trim())).collect(),
        })
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// Whether connections to `destination` go through the proxy: only `https`, never loopback,
    /// nothing listed in `NO_PROXY`.
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

/// One entry of `NO_PROXY`.
#[derive(Clone, Debug)]
struct Rule {
    what: What,
    port: Option<u16>,
}

#[derive(Clone, Debug)]
enum What {
    Everything,
    Network(Network),
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
            What::Network(network) => ip.is_some_and(|ip| network.contains(ip)),
            What::Domain(domain) => name
                .strip_suffix(domain.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
        };
        here && self.port.is_none_or(|own| own == port)
    }
}

/// An address, with or without brackets, or a network in prefix notation.
fn network(text: &str) -> Option<What> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let bare = match bracketed {
        Some((address, rest)) if rest.is_empty() || rest.starts_with('/') => &format!("{address}{rest}"),
        _ => text,
    };
    bare.parse().ok().map(What::Network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(address: &str, no_proxy: &str) -> Proxy {
        let except: Vec<_> = no_proxy.split([',', ' ']).map(str::to_owned).collect();
        Proxy::new(&Url::parse(address).unwrap(), Some("Basic dXM6cHc="), &except).unwrap()
    }

    fn covered(no_proxy: &str, uri: &'static str) -> bool {
        proxy("http://proxy.test:3128", no_proxy).covers(&Uri::from_static(uri))
    }

    #[test]
    fn an_address_has_a_port_and_credentials_are_not_shown() {
        let made = proxy("http://proxy.test:3128", "");
        assert_eq!((made.host(), made.port()), ("proxy.test", 3128));
        assert_eq!(made.authorization().unwrap(), "Basic dXM6cHc=");
        assert!(made.authorization().unwrap().is_sensitive());
        assert!(!format!("{made:?}").contains("dXM6cHc="));
        assert_eq!(proxy("http://proxy.test", "").port(), 80);
        let address = Url::parse("http://proxy.test").unwrap();
        let error = Proxy::new(&address, Some("Basic\r\nX"), &[]).unwrap_err();
        assert_eq!(error, ProxyError::Credentials);
        let error = Proxy::new(&Url::parse("unix:/x").unwrap(), None, &[]).unwrap_err();
        assert_eq!(error, ProxyError::Host);
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
            ("[2001:db8::]/32", "https://[2001:db8:1::1]", false),
            ("[2001:db8::1]:8443", "https://[2001:db8::1]:8443", false),
            ("[2001:db8::1]:8443", "https://[2001:db8::1]", true),
            ("10.0.0.0/99, ,:,..", "https://10.0.0.1", true),
        ] {
            assert_eq!(covered(list, uri), expected, "{list} {uri}");
        }
    }
}
