//! Many questions at once over one connection.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, FromRedisValue, cmd};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::config::Config;
use super::connection::{Connection, within};
use super::error::Error;
use super::script::Script;

/// Plain questions to the store. Clones share one connection, over which many questions can be under way.
///
/// Each waits for at most the configured timeout, besides the one that connects. After a failure all fail at once for a moment: a store
/// that is gone costs nobody any time.
///
/// # Cancel safety
/// All questions are safe to cancel; whether the store did what it was asked is not known then.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    config: Config,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    /// Counts connections, so that one failure of many questions closes one connection.
    opened: u64,
    rest: Option<(Instant, Duration)>,
}

/// How long a store that failed is left alone: the first time, and at most.
const REST: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("config", &self.0.config)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client that is not connected yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self(Arc::new(Shared {
            config: config.clone(),
            state: Mutex::default(),
        }))
    }

    /// What is stored under `key`.
    ///
    /// # Errors
    /// [`Error`] when no answer came in time.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        self.ask(cmd("GET").arg(key)).await
    }

    /// Stores `value` under `key`; the store forgets it after `ttl`, counted in milliseconds, at least one.
    ///
    /// # Errors
    /// [`Error`] when no answer came in time.
    pub async fn set(&self, key: &str, value: &[u8], ttl: Duration) -> Result<(), Error> {
        self.ask(cmd("SET").arg(key).arg(value).arg("PX").arg(millis(ttl)))
            .await
    }

    /// The same, unless something is stored there already; says whether it was stored.
    ///
    /// # Errors
    /// [`Error`] when no answer came in time.
    pub async fn claim(&self, key: &str, value: &[u8], ttl: Duration) -> Result<bool, Error> {
        let answer: Option<String> = self
            .ask(cmd("SET").arg(key).arg(value).arg("NX").arg("PX").arg(millis(ttl)))
            .await?;
        Ok(answer.is_some())
    }

    /// Forgets what is stored under `key`; says whether there was something.
    ///
    /// # Errors
    /// [`Error`] when no answer came in time.
    pub async fn remove(&self, key: &str) -> Result<bool, Error> {
        self.ask(cmd("DEL").arg(key)).await
    }

    /// Says `message` on `channel`, to all who listen now ([`listen`](super::Wakes::listen)).
    ///
    /// # Errors
    /// [`Error`] when no answer came in time.
    pub async fn publish(&self, channel: &str, message: &[u8]) -> Result<(), Error> {
        let _listeners: i64 = self.ask(cmd("PUBLISH").arg(channel).arg(message)).await?;
        Ok(())
    }

    /// Runs `script`, which returns bytes or nothing. In a cluster all `keys` must have one hash tag.
    ///
    /// # Errors
    /// [`Error`] when no answer came in time. The script may have run, or may still run.
    pub async fn run(&self, script: &Script, keys: &[String], arguments: &[&[u8]]) -> Result<Option<Vec<u8>>, Error> {
        let (mut connection, opened) = self.connection().await?;
        let answer = within(self.0.config.timeout, script.run(&mut connection, keys, arguments)).await;
        self.judge(answer, opened).await
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Error> {
        let (mut connection, opened) = self.connection().await?;
        let asked = async { Ok(command.query_async(&mut connection).await?) };
        let answer = within(self.0.config.timeout, asked).await;
        self.judge(answer, opened).await
    }

    async fn connection(&self) -> Result<(Connection, u64), Error> {
        // Whoever comes while it is being opened waits for it, no longer than for an answer.
        let lock = within(self.0.config.timeout, async { Ok(self.0.state.lock().await) });
        let mut state = lock.await?;
        if let Some(connection) = &state.connection {
            return Ok((connection.clone(), state.opened));
        }
        if state.rest.is_some_and(|(until, _)| Instant::now() < until) {
            return Err(Error::Resting);
        }
        match Connection::open(&self.0.config).await {
            Ok(connection) => {
                state.opened += 1;
                state.connection = Some(connection.clone());
                Ok((connection, state.opened))
            }
            Err(error) => {
                state.rest();
                Err(error)
            }
        }
    }

    async fn judge<T>(&self, answer: Result<T, Error>, opened: u64) -> Result<T, Error> {
        let mut state = self.0.state.lock().await;
        match &answer {
            Ok(_) => state.rest = None,
            Err(_) if state.opened == opened && state.connection.take().is_some() => state.rest(),
            Err(_) => {}
        }
        answer
    }
}

impl State {
    fn rest(&mut self) {
        let (first, most) = REST;
        let rest = self.rest.map_or(first, |(_, last)| (last * 2).min(most));
        self.rest = Some((Instant::now() + rest, rest));
    }
}

fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1)
}
