//! The lookups that wait for an event of another replica's lease, and the subscription to those
//! events.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::config::Name;
use super::layer::Inner;
use crate::store::Event;

/// How a lease ended, as published on the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseEvent {
    /// The answer is in the store.
    Completed,
    /// There is no answer; another replica may try.
    Failed,
    /// There is an answer, but it cannot be shared.
    Alone,
    /// The event is unknown: look up again.
    Look,
}

impl LeaseEvent {
    /// The message about a request.
    pub(super) fn message(self, name: &Name) -> String {
        let sign = match self {
            Self::Completed => '+',
            Self::Failed => '-',
            Self::Alone => '!',
            Self::Look => '?',
        };
        format!("{sign}{}", name.as_str())
    }

    /// Parses a message. An unknown sign, of a later version, means that the answer has to be
    /// looked up again.
    fn parse(message: &str) -> Option<(Self, Name)> {
        let mut chars = message.chars();
        let event = match chars.next()? {
            '+' => Self::Completed,
            '-' => Self::Failed,
            '!' => Self::Alone,
            _ => Self::Look,
        };
        Some((event, Name::new(chars.as_str())))
    }
}

/// The channels of the waiting lookups, one for each request.
#[derive(Debug, Default)]
pub(super) struct Waiters(Mutex<HashMap<Name, watch::Sender<LeaseEvent>>>);

/// Receives the events of one request. Dropping it removes its channel.
#[derive(Debug)]
pub(super) struct Waiter {
    waiters: Arc<Waiters>,
    name: Name,
    event: watch::Receiver<LeaseEvent>,
}

impl Waiters {
    /// Registers the only lookup of this process for `name`. Events from now on are not missed.
    pub(super) fn register(self: &Arc<Self>, name: &Name) -> Waiter {
        let (sender, event) = watch::channel(LeaseEvent::Look);
        self.map().insert(name.clone(), sender);
        Waiter {
            waiters: Arc::clone(self),
            name: name.clone(),
            event,
        }
    }

    /// Passes a message to the lookup that it concerns.
    pub(super) fn notify(&self, message: &str) {
        if let Some((event, name)) = LeaseEvent::parse(message)
            && let Some(waiter) = self.map().get(&name)
        {
            waiter.send_replace(event);
        }
    }

    /// Messages may have been lost, so all lookups have to look up again.
    pub(super) fn notify_all(&self) {
        for waiter in self.map().values() {
            waiter.send_replace(LeaseEvent::Look);
        }
    }

    fn map(&self) -> MutexGuard<'_, HashMap<Name, watch::Sender<LeaseEvent>>> {
        // No code that holds the lock panics halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    /// The next event; of several, the latest.
    ///
    /// # Cancel safety
    ///
    /// Safe: the event is still there.
    pub(super) async fn event(&mut self) -> LeaseEvent {
        if self.event.changed().await.is_err() {
            // Another lookup has replaced this one, which the registry prevents.
            std::future::pending::<()>().await;
        }
        *self.event.borrow_and_update()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut map = self.waiters.map();
        if map
            .get(&self.name)
            .is_some_and(|waiter| waiter.subscribe().same_channel(&self.event))
        {
            map.remove(&self.name);
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_waiter_wakes_for_its_key_only_and_misses_nothing() {
        let waiters = Arc::new(Waiters::default());
        let name = Name::new("aa");
        let mut waiter = waiters.register(&name);
        waiters.notify(&LeaseEvent::Completed.message(&Name::new("bb")));
        waiters.notify("");
        assert!(!waiter.event.has_changed().unwrap());
        for event in [LeaseEvent::Completed, LeaseEvent::Failed, LeaseEvent::Alone] {
            waiters.notify(&event.message(&name));
            assert_eq!(waiter.event().await, event);
        }
        waiters.notify("~aa");
        assert_eq!(waiter.event().await, LeaseEvent::Look);
        waiters.notify_all();
        assert_eq!(waiter.event().await, LeaseEvent::Look);
        drop(waiter);
        assert!(waiters.map().is_empty());
    }
}
