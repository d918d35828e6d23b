//! One connection, one question at a time.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client};

use super::config::Config;
use super::error::Error;
use super::wakes::Wakes;

/// A script that runs in the store as one atomic step.
#[derive(Debug)]
pub struct Script(pub(super) redis::Script);

impl Script {
    /// The script's Lua source. It is sent once to a server that does not know it, and by its digest afterwards.
    #[must_use]
    pub fn new(source: &str) -> Self {
        Self(redis::Script::new(source))
    }
}

/// A link to the store. Connects when first asked, and again after every failure.
#[derive(Debug)]
pub struct Link {
    client: Client,
    timeout: Duration,
    connection: Option<MultiplexedConnection>,
}

/// Opening a connection takes several answers: TCP, TLS, AUTH.
pub(super) const ANSWERS_TO_CONNECT: u32 = 4;

impl Link {
    /// A link that is not connected yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            client: config.client.clone(),
            timeout: config.timeout,
            connection: None,
        }
    }

    /// Runs `script` with `keys` and one argument; returns its text.
    ///
    /// # Errors
    /// [`Error`] when no answer came in time. The step may have been taken, or may still be taken later.
    ///
    /// # Cancel safety
    /// Not safe: the step may be taken, and the answer would be lost; the connection is closed then.
    pub async fn run(&mut self, script: &Script, keys: &[String], argument: &str) -> Result<String, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let mut invocation = script.0.prepare_invoke();
        for key in keys {
            invocation.key(key.as_str());
        }
        invocation.arg(argument);
        let asked = tokio::time::timeout(self.timeout, invocation.invoke_async(&mut connection));
        let answer = asked.await.map_err(|_| Error::Timeout(self.timeout))??;
        // Only a connection that answered is used again.
        self.connection = Some(connection);
        Ok(answer)
    }

    /// Opens a connection of its own that hears what is said on `channel`.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be reached in time.
    pub async fn listen(&self, channel: &str) -> Result<Wakes, Error> {
        let limit = self.timeout * ANSWERS_TO_CONNECT;
        let opening = async {
            let mut subscription = self.client.get_async_pubsub().await?;
            subscription.subscribe(channel).await?;
            Ok(Wakes::new(subscription))
        };
        tokio::time::timeout(limit, opening)
            .await
            .map_err(|_| Error::Timeout(limit))?
    }

    async fn connect(&self) -> Result<MultiplexedConnection, Error> {
        let limit = self.timeout * ANSWERS_TO_CONNECT;
        // The time limits are ours, around each question; the crate's own would only add a second set.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let opening = self.client.get_multiplexed_async_connection_with_config(&config);
        Ok(tokio::time::timeout(limit, opening)
            .await
            .map_err(|_| Error::Timeout(limit))??)
    }
}
