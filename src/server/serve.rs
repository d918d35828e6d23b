//! Accepts connections as long as there are slots, whatever errors the kernel has, and serves them
//! from the first to the end of the drain.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use http::Response;
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::bind::Listener;
use super::connection::{End, Phase, Shared};
use super::connection_limit::{ConnectionLimiter, ConnectionSlot};
use super::socket::Stream;
use super::{Bound, InboundRequest, Peer};
use crate::response::Body;
use crate::task::Tasks;

/// How long cut connections may take to close.
const AFTER_CUT: Duration = Duration::from_secs(1);

/// The result of the drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// The connections that were cut off at the limit with requests in flight; ideally 0.
    pub cut: usize,
}

impl Bound {
    /// Accepts and answers until `stop` is cancelled, then drains.
    ///
    /// After the stop, it goes on for `linger` and asks connections to close; then it accepts
    /// nothing more and finishes the requests in flight; after `drain` it cuts off the rest.
    /// Connections run as `tasks`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the listeners and cuts off all connections.
    pub async fn serve<S>(self, service: S, tasks: &Tasks, stop: CancellationToken) -> Drained
    where
        S: Service<InboundRequest<Incoming>, Response = Response<Body>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
    {
        let limiter = self.limiter;
        let (linger, drain) = (self.config.linger, self.config.drain);
        let shared = Arc::new(Shared::new(self.config, Arc::clone(&limiter), tasks));
        let cut = Arc::new(AtomicUsize::new(0));
        let (phase, watching) = watch::channel(Phase::Serving);
        let close = CancellationToken::new();
        let loops = self.listeners.into_iter().map(|listener| {
            let take = |accepted| {
                let (shared, service, phase) = (Arc::clone(&shared), service.clone(), watching.clone());
                let cut = Arc::clone(&cut);
                tasks.spawn("connection", async move {
                    let (end, _slot) = shared.drive(accepted, service, phase).await;
                    // Before the slot is free: after the last one the count is read.
                    if end == End::Cut {
                        cut.fetch_add(1, Ordering::Relaxed);
                    }
                });
            };
            accept_all(listener, Arc::clone(&limiter), close.clone(), take)
        });
        let down = async {
            stop.cancelled().await;
            phase.send_replace(Phase::Lingering);
            tokio::time::sleep(linger).await;
            close.cancel();
        };
        tokio::join!(futures_util::future::join_all(loops), down);

        phase.send_replace(Phase::Draining(tokio::time::Instant::now()));
        if tokio::time::timeout(drain, limiter.emptied()).await.is_err() {
            phase.send_replace(Phase::Cut);
            let _ = tokio::time::timeout(AFTER_CUT, limiter.emptied()).await;
        }
        Drained {
            cut: cut.load(Ordering::Relaxed),
        }
    }
}

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
async fn accept_all(
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
