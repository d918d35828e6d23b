//! Serves connections, from the first to the end of the drain.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Response;
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::accept;
use super::connection::{End, Phase, Shared};
use super::{Bound, InboundRequest};
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
        let shared = Arc::new(Shared::new(&self.config, Arc::clone(&limiter), tasks));
        let cut = Arc::new(AtomicUsize::new(0));
        let (phase, watching) = watch::channel(Phase::Serving);
        let close = CancellationToken::new();
        let loops = self.listeners.into_iter().map(|listener| {
            let take = |accepted| {
                let (shared, service, phase) = (Arc::clone(&shared), service.clone(), watching.clone());
                let cut = Arc::clone(&cut);
                tasks.spawn("connection", async move {
                    if shared.drive(accepted, service, phase).await == End::Cut {
                        cut.fetch_add(1, Ordering::Relaxed);
                    }
                });
            };
            accept::run(listener, Arc::clone(&limiter), close.clone(), take)
        });
        let down = async {
            stop.cancelled().await;
            phase.send_replace(Phase::Lingering);
            tokio::time::sleep(self.config.linger).await;
            close.cancel();
        };
        tokio::join!(futures_util::future::join_all(loops), down);

        phase.send_replace(Phase::Draining(tokio::time::Instant::now()));
        if tokio::time::timeout(self.config.drain, limiter.emptied())
            .await
            .is_err()
        {
            phase.send_replace(Phase::Cut);
            let _ = tokio::time::timeout(AFTER_CUT, limiter.emptied()).await;
        }
        Drained {
            cut: cut.load(Ordering::Relaxed),
        }
    }
}
