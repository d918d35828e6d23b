//! What others say on a channel.

use std::fmt;

use futures_util::StreamExt as _;
use redis::aio::PubSubStream;

use super::config::Config;
use super::connection::{listener, longest, within};
use super::error::Error;

/// Messages on a channel. Some may be lost; whoever listens must also look from time to time.
pub struct Wakes(PubSubStream);

impl fmt::Debug for Wakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Wakes").finish_non_exhaustive()
    }
}

impl Wakes {
    /// Opens a connection of its own that hears what is said on `channel`.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be reached in time.
    pub async fn listen(config: &Config, channel: &str) -> Result<Self, Error> {
        within(longest(config), async {
            let mut subscription = listener(config).await?.get_async_pubsub().await?;
            subscription.subscribe(channel).await?;
            Ok(Self(subscription.into_on_message()))
        })
        .await
    }

    /// The next message; `None` when the connection is gone.
    ///
    /// # Cancel safety
    /// Safe: no message is lost.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        self.0.next().await.map(|message| message.get_payload_bytes().to_vec())
    }
}
