//! One request to an admin listener: is the answer 200?
//!
//! Small on purpose. The kubelet and Docker start `healthcheck` every few seconds, so it makes no
//! TLS client and no second thread.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time;

use super::Error;
use crate::BoxError;
use crate::config::{Environment, Key};
use crate::server::Address;

/// Where a gateway's health is served, as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// A host name or IP address with its port.
    Tcp(String),
    /// The path of a Unix socket.
    Unix(String),
}

impl AdminAddress {
    /// Where the gateway listens when nobody says otherwise.
    const DEFAULT: &str = "127.0.0.1:9901";

    /// What was asked for; else the variable by which this container's gateway was told where to
    /// listen; else the default.
    pub(super) fn choose(asked: Option<&Self>, env: &Environment) -> Result<Self, Error> {
        if let Some(asked) = asked {
            return Ok(asked.clone());
        }
        let variable = format!("{}ADMIN_LISTEN", Key::PREFIX);
        let text = env.value(&variable).map_or(Self::DEFAULT, |value| value.expose());
        text.parse()
            .map_err(|why| Error::user(format!("{variable}: {text} {why}")))
    }
}

/// Reads `HOST:PORT`, `http://HOST:PORT` or `unix:/PATH`. The error is a phrase that follows the
/// value in a message.
impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("unix:") {
            return match text.parse::<Address>()? {
                Address::Unix(path) => Ok(Self::Unix(path.to_string_lossy().into_owned())),
                Address::Tcp(address) => Ok(Self::Tcp(address.to_string())),
            };
        }
        let text = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let authority: http::uri::Authority = text
            .parse()
            .map_err(|_| "is no HOST:PORT and no unix:/PATH".to_owned())?;
        match authority.port_u16() {
            Some(_) if !authority.as_str().contains('@') => Ok(Self::Tcp(authority.to_string())),
            _ => Err(format!("has no port; write {}:9901", authority.host())),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// The largest answer that is read; a probe's is a word or a dozen lines, the whole state some 50
/// kB.
const LARGEST: usize = 1 << 20;

/// Asks for `path` and returns the answer's status and text, within `patience`.
///
/// # Errors
/// Nobody answers there, or not in time.
pub(super) async fn ask(
    admin: &AdminAddress,
    path: &str,
    patience: Duration,
) -> Result<(StatusCode, String), BoxError> {
    let answer = async {
        match admin {
            AdminAddress::Tcp(address) => match address.parse::<SocketAddr>() {
                // Every address is listened on; this machine's own are the ones to ask.
                Ok(every) if every.ip().is_unspecified() => {
                    let own: [IpAddr; 2] = [Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
                    let own = own.map(|ip| SocketAddr::new(ip, every.port()));
                    exchange(TcpStream::connect(&own[..]).await?, "localhost", path).await
                }
                _ => exchange(TcpStream::connect(address).await?, address, path).await,
            },
            AdminAddress::Unix(socket) => exchange(UnixStream::connect(socket).await?, "localhost", path).await,
        }
    };
    let in_time = time::timeout(patience, answer).await;
    in_time.unwrap_or_else(|_| Err(format!("no answer within {} s", patience.as_secs_f64()).into()))
}

async fn exchange<S>(stream: S, host: &str, path: &str) -> Result<(StatusCode, String), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LARGEST).collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    // The connection is driven here, beside the request: there is nobody else to do it. It may end
    // before the answer is read.
    let drive = async {
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        answer = answer => answer,
        never = drive => never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, shown) in [
            ("127.0.0.1:9901", "127.0.0.1:9901"),
            ("http://localhost:9901/", "localhost:9901"),
            ("[::1]:9901", "[::1]:9901"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
        ] {
            assert_eq!(text.parse::<AdminAddress>().unwrap().to_string(), shown);
        }
        for (text, reason) in [
            ("localhost", "has no port; write localhost:9901"),
            ("", "is no HOST:PORT"),
            ("https://a:1", "is no HOST:PORT"),
            ("unix:a.sock", "has no absolute path"),
            ("a@b:1", "has no port"),
        ] {
            let error = text.parse::<AdminAddress>().unwrap_err();
            assert!(error.starts_with(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn what_is_typed_wins_over_the_variable_and_that_over_the_default() {
        let env = Environment::from_iter([("DEFENDER_GATEWAY_ADMIN_LISTEN", "0.0.0.0:7000")]);
        let typed = "127.0.0.1:1".parse().unwrap();
        let chosen = |asked, env: &Environment| AdminAddress::choose(asked, env).unwrap().to_string();
        assert_eq!(chosen(Some(&typed), &env), "127.0.0.1:1");
        assert_eq!(chosen(None, &env), "0.0.0.0:7000");
        assert_eq!(chosen(None, &Environment::default()), "127.0.0.1:9901");
        let wrong = Environment::from_iter([("DEFENDER_GATEWAY_ADMIN_LISTEN", "everywhere")]);
        let error = AdminAddress::choose(None, &wrong).unwrap_err();
        assert!(error.to_string().contains("ADMIN_LISTEN"), "{error}");
    }
}
