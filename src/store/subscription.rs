//! What others say on channels.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use redis::aio::PubSub;
use redis::{FromRedisValue as _, PushInfo, PushKind};
use tokio_util::sync::DropGuard;

use super::Error;
use super::address::Config;
use super::connection::{listener, longest, within};
use super::limited_stream::Unheard;
use crate::task::Tasks;

/// How long to wait before listening again after the connection was lost; twice as long after each
/// further failure, up to the second.
const LISTEN_AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(3200));

/// After so many times the timeout, and after this time at most, a connection that only brings
/// messages has to answer: one that is broken may stay silent for ever.
const CHECK: (u32, Duration) = (60, Duration::from_secs(15));

/// What a subscriber hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A message.
    Message(&'a [u8]),
    /// The connection is another one, or gone: messages may have been missed, and the store may be
    /// another.
    Missed,
}

/// Is told of an event; `false` when nobody listens any more.
type Heard = Arc<dyn Fn(Event<'_>) -> bool + Send + Sync>;

/// Who listens to which channel: several, while requests of an earlier configuration are under way.
/// Messages are passed on as they come, so that none has to be kept.
#[derive(Default)]
pub(super) struct Subscribers {
    channels: Mutex<HashMap<String, Vec<Heard>>>,
    /// Why it is not possible to listen now, if it is not.
    failure: Mutex<Option<String>>,
}

impl Subscribers {
    /// Passes on what is said on `channel` to this subscriber too. Says whether it is the first.
    pub(super) fn add(&self, channel: String, heard: Heard) -> bool {
        let mut map = self.map();
        let is_new = !map.contains_key(&channel);
        map.entry(channel).or_default().push(heard);
        is_new
    }

    pub(super) fn channels(&self) -> Vec<String> {
        self.map().keys().cloned().collect()
    }

    /// Notes that messages come, or why they do not.
    pub(super) fn note(&self, failure: Option<&Error>) {
        let failure = failure.map(|error| super::reason(error));
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn missed(&self) {
        for channel in self.channels() {
            self.tell(&channel, Event::Missed);
        }
    }

    /// Tells all who listen to the channel, and forgets who does not any more.
    fn tell(&self, channel: &str, event: Event<'_>) {
        let mut all = self.map().get(channel).cloned().unwrap_or_default();
        all.retain(|heard| !heard(event));
        if !all.is_empty()
            && let Some(listening) = self.map().get_mut(channel)
        {
            listening.retain(|heard| !all.iter().any(|gone| Arc::ptr_eq(gone, heard)));
        }
    }

    /// What came over the connection over which commands are sent.
    pub(super) fn pushed(&self, push: PushInfo) {
        match (push.kind, &*push.data) {
            (PushKind::Message, [channel, message]) => {
                let channel = String::from_redis_value_ref(channel);
                let message = Vec::<u8>::from_redis_value_ref(message);
                if let (Ok(channel), Ok(message)) = (channel, message) {
                    self.tell(&channel, Event::Message(&message));
                }
            }
            (PushKind::Disconnection, _) => self.missed(),
            _ => {}
        }
    }

    fn map(&self) -> MutexGuard<'_, HashMap<String, Vec<Heard>>> {
        // Nothing in here panics halfway through a change.
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens over a connection of its own, to a store where commands and messages need two, for as
/// long as the guard is kept.
pub(super) fn listen(config: &Config, subscribers: &Arc<Subscribers>) -> DropGuard {
    let (tasks, guard) = Tasks::new().branch();
    let (config, subscribers) = (config.clone(), Arc::clone(subscribers));
    tasks.spawn_upkeep("store messages", async move {
        let mut pause = LISTEN_AGAIN.0;
        loop {
            let ended = match listener(&config, &subscribers.channels()).await {
                Ok((subscription, unheard)) => {
                    pause = LISTEN_AGAIN.0;
                    subscribers.note(None);
                    // Something may have been said before we listened.
                    subscribers.missed();
                    let ended = hear(subscription, &unheard, &config, &subscribers).await;
                    subscribers.missed();
                    ended
                }
                Err(error) => {
                    subscribers.note(Some(&error));
                    Err(error)
                }
            };
            if let Err(error) = ended {
                tracing::debug!(error = &error as &dyn std::error::Error, "cannot listen to the store");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LISTEN_AGAIN.1);
        }
    });
    guard
}

/// Passes messages on until the connection ends, or no longer answers.
async fn hear(
    subscription: PubSub,
    unheard: &Unheard,
    config: &Config,
    subscribers: &Subscribers,
) -> Result<(), Error> {
    let (mut sink, mut messages) = subscription.split();
    let pass_on = async {
        while let Some(message) = messages.next().await {
            unheard.heard();
            let heard = Event::Message(message.get_payload_bytes());
            subscribers.tell(message.get_channel_name(), heard);
        }
        Ok(())
    };
    let (timeouts, most) = CHECK;
    let check = async {
        loop {
            tokio::time::sleep((config.timeout * timeouts).min(most)).await;
            within(longest(config), async { Ok(sink.ping::<redis::Value>().await?) }).await?;
            // The answer has arrived like a message.
            unheard.heard();
        }
    };
    tokio::select! {
        ended = pass_on => ended,
        failed = check => failed,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn all_who_listen_to_a_channel_hear_what_is_said_there() {
        let subscribers = Subscribers::default();
        let counts: [Arc<AtomicUsize>; 2] = Default::default();
        let [before, now] = counts.each_ref().map(Arc::downgrade);
        for (count, is_first) in [(before, true), (now, false)] {
            let heard = move |_: Event<'_>| {
                let count = count.upgrade();
                count.map(|count| count.fetch_add(1, Ordering::Relaxed)).is_some()
            };
            assert_eq!(subscribers.add("a".into(), Arc::new(heard)), is_first);
        }
        subscribers.tell("a", Event::Message(b"x"));
        subscribers.tell("b", Event::Message(b"x"));
        subscribers.missed();
        let [before, now] = counts;
        assert_eq!([&before, &now].map(|count| count.load(Ordering::Relaxed)), [2, 2]);
        drop(before);
        subscribers.tell("a", Event::Message(b"y"));
        assert_eq!(now.load(Ordering::Relaxed), 3);
        assert_eq!(subscribers.map().get("a").map(Vec::len), Some(1));
    }
}
