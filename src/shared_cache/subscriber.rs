//! The subscription to events of other replicas' leases.

use std::sync::Arc;

use super::layer::Inner;
use crate::store::Event;

/// Listens until the shared cache is dropped.
pub(super) async fn listen(inner: Arc<Inner>) {
    let (store, channel) = (inner.config.store.clone(), inner.config.channel());
    let listener = Arc::downgrade(&inner);
    let heard = move |event: Event<'_>| {
        let Some(inner) = listener.upgrade() else { return };
        match event {
            Event::Message(message) => inner.waiters.notify(&String::from_utf8_lossy(message)),
            Event::Missed => {
                inner.waiters.notify_all();
                // Connects again if necessary, and learns the store's time.
                let asks = Arc::clone(&inner);
                inner
                    .tasks
                    .spawn_upkeep("shared answers: greeting", async move { asks.backend.warm_up().await });
            }
        }
    };
    store.subscribe(channel, heard).await;
}
