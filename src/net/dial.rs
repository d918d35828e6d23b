//! Opens TCP to the first of a host's addresses that answers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// How long one address may delay the next one (RFC 8305 §5 recommends 250 ms).
const STAGGER: Duration = Duration::from_millis(250);

/// The most addresses that are tried, which bounds what a hostile resolver can cause.
const MAX_ADDRESSES: usize = 16;

/// A connection ends when written data stays unacknowledged for this long, or a silent peer misses
/// four keep-alives. Otherwise the kernel would wait a quarter of an hour for a peer whose network
/// is gone.
const DEAD_AFTER: Duration = Duration::from_secs(20);

/// Connects to one of `addresses`: attempts are started in this order 250 ms apart, or as soon as
/// one fails, and the first to succeed wins (RFC 8305, "happy eyeballs", without its DNS part). The
/// caller bounds the time.
///
/// # Errors
///
/// The last address's error when all have failed.
pub(super) async fn dial(addresses: Vec<SocketAddr>) -> io::Result<(TcpStream, SocketAddr)> {
    let mut waiting = addresses.into_iter().take(MAX_ADDRESSES);
    let mut running = FuturesUnordered::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        if let Some(address) = waiting.next() {
            running.push(async move { Ok((TcpStream::connect(address).await?, address)) });
        } else if running.is_empty() {
            return Err(last);
        }
        tokio::select! {
            Some(result) = running.next() => match result {
                Ok((stream, address)) => {
                    tune(&stream)?;
                    return Ok((stream, address));
                }
                Err(error) => last = error,
            },
            () = tokio::time::sleep(STAGGER), if waiting.len() > 0 => {}
        }
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let step = DEAD_AFTER / 4;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(step).with_interval(step).with_retries(3))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_refusing_address_costs_nothing_and_no_address_is_an_error() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead = gone.local_addr().unwrap();
        drop(gone);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let live = listener.local_addr().unwrap();
        let (stream, address) = dial(vec![dead, dead, live]).await.unwrap();
        assert_eq!((stream.peer_addr().unwrap(), address), (live, live));
        assert_eq!(
            dial(vec![dead]).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        assert!(dial(vec![]).await.is_err());
    }
}
