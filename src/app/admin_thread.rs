//! The admin listener, on a thread of its own: a probe is answered while the data side is
//! saturated.

use std::thread;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::Error;
use crate::admin::Admin;
use crate::server::{Address, Bound, Config, InboundRequest};
use crate::task::Tasks;

/// The running thread. Dropped, it stops serving and ends by itself.
#[derive(Debug)]
pub(super) struct AdminThread {
    address: Address,
    stop: tokio_util::sync::DropGuard,
    ended: oneshot::Receiver<()>,
}

impl AdminThread {
    /// Takes the address and serves from now on.
    pub(super) fn start(config: Config, service: Admin) -> Result<Self, Error> {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (bound, binding) = std::sync::mpsc::sync_channel(1);
        let (end, ended) = oneshot::channel();
        let body = move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                // The receiver waits for exactly one message; it cannot be gone.
                Err(error) => return drop(bound.send(Err(error.into()))),
            };
            runtime.block_on(async {
                let listener = match Bound::bind(config).await {
                    Ok(listener) => listener,
                    Err(error) => return drop(bound.send(Err(error.into()))),
                };
                drop(bound.send(Ok(listener.addresses().first().cloned())));
                let service = service.map_request(InboundRequest::into_request);
                listener.serve(service, &Tasks::new(), stopped).await;
            });
            // Nobody may be waiting any more.
            let _ = end.send(());
        };
        let spawned = thread::Builder::new().name("admin".into()).spawn(body);
        spawned.map_err(Error::of("the admin thread"))?;
        let bound: Result<_, crate::BoxError> = binding.recv().unwrap_or_else(|gone| Err(gone.into()));
        let address = bound.map_err(Error::of("the admin listener"))?;
        let address = address.ok_or_else(|| Error::of("the admin listener")("it has no address"))?;
        Ok(Self {
            address,
            stop: stop.drop_guard(),
            ended,
        })
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Stops serving and waits for the thread, which takes no longer than its drain.
    pub(super) async fn finish(self) {
        drop(self.stop);
        // An error means that the thread is gone already.
        let _ = self.ended.await;
    }
}
