//! Who waits for which word from another replica.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::config::Name;

/// What has become of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The answer is in the store.
    Landed,
    /// There is no answer; somebody else may try.
    Failed,
    /// There is an answer, but it cannot be shared.
    Alone,
    /// Nobody knows: look again.
    Look,
}

impl Word {
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
pub(super) struct Bells(Mutex<HashMap<Name, watch::Sender<Word>>>);

/// Rings when there is word of a question. Dropped, it is taken down.
#[derive(Debug)]
pub(super) struct Bell {
    bells: Arc<Bells>,
    name: Name,
    word: watch::Receiver<Word>,
}

impl Bells {
    /// A bell for the only one in this process who waits for `name`. What is said from now on is not missed.
    pub(super) fn hang(self: &Arc<Self>, name: &Name) -> Bell {
        let (sender, word) = watch::channel(Word::Look);
        self.map().insert(name.clone(), sender);
        Bell {
            bells: Arc::clone(self),
            name: name.clone(),
            word,
        }
    }

    /// Passes a message on to whom it concerns.
    pub(super) fn ring(&self, message: &str) {
        if let Some((word, name)) = Word::parse(message)
            && let Some(bell) = self.map().get(&name)
        {
            bell.send_replace(word);
        }
    }

    /// Messages may have been lost: all have to look.
    pub(super) fn ring_all(&self) {
        for bell in self.map().values() {
            bell.send_replace(Word::Look);
        }
    }

    fn map(&self) -> MutexGuard<'_, HashMap<Name, watch::Sender<Word>>> {
        // Nothing in here panics halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bell {
    /// The next word; of several, the latest.
    ///
    /// # Cancel safety
    /// Safe: the word is still there.
    pub(super) async fn word(&mut self) -> Word {
        if self.word.changed().await.is_err() {
            // Another has taken the place, which the board does not let happen; looking is never wrong.
            std::future::pending::<()>().await;
        }
        *self.word.borrow_and_update()
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        let mut map = self.bells.map();
        if map
            .get(&self.name)
            .is_some_and(|bell| bell.subscribe().same_channel(&self.word))
        {
            map.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bell_rings_for_its_question_only_and_misses_nothing() {
        let bells = Arc::new(Bells::default());
        let name = Name::new("aa");
        let mut bell = bells.hang(&name);
        bells.ring(&Word::Landed.message(&Name::new("bb")));
        bells.ring("");
        assert!(!bell.word.has_changed().unwrap());
        for word in [Word::Landed, Word::Failed, Word::Alone] {
            bells.ring(&word.message(&name));
            assert_eq!(bell.word().await, word);
        }
        bells.ring("~aa");
        assert_eq!(bell.word().await, Word::Look);
        bells.ring_all();
        assert_eq!(bell.word().await, Word::Look);
        drop(bell);
        assert!(bells.map().is_empty());
    }
}
