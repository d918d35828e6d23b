//! Binds the addresses before anything else starts, so that a port that is taken is noticed at
//! once.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::io::Errno;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixStream};

use super::connection_limit::ConnectionLimiter;
use super::{Address, Config};

/// The longest queue of connections that the kernel keeps for us to accept.
const BACKLOG: u32 = 1024;

/// How long another process may take to show that it still serves a socket.
const PROBE: Duration = Duration::from_secs(1);

/// Why an address cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The system refused.
    #[error("cannot listen on {address}")]
    Refused {
        /// The address.
        address: Address,
        /// The system's reason.
        source: io::Error,
    },
    /// Another process serves this Unix socket.
    #[error("another process listens on {address}")]
    Taken {
        /// The address.
        address: Address,
    },
    /// The path is a file of another kind, which must not be removed.
    #[error("cannot listen on {address}: there is something else than a socket")]
    NotASocket {
        /// The address.
        address: Address,
    },
}

/// Listeners that are bound and queue connections, but accept none until [`Bound::serve`].
#[derive(Debug)]
pub struct Bound {
    pub(super) listeners: Vec<Listener>,
    pub(super) config: Config,
    pub(super) limiter: Arc<ConnectionLimiter>,
    addresses: Vec<Address>,
}

impl Bound {
    /// Binds all of `config.listen`, or none. Must be called inside a runtime.
    ///
    /// A Unix socket that a dead process left behind is replaced; one that is still served is not.
    /// A new one is open to every user (mode 0666): its folder decides who can reach it, because
    /// processes of different users share a pod.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future releases what was bound so far.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for address in &config.listen {
            let listener = match address {
                Address::Tcp(socket) => {
                    tcp(*socket, config.socket_buffer).map_err(|source| refused(address, source))?
                }
                Address::Unix(path) => unix(address, path).await?,
            };
            addresses.push(listener.address().map_err(|source| refused(address, source))?);
            listeners.push(listener);
        }
        Ok(Self {
            listeners,
            limiter: ConnectionLimiter::new(&config),
            config,
            addresses,
        })
    }

    /// The addresses as bound, with the real port where 0 was asked for.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The counts of connections.
    pub fn connections(&self) -> Connections {
        Connections(Arc::clone(&self.limiter))
    }
}

/// One bound listener.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

impl Listener {
    pub(super) fn address(&self) -> io::Result<Address> {
        Ok(match self {
            Self::Tcp(listener) => Address::Tcp(listener.local_addr()?),
            Self::Unix(_, file) => Address::Unix(file.path.clone()),
        })
    }
}

/// The file of a Unix socket. It is removed on drop, unless another process has replaced it.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // If it stays, it only costs the next start a probe.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

fn refused(address: &Address, source: io::Error) -> BindError {
    BindError::Refused {
        address: address.clone(),
        source,
    }
}

/// `[::]` means every address of both families; where the system has no IPv6, every address of
/// IPv4.
fn tcp(address: SocketAddr, buffer_bytes: u32) -> io::Result<Listener> {
    let ipv4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
    match listen(address, buffer_bytes) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && is_without_ipv6(&error) => {
            tracing::info!(%address, %ipv4, "this system has no IPv6, so it is listened on IPv4 alone");
            listen(ipv4, buffer_bytes)
        }
        listener => listener,
    }
}

fn is_without_ipv6(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

fn listen(address: SocketAddr, buffer_bytes: u32) -> io::Result<Listener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        // Set explicitly, because the system's default differs.
        SockRef::from(&socket).set_only_v6(false)?;
    }
    // A restart must not wait until the connections of the previous process have timed out.
    socket.set_reuseaddr(true)?;
    // Connections inherit the buffers of their listener.
    socket.set_send_buffer_size(buffer_bytes)?;
    socket.set_recv_buffer_size(buffer_bytes)?;
    socket.bind(address)?;
    Ok(Listener::Tcp(socket.listen(BACKLOG)?))
}

async fn unix(address: &Address, path: &Path) -> Result<Listener, BindError> {
    clear(address, path).await?;
    let listener = UnixListener::bind(path).map_err(|source| refused(address, source))?;
    let file = SocketFile {
        path: path.to_owned(),
        identity: identity(path),
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
        .map_err(|source| refused(address, source))?;
    Ok(Listener::Unix(listener, file))
}

/// Removes a socket that is no longer served.
async fn clear(address: &Address, path: &Path) -> Result<(), BindError> {
    let Ok(meta) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !meta.file_type().is_socket() {
        return Err(BindError::NotASocket {
            address: address.clone(),
        });
    }
    match tokio::time::timeout(PROBE, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| refused(address, source))
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(Err(source)) => Err(refused(address, source)),
        // The other process answers, or is too busy to answer; in both cases it is alive.
        Ok(Ok(_)) | Err(_) => Err(BindError::Taken {
            address: address.clone(),
        }),
    }
}

/// The counts of a listener's connections, for `/status` and metrics. Clones count the same
/// listener.
#[derive(Clone, Debug)]
pub struct Connections(pub(super) Arc<ConnectionLimiter>);

impl Connections {
    /// The open connections.
    pub fn open(&self) -> u32 {
        self.0.open()
    }

    /// The limit of open connections.
    pub fn most(&self) -> u32 {
        self.0.count
    }
}

impl Collector for Connections {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, count) in [
            ("connections", "Connections of callers that are open", self.open()),
            (
                "connections_limit",
                "Connections of callers that may be open",
                self.most(),
            ),
        ] {
            let gauge = ConstGauge::new(i64::from(count));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn bind(address: Address) -> Result<Bound, BindError> {
        Bound::bind(Config {
            listen: vec![address],
            ..Config::default()
        })
        .await
    }

    #[tokio::test]
    async fn port_0_shows_the_port_chosen() {
        let bound = bind(Address::Tcp("127.0.0.1:0".parse().unwrap())).await.unwrap();
        let Address::Tcp(address) = &bound.addresses()[0] else {
            panic!("not TCP")
        };
        assert_ne!(address.port(), 0);
        assert_eq!(bound.addresses()[0].to_string(), format!("http://{address}"));
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_an_error_that_names_it() {
        let first = bind(Address::Tcp("127.0.0.1:0".parse().unwrap())).await.unwrap();
        let error = bind(first.addresses()[0].clone()).await.unwrap_err();
        assert!(error.to_string().contains(&first.addresses()[0].to_string()), "{error}");
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let bound = bind(Address::Unix(path.clone())).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o666);
        let error = bind(Address::Unix(path.clone())).await.unwrap_err();
        assert!(matches!(error, BindError::Taken { .. }), "{error}");
        drop(bound);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        let error = bind(Address::Unix(path.clone())).await.unwrap_err();
        assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_is_left_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.sock");
        let old = bind(Address::Unix(path.clone())).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        let _new = bind(Address::Unix(path.clone())).await.unwrap();
        drop(old);
        assert!(path.exists());
    }
}
