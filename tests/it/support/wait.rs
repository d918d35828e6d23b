//! Waiting for a condition.

use std::future::Future;
use std::time::Duration;

/// Only a test that fails waits this long: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// What `work` returns.
///
/// # Panics
/// It took too long.
pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Looks until `look` finds something.
///
/// # Panics
/// It never did.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}
