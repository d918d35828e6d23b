//! Accepts connections, as many as there are places, whatever the kernel says.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::Peer;
use super::bind::Listener;
use super::connection_limit::{ConnectionLimiter, ConnectionSlot};
use super::socket::Stream;

/// The first pause after the system could not give us a connection (no file descriptor, no memory); it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection with its slot.
pub(super) struct Accepted {
    pub(super) stream: Stream,
    pub(super) peer: Peer,
    pub(super) slot: ConnectionSlot,
}

/// Hands every connection of `listener` to `take` until `stop`; then also those that the kernel has accepted already, as closing
/// the listener would reset them.
pub(super) async fn run(
    listener: Listener,
    limiter: Arc<ConnectionLimiter>,
    stop: CancellationToken,
    mut take: impl FnMut(Accepted),
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = accept(&listener) => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                pause = FIRST_PAUSE;
                // Who it is decides who may have to make way.
                let slot = tokio::select! {
                    biased;
                    slot = limiter.take(&peer) => slot,
                    () = stop.cancelled() => break,
                };
                take_slot(stream, peer, slot, &mut take);
            }
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                tracing::warn!(%error, pause_ms = pause.as_millis(), "cannot accept a connection");
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
    while limiter.has_free() {
        let Some(Ok((stream, peer))) = accept(&listener).now_or_never() else {
            break;
        };
        let slot = limiter.try_take(&peer);
        take_slot(stream, peer, slot, &mut take);
    }
}

fn take_slot(stream: Stream, peer: Peer, slot: Option<ConnectionSlot>, take: &mut impl FnMut(Accepted)) {
    if let Some(slot) = slot {
        take(Accepted { stream, peer, slot });
    }
}

async fn accept(listener: &Listener) -> io::Result<(Stream, Peer)> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, remote) = listener.accept().await?;
            let local = stream.local_addr()?;
            // Answers leave in one piece; waiting to fill a segment would only delay them.
            stream.set_nodelay(true)?;
            Ok((Stream::Tcp(stream), Peer::tcp(remote, local)))
        }
        Listener::Unix(listener, _) => Ok((Stream::Unix(listener.accept().await?.0), Peer::unix())),
    }
}

/// Errors of one connection, which came and went; the listener is fine.
fn is_the_peers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NotConnected
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::Interrupted
    )
}
