//! Background tasks: each has a name, is told to stop, and is awaited by the drain.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// The tasks of one running gateway. Clones share the same set.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    /// Those of them that are not upkeep.
    work: TaskTracker,
    stop: CancellationToken,
    /// Cancelled when upkeep has panicked.
    failed: CancellationToken,
}

impl Tasks {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `work` in the background until it ends by itself; [`Tasks::finish`] waits for it.
    ///
    /// For work that a request waits for, such as a flight.
    pub fn spawn<F>(&self, name: &'static str, work: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.start(name, self.work.track_future(work))
    }

    #[expect(clippy::disallowed_methods, reason = "the one place where tasks are spawned")]
    fn start<F>(&self, name: &'static str, work: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(
            self.tracker
                .track_future(work.instrument(tracing::debug_span!(parent: None, "task", name))),
        )
    }

    /// Runs `work` in the background until it ends or [`Tasks::finish`] is called, which drops it
    /// at its next await.
    ///
    /// For upkeep that no request waits for, such as probing regions. Should it panic,
    /// [`Tasks::failed`] resolves: nobody else would miss it.
    pub fn spawn_upkeep<F>(&self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_until_stopped(name, Box::pin(work));
    }

    /// In a box, like all upkeep, so that what surrounds a task is compiled once for all of them.
    fn spawn_until_stopped(&self, name: &'static str, work: BoxFuture<'static, ()>) {
        let stop = self.stop.clone();
        let until_stopped = async move {
            stop.run_until_cancelled_owned(work).await;
        };
        self.spawn_supervised(name, Box::pin(until_stopped));
    }

    /// Upkeep that ends by itself after [`Tasks::stopping`], and has something to do then.
    pub fn spawn_upkeep_to_end<F>(&self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_supervised(name, Box::pin(work));
    }

    fn spawn_supervised(&self, name: &'static str, work: BoxFuture<'static, ()>) {
        let failed = self.failed.clone();
        self.start(name, async move {
            // What the task leaves behind is used no longer than the drain takes.
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                tracing::error!(task = name, "a background task has ended by a panic");
                failed.cancel();
            }
        });
    }

    /// A subset whose upkeep also ends when the guard is dropped, for parts that may be replaced
    /// while the gateway runs.
    pub fn branch(&self) -> (Self, DropGuard) {
        let stop = self.stop.child_token();
        let branch = Self {
            stop: stop.clone(),
            ..self.clone()
        };
        (branch, stop.drop_guard())
    }

    /// Resolves when [`Tasks::finish`] has been called.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Resolves when upkeep has panicked: the gateway had better be started anew.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Whether upkeep has panicked.
    pub fn has_failed(&self) -> bool {
        self.failed.is_cancelled()
    }

    /// How many tasks are alive.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether no task is alive.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Waits for work until `until` at the latest; more may come meanwhile. Upkeep goes on: it says to
    /// others how work has ended.
    pub async fn settle(&self, until: Instant) {
        self.work.close();
        // Who is late is counted at the end.
        let _ = tokio::time::timeout_at(until, self.work.wait()).await;
    }

    /// Stops upkeep and waits for all tasks, at most `limit`. Returns how many are left.
    pub async fn finish(&self, limit: Duration) -> usize {
        self.stop.cancel();
        self.tracker.close();
        // The tracker's count says how many are left; that the wait timed out adds nothing to that.
        let _ = tokio::time::timeout(limit, self.tracker.wait()).await;
        self.tracker.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn finish_drops_upkeep_and_awaits_work() {
        let tasks = Tasks::new();
        tasks.spawn_upkeep("forever", std::future::pending());
        let work = tasks.spawn("work", async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            7
        });
        assert_eq!(tasks.finish(Duration::from_secs(5)).await, 0);
        assert_eq!(work.await.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn upkeep_goes_on_until_work_has_settled_or_takes_too_long() {
        let tasks = Tasks::new();
        tasks.spawn_upkeep("forever", std::future::pending());
        let begun = Instant::now();
        for (takes, settled) in [(1, 1), (60, 2)] {
            tasks.spawn("work", tokio::time::sleep(Duration::from_secs(takes)));
            tasks.settle(begun + Duration::from_secs(2)).await;
            assert_eq!(begun.elapsed().as_secs(), settled);
        }
        assert_eq!(tasks.len(), 2);
        assert_eq!(tasks.finish(Duration::from_secs(1)).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_branch_ends_alone_or_with_the_whole() {
        let tasks = Tasks::new();
        let (branch, guard) = tasks.branch();
        branch.spawn_upkeep("replaced", std::future::pending());
        let (other, _guard) = tasks.branch();
        other.spawn_upkeep("kept", std::future::pending());
        assert_eq!(tasks.len(), 2);
        drop(guard);
        while tasks.len() > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(tasks.finish(Duration::from_secs(5)).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn upkeep_that_panics_is_missed_by_the_whole() {
        let tasks = Tasks::new();
        let (branch, _guard) = tasks.branch();
        branch.spawn_upkeep("ends well", async {});
        while !tasks.is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(!tasks.has_failed());
        branch.spawn_upkeep("panics", async { panic!("a defect") });
        tasks.failed().await;
        assert!(tasks.has_failed());
    }

    #[tokio::test(start_paused = true)]
    async fn finish_is_bounded_and_counts_remaining_tasks() {
        let tasks = Tasks::new();
        let _stuck = tasks.spawn("stuck", std::future::pending::<()>());
        assert_eq!(tasks.finish(Duration::from_secs(5)).await, 1);
    }
}
