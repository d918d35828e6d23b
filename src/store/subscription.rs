//! What others say on channels.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use redis::{FromRedisValue as _, PushInfo, PushKind};
use tokio_util::sync::DropGuard;

use super::Error;
use super::address::Config;
use super::connection::{listener, longest, within};
use super::limited_stream::Unheard;
use crate::task::Tasks;

/// How long to wait before listening again after the connection was lost.
const LISTEN_AGAIN: Duration = Duration::from_millis(200);

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
pub(super) struct Subscribers(Mutex<HashMap<String, Vec<Heard>>>);

impl fmt::Debug for Subscribers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.channels()).finish()
    }
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens over a connection of its own, to a store where commands and messages need two, for as
/// long as the guard is kept.
pub(super) fn listen(config: &Config, subscribers: &Arc<Subscribers>) -> DropGuard {
    let (tasks, guard) = Tasks::new().branch();
    let (config, subscribers) = (config.clone(), Arc::clone(subscribers));
    tasks.spawn_upkeep("store messages", async move {
        loop {
            if let Err(error) = hear(&config, &subscribers).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "cannot listen to the store");
            }
            tokio::time::sleep(LISTEN_AGAIN).await;
        }
    });
    guard
}

async fn hear(config: &Config, subscribers: &Subscribers) -> Result<(), Error> {
    let unheard = Unheard::default();
    let mut messages = within(longest(config), async {
        let mut subscription = listener(config).await?.subscribe(unheard.clone()).await?;
        subscription.subscribe(subscribers.channels()).await?;
        Ok(subscription.into_on_message())
    })
    .await?;
    // Something may have been said before we listened.
    subscribers.missed();
    while let Some(message) = messages.next().await {
        unheard.heard();
        let heard = Event::Message(message.get_payload_bytes());
        subscribers.tell(message.get_channel_name(), heard);
    }
    subscribers.missed();
    Ok(())
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
