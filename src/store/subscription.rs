//! What others say on channels.

use std::collections::HashMap;
use std::fmt;
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

type Heard = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// Who listens to which channel. Messages are passed on as they come, so that none has to be kept.
#[derive(Default)]
pub(super) struct Subscribers(Mutex<HashMap<String, Heard>>);

impl fmt::Debug for Subscribers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.channels()).finish()
    }
}

impl Subscribers {
    /// Passes on what is said on `channel`, to this subscriber in place of an earlier one. Says
    /// whether there was none.
    pub(super) fn add(&self, channel: String, heard: Heard) -> bool {
        self.map().insert(channel, heard).is_none()
    }

    pub(super) fn channels(&self) -> Vec<String> {
        self.map().keys().cloned().collect()
    }

    pub(super) fn missed(&self) {
        let all: Vec<_> = self.map().values().cloned().collect();
        for heard in all {
            heard(Event::Missed);
        }
    }

    fn message(&self, channel: &str, message: &[u8]) {
        let heard = self.map().get(channel).cloned();
        if let Some(heard) = heard {
            heard(Event::Message(message));
        }
    }

    /// What came over the connection over which commands are sent.
    pub(super) fn pushed(&self, push: PushInfo) {
        match (push.kind, &*push.data) {
            (PushKind::Message, [channel, message]) => {
                let channel = String::from_redis_value_ref(channel);
                let message = Vec::<u8>::from_redis_value_ref(message);
                if let (Ok(channel), Ok(message)) = (channel, message) {
                    self.message(&channel, &message);
                }
            }
            (PushKind::Disconnection, _) => self.missed(),
            _ => {}
        }
    }

    fn map(&self) -> MutexGuard<'_, HashMap<String, Heard>> {
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
        let mut pause = LISTEN_AGAIN.0;
        loop {
            let ended = match listener(&config, &subscribers.channels()).await {
                Ok((subscription, unheard)) => {
                    pause = LISTEN_AGAIN.0;
                    // Something may have been said before we listened.
                    subscribers.missed();
                    let ended = hear(subscription, &unheard, &config, &subscribers).await;
                    subscribers.missed();
                    ended
                }
                Err(error) => Err(error),
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
            subscribers.message(message.get_channel_name(), message.get_payload_bytes());
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
