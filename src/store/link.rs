//! One connection, one question at a time.

use std::time::Duration;

use super::config::Config;
use super::connection::{Connection, within};
use super::error::Error;
use super::script::Script;

/// How many times the configured timeout a slow store may take in the end.
const MOST_PATIENT: u32 = 4;

/// A link to the store. Connects when first asked, and again after every failure.
pub struct Link {
    config: Config,
    /// How long an answer may take now: longer after one that did not come in time, and less again with each that does. A store that many
    /// ask at once answers late, and who gives up then asks again and makes it later still.
    patience: Duration,
    connection: Option<Connection>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// A link that is not connected yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            config: config.clone(),
            patience: config.timeout,
            connection: None,
        }
    }

    /// Runs `script` with `keys` and one argument; returns its text.
    ///
    /// # Errors
    /// [`Error`] when no answer came in time. The step may have been taken, or may still be taken later. In a cluster it may even have been
    /// taken twice: a question whose connection broke is sent again there.
    ///
    /// # Cancel safety
    /// Not safe: the step may be taken, and the answer would be lost; the connection is closed then.
    pub async fn run(&mut self, script: &Script, keys: &[String], argument: &str) -> Result<String, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.config).await?,
        };
        let arguments = [argument.as_bytes()];
        let answer = within(self.patience, script.run(&mut connection, keys, &arguments)).await;
        let timeout = self.config.timeout;
        self.patience = match &answer {
            Ok(_) => (self.patience / 8 * 7).max(timeout),
            Err(Error::Timeout(_)) => (self.patience * 2).min(timeout * MOST_PATIENT),
            Err(_) => self.patience,
        };
        let answer = answer?;
        // Only a connection that answered is used again.
        self.connection = Some(connection);
        Ok(answer)
    }
}
