//! Who waits for which word from another replica.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::config::Name;

/// What has become of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseEvent {
    /// The answer is in the store.
    Landed,
    /// There is no answer; somebody else may try.
    Failed,
    /// There is an answer, but it cannot be shared.
    Alone,
    /// Nobody knows: look again.
    Look,
}

impl LeaseEvent {
    /// The message about a question.
    pub(super) fn message(self, name: &Name) -> String {
        let sign = match self {
            Self::Landed => '+',
            Self::Failed => '-',
            Self::Alone => '!',
            Self::Look => '?',
        };
        format!("{sign}{}", name.as_str())
    }

    /// Reads a message. A sign of a later version means: look.
    fn parse(message: &str) -> Option<(Self, Name)> {
        let mut chars = message.chars();
        let word = match chars.next()? {
            '+' => Self::Landed,
            '-' => Self::Failed,
            '!' => Self::Alone,
            _ => Self::Look,
        };
        Some((word, Name::new(chars.as_str())))
    }
}

/// The bells of those who follow, one for each question.
#[derive(Debug, Default)]
pub(super) struct Waiters(Mutex<HashMap<Name, watch::Sender<LeaseEvent>>>);

/// Rings when there is word of a question. Dropped, it is taken down.
#[derive(Debug)]
pub(super) struct Waiter {
    waiters: Arc<Waiters>,
    name: Name,
    word: watch::Receiver<LeaseEvent>,
}

impl Waiters {
    /// A bell for the only one in this process who waits for `name`. What is said from now on is not missed.
    pub(super) fn register(self: &Arc<Self>, name: &Name) -> Waiter {
        let (sender, word) = watch::channel(LeaseEvent::Look);
        self.map().insert(name.clone(), sender);
        Waiter {
            waiters: Arc::clone(self),
            name: name.clone(),
            word,
        }
    }

    /// Passes a message on to whom it concerns.
    pub(super) fn notify(&self, message: &str) {
        if let Some((word, name)) = LeaseEvent::parse(message)
            && let Some(waiter) = self.map().get(&name)
        {
            waiter.send_replace(word);
        }
    }

    /// Messages may have been lost: all have to look.
    pub(super) fn ring_all(&self) {
        for waiter in self.map().values() {
            waiter.send_replace(LeaseEvent::Look);
        }
    }

    fn map(&self) -> MutexGuard<'_, HashMap<Name, watch::Sender<LeaseEvent>>> {
        // Nothing in here panics halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    /// The next word; of several, the latest.
    ///
    /// # Cancel safety
    /// Safe: the word is still there.
    pub(super) async fn word(&mut self) -> LeaseEvent {
        if self.word.changed().await.is_err() {
            // Another has taken the place, which the board does not let happen; looking is never wrong.
            std::future::pending::<()>().await;
        }
        *self.word.borrow_and_update()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut map = self.waiters.map();
        if map
            .get(&self.name)
            .is_some_and(|waiter| waiter.subscribe().same_channel(&self.word))
        {
            map.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_waiter_wakes_for_its_key_only_and_misses_nothing() {
        let waiters = Arc::new(Waiters::default());
        let name = Name::new("aa");
        let mut waiter = waiters.register(&name);
        waiters.notify(&LeaseEvent::Landed.message(&Name::new("bb")));
        waiters.notify("");
        assert!(!waiter.word.has_changed().unwrap());
        for word in [LeaseEvent::Landed, LeaseEvent::Failed, LeaseEvent::Alone] {
            waiters.notify(&word.message(&name));
            assert_eq!(waiter.word().await, word);
        }
        waiters.notify("~aa");
        assert_eq!(waiter.word().await, LeaseEvent::Look);
        waiters.ring_all();
        assert_eq!(waiter.word().await, LeaseEvent::Look);
        drop(waiter);
        assert!(waiters.map().is_empty());
    }
}
