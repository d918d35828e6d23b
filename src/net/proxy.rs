//! The forward proxy: the hosts that are reached without it, and `CONNECT` (RFC 9110 §9.3.6), which
//! asks it for a tunnel.

use std::fmt;
use std::io;
use std::net::IpAddr;

use http::{HeaderValue, Uri};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use url::{Host, Url};

use crate::net::Network;

/// An HTTP proxy that tunnels `https` connections (`CONNECT`).
#[derive(Clone, PartialEq)]
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
#[derive(Clone, Debug, PartialEq)]
struct Rule {
    what: What,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq)]
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
        let (name, port) = match text.rsplit_once(':') {
            // The colons of an address belong to it.
            Some((name, port)) if network(text).is_none() => (name, Some(port.parse().ok()?)),
            _ => (text, None),
        };
        let what = if let Some(network) = network(name) {
            What::Network(network)
        } else {
            let name = name.trim_start_matches("*.").trim_matches('.').to_ascii_lowercase();
            Host::parse(&name).ok()?;
            What::Domain(name)
        };
        Some(Self { what, port })
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
fn network(text: &str) -> Option<Network> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let bare = match bracketed {
        Some((address, rest)) if rest.is_empty() || rest.starts_with('/') => &format!("{address}{rest}"),
        _ => text,
    };
    bare.parse().ok()
}

/// The longest answer of a proxy: its head, with the interim ones before it.
const MAX_HEAD_BYTES: usize = 8 * 1024;

/// The user agent; some proxies reject requests without one.
const AGENT: &str = concat!("defender-gateway/", env!("CARGO_PKG_VERSION"));

/// Turns a connection to a proxy into one to `authority` (`host:port`). The caller bounds the time.
///
/// # Errors
///
/// When the proxy refuses, sends an invalid answer or closes the connection. The text contains the
/// status, never the credentials.
pub(super) async fn open_tunnel<S>(
    stream: &mut S,
    authority: &str,
    authorization: Option<&HeaderValue>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {AGENT}\r\n").into_bytes();
    if let Some(authorization) = authorization {
        head.extend_from_slice(b"Proxy-Authorization: ");
        head.extend_from_slice(authorization.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    stream.write_all(&head).await?;
    stream.flush().await?;
    match final_status(stream).await? {
        Some(200..=299) => Ok(()),
        Some(407) => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the proxy wants other credentials (407)",
        )),
        Some(other) => Err(io::Error::new(
            if matches!(other, 401 | 403 | 405) {
                io::ErrorKind::PermissionDenied
            } else {
                io::ErrorKind::Other
            },
            format!("the proxy refused the tunnel with status {other}"),
        )),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the proxy's answer is not HTTP/1",
        )),
    }
}

/// The status of the final answer, after any interim ones (RFC 9110 §15.2); `None` when it is not
/// HTTP/1.
async fn final_status<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<u16>> {
    let mut room = MAX_HEAD_BYTES;
    loop {
        let head = read_head(stream, room).await?;
        room -= head.len();
        match status(&head) {
            // 101 would end HTTP, which was not asked for.
            Some(100 | 102..=199) => {}
            other => return Ok(other),
        }
    }
}

/// Reads up to the empty line and not a byte further, because what follows belongs to the tunnel.
async fn read_head<S: AsyncRead + Unpin>(stream: &mut S, room: usize) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(256);
    // A line may end without a carriage return (RFC 9112 §2.2).
    while !(head.ends_with(b"\n\r\n") || head.ends_with(b"\n\n")) {
        if head.len() == room {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the proxy's answer is too long",
            ));
        }
        head.push(stream.read_u8().await?);
    }
    Ok(head)
}

fn status(head: &[u8]) -> Option<u16> {
    let line = head
        .strip_prefix(b"HTTP/1.1 ")
        .or_else(|| head.strip_prefix(b"HTTP/1.0 "))?;
    let (code, rest) = line.split_at_checked(3)?;
    let ends = matches!(rest.first(), Some(b' ' | b'\r' | b'\n'));
    let code = std::str::from_utf8(code)
        .ok()
        .filter(|code| code.bytes().all(|b| b.is_ascii_digit()))?;
    code.parse().ok().filter(|_| ends)
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

    async fn asked(answer: &[u8]) -> (io::Result<()>, String, Vec<u8>) {
        let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
        theirs.write_all(answer).await.unwrap();
        theirs.shutdown().await.unwrap();
        let result = open_tunnel(&mut ours, "eu.test:443", Some(&HeaderValue::from_static("Basic eA=="))).await;
        let mut rest = Vec::new();
        ours.read_to_end(&mut rest).await.unwrap();
        drop(ours);
        let mut sent = String::new();
        theirs.read_to_string(&mut sent).await.unwrap();
        (result, sent, rest)
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for_and_nothing_behind_the_answer_is_lost() {
        let (result, sent, rest) = asked(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nhello").await;
        result.unwrap();
        let agent = concat!("User-Agent: defender-gateway/", env!("CARGO_PKG_VERSION"));
        assert_eq!(
            sent,
            format!(
                "CONNECT eu.test:443 HTTP/1.1\r\nHost: eu.test:443\r\n{agent}\r\nProxy-Authorization: Basic eA==\r\n\r\n"
            )
        );
        assert_eq!(rest, b"hello");
    }

    #[tokio::test]
    async fn plain_line_feeds_end_lines_too() {
        for answer in [
            "HTTP/1.0 200 OK\n\nhello",
            "HTTP/1.1 200\nVia: x\n\nhello",
            "HTTP/1.1 200 OK\nVia: x\n\r\nhello",
        ] {
            let (result, _, rest) = asked(answer.as_bytes()).await;
            result.unwrap();
            assert_eq!(rest, b"hello");
        }
    }

    #[tokio::test]
    async fn interim_answers_before_the_final_one_are_skipped() {
        let interim =
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.0 199 x\r\n\r\n";
        let (result, _, rest) = asked(format!("{interim}HTTP/1.1 200 OK\r\n\r\nhello").as_bytes()).await;
        result.unwrap();
        assert_eq!(rest, b"hello");
        let (result, ..) = asked(format!("{interim}HTTP/1.1 403 Forbidden\r\n\r\n").as_bytes()).await;
        assert!(result.unwrap_err().to_string().contains("status 403"));
        // The number of interim answers is bounded.
        let endless = "HTTP/1.1 102 Processing\r\n\r\n".repeat(2 * MAX_HEAD_BYTES / 27);
        assert_eq!(
            asked(endless.as_bytes()).await.0.unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[tokio::test]
    async fn refusals_and_nonsense_are_errors() {
        let (result, ..) = asked(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        for bad in [
            &b"HTTP/1.1 503 Busy\r\n\r\n"[..],
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\n\r\n",
            b"SSH-2.0-OpenSSH\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n",
            &[b'x'; 2 * MAX_HEAD_BYTES],
        ] {
            assert!(asked(bad).await.0.is_err());
        }
    }
}
