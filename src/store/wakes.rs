//! What others say on a channel.

use std::fmt;

use futures_util::StreamExt as _;
use redis::aio::{PubSub, PubSubStream};

/// Messages on a channel. Some may be lost; whoever listens must also look from time to time.
pub struct Wakes(PubSubStream);

impl fmt::Debug for Wakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Wakes").finish_non_exhaustive()
    }
}

impl Wakes {
    pub(super) fn new(subscription: PubSub) -> Self {
        Self(subscription.into_on_message())
    }

    /// The next message; `None` when the connection is gone.
    ///
    /// # Cancel safety
    /// Safe: no message is lost.
    pub async fn next(&mut self) -> Option<String> {
        self.0
            .next()
            .await
            .map(|message| message.get_payload().unwrap_or_default())
    }
}
