//! The background tasks of one simulator.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Clones share the same set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Runs `work` until it ends by itself; [`Tasks::finish`] waits for it.
    #[expect(clippy::disallowed_methods, reason = "the one place where tasks are spawned")]
    pub(crate) fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(self.tracker.track_future(work))
    }

    /// Runs `work` until it ends or [`Tasks::finish`] is called.
    pub(crate) fn spawn_until_stopped(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.spawn(async move {
            stop.run_until_cancelled_owned(work).await;
        });
    }

    /// Waits for all tasks, at most `limit`. Returns how many are left.
    pub(crate) async fn finish(&self, limit: Duration) -> usize {
        self.stop.cancel();
        self.tracker.close();
        // The tracker's count says how many are left; that the wait timed out adds nothing to that.
        let _ = tokio::time::timeout(limit, self.tracker.wait()).await;
        self.tracker.len()
    }
}
