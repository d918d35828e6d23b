//! One connection, one question at a time.

use super::config::Config;
use super::connection::{Connection, within};
use super::error::Error;
use super::script::Script;

/// A link to the store. Connects when first asked, and again after every failure.
pub struct Link {
    config: Config,
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
        let answer = within(self.config.timeout, script.run(&mut connection, keys, &arguments)).await?;
        // Only a connection that answered is used again.
        self.connection = Some(connection);
        Ok(answer)
    }
}
