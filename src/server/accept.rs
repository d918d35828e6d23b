//! Accepts connections, as long as there are slots, and survives every error of the kernel.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::Peer;
use super::bind::Listener;
use super::connection_limit::{ConnectionLimiter, ConnectionSlot};
use super::socket::Stream;

/// The first pause after the system could not accept a connection (no file descriptor, no memory);
/// it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection with its slot.
pub(super) struct Accepted {
    pub(super) stream: Stream,
    pub(super) peer: Peer,
    pub(super) slot: ConnectionSlot,
}

/// Passes every connection of `listener` to `take` until `stop`, and then those that the kernel has
/// accepted already, because closing the listener would reset them.
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
                // The peer decides which connections may be evicted.
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
            // Responses leave in one piece, so waiting to fill a segment would only delay them.
            stream.set_nodelay(true)?;
            Ok((Stream::Tcp(stream), Peer::tcp(remote, local)))
        }
        Listener::Unix(listener, _) => Ok((Stream::Unix(listener.accept().await?.0), Peer::unix())),
    }
}

/// Errors of one connection that is gone already; the listener still works.
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
