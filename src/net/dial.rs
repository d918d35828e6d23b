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

/// Connects to one of `addresses`: attempts are started 250 ms apart, or as soon as one fails, with
/// alternating families, and the first to succeed wins (RFC 8305, "happy eyeballs", without its DNS
/// part). The caller bounds the time.
///
/// # Errors
///
/// The last address's error when all have failed.
pub(super) async fn dial(addresses: Vec<SocketAddr>) -> io::Result<(TcpStream, SocketAddr)> {
    let mut waiting = alternating(addresses).into_iter().take(MAX_ADDRESSES);
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

/// The addresses with alternating families, starting with the first one's; within a family the
/// resolver's order is kept.
fn alternating(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first() else {
        return addresses;
    };
    let v6_first = first.is_ipv6();
    let count = addresses.len();
    let (leading, other): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == v6_first);
    let (mut leading, mut other) = (leading.into_iter(), other.into_iter());
    let mut order = Vec::with_capacity(count);
    while order.len() < count {
        order.extend(leading.next());
        order.extend(other.next());
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn families_alternate_and_keep_the_resolvers_order() {
        let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
        let given = ["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1", "127.0.0.2:1"].map(parse);
        let wanted = ["[::1]:1", "127.0.0.1:1", "[::2]:1", "127.0.0.2:1", "[::3]:1"].map(parse);
        assert_eq!(alternating(given.to_vec()), wanted);
    }

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
