//! Hearing what becomes of other replicas' calls.

use std::sync::Arc;
use std::time::Duration;

use super::layer::Inner;
use crate::store::Wakes;

/// How long to wait before listening again after the store was lost.
const AGAIN: Duration = Duration::from_millis(200);

/// Listens for as long as it is polled.
pub(super) async fn listen(inner: Arc<Inner>) {
    let channel = inner.config.channel();
    loop {
        match Wakes::listen(&inner.config.store, &[&channel]).await {
            Ok(mut wakes) => {
                inner.depot.greet().await;
                // Something may have been said before we listened, and is being said when the connection is lost.
                inner.bells.ring_all();
                while let Some((_, message)) = wakes.next().await {
                    inner.bells.ring(&String::from_utf8_lossy(&message));
                }
                inner.bells.ring_all();
            }
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "cannot listen to the store"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}
