//! Accepts connections, as many as there are permits, whatever the kernel says.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::Peer;
use super::bind::Listener;
use super::socket::Stream;

/// The first pause after the system could not give us a connection (no file descriptor, no memory); it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection with its permit.
pub(super) struct Accepted {
    pub(super) stream: Stream,
    pub(super) peer: Peer,
    pub(super) permit: OwnedSemaphorePermit,
}

/// Hands every connection of `listener` to `take` until `stop`; then also those that the kernel has accepted already, as closing
/// the listener would reset them.
pub(super) async fn run(
    listener: Listener,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
    mut take: impl FnMut(Accepted),
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let next = async {
            let permit = permit(&permits).await;
            (permit, accept(&listener).await)
        };
        let (permit, result) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            next = next => next,
        };
        match (permit, result) {
            (Some(permit), Ok((stream, peer))) => {
                pause = FIRST_PAUSE;
                take(Accepted { stream, peer, permit });
            }
            (_, Err(error)) if is_the_peers(&error) => {}
            (_, Err(error)) => {
                tracing::warn!(%error, pause_ms = pause.as_millis(), "cannot accept a connection");
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            // The semaphore is never closed.
            (None, Ok(_)) => break,
        }
    }
    while let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
        let Some(Ok((stream, peer))) = accept(&listener).now_or_never() else {
            break;
        };
        take(Accepted { stream, peer, permit });
    }
}

/// A permit, however long it takes; the operator hears of it once per wait.
async fn permit(permits: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
        return Some(permit);
    }
    tracing::warn!("as many connections are open as allowed; further ones wait");
    Arc::clone(permits).acquire_owned().await.ok()
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
