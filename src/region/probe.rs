//! Probes every host in the background.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until, timeout};
use url::Url;

use crate::BoxError;
use crate::net;
use crate::region::HostSelector;
use crate::region::host_selector::shown;
use crate::task::Tasks;

/// Measures how long a connection to a host takes to set up. It sends no request and holds no
/// token, so it costs no quota.
pub trait Probe: Send + Sync + 'static {
    /// Sets one connection up and closes it.
    ///
    /// # Errors
    /// When no connection could be made.
    fn measure(&self, base: Arc<Url>) -> BoxFuture<'_, Result<Duration, BoxError>>;
}

impl Probe for net::Connector {
    fn measure(&self, base: Arc<Url>) -> BoxFuture<'_, Result<Duration, BoxError>> {
        Box::pin(async move { Ok(self.measure(&base).await?) })
    }
}

impl HostSelector {
    /// Starts one background task for each host, which probes it at once and then about every
    /// [`Config::probe_interval`]; a host that was ejected for connection failures, as soon as its
    /// backoff is over.
    ///
    /// [`Config::probe_interval`]: crate::region::Config::probe_interval
    pub fn watch(&self, tasks: &Tasks, probe: impl Probe) {
        let probe = Arc::new(probe);
        for index in 0..self.shared.config.candidates().len() {
            let selector = self.clone();
            let probe = Arc::clone(&probe);
            tasks.spawn_upkeep("region-probe", async move { selector.watch_one(index, &*probe).await });
        }
    }

    async fn watch_one(&self, index: usize, probe: &impl Probe) {
        let url = Arc::clone(&self.lock().hosts[index].shown.url);
        loop {
            let begun = Instant::now();
            let result = timeout(self.shared.config.probe_timeout, probe.measure(Arc::clone(&url))).await;
            let setup = match result {
                Ok(Ok(setup)) => Some(setup),
                Ok(Err(error)) => {
                    tracing::debug!(url = shown(&url), error = &*error, "probe failed");
                    if error.downcast_ref().is_some_and(net::ConnectError::is_local) {
                        self.pause(index).await;
                        continue;
                    }
                    None
                }
                Err(_) => {
                    tracing::debug!(url = shown(&url), "probe took too long");
                    None
                }
            };
            self.probed(index, begun, setup);
            self.pause(index).await;
        }
    }

    /// Waits until the next probe of the host is due.
    async fn pause(&self, index: usize) {
        let regular = Instant::now() + jittered(self.shared.config.probe_interval);
        loop {
            let until = self.lock().hosts[index].health.until();
            let due = until
                .filter(|until| *until > Instant::now())
                .map_or(regular, |until| until.min(regular));
            tokio::select! {
                () = sleep_until(due) => return,
                () = self.shared.wake[index].notified() => {}
            }
        }
    }
}

/// The interval give or take a tenth, so that many replicas do not probe in step.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * rand::random::<f64>())
}
