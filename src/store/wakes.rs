//! What others say on channels.

use std::fmt;

use futures_util::StreamExt as _;
use redis::aio::PubSubStream;

use super::config::Config;
use super::connection::{listener, longest, within};
use super::error::Error;
use super::wire::Unheard;

/// Messages on channels. Some may be lost; whoever listens must also look from time to time.
pub struct Wakes {
    messages: PubSubStream,
    unheard: Unheard,
}

impl fmt::Debug for Wakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wakes").finish_non_exhaustive()
    }
}

impl Wakes {
    /// Opens a connection of its own that hears what is said on these channels.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be reached in time.
    pub async fn listen(config: &Config, channels: &[&str]) -> Result<Self, Error> {
        within(longest(config), async {
            let unheard = Unheard::default();
            let mut subscription = listener(config).await?.subscribe(unheard.clone()).await?;
            subscription.subscribe(channels).await?;
            let messages = subscription.into_on_message();
            Ok(Self { messages, unheard })
        })
        .await
    }

    /// The next message, and on which channel; `None` when the connection is gone.
    ///
    /// # Cancel safety
    /// Safe: no message is lost.
    pub async fn next(&mut self) -> Option<(String, Vec<u8>)> {
        let message = self.messages.next().await?;
        self.unheard.heard();
        Some((
            message.get_channel_name().to_owned(),
            message.get_payload_bytes().to_vec(),
        ))
    }
}
