//! One connection, many questions at once.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError};

use super::config::Config;
use super::error::Error;
use super::link::{ANSWERS_TO_CONNECT, Script};

/// A link to the store that many ask at once, each with a time limit of its own. Connects when first asked, and again after a failure.
///
/// For questions whose answers may be missed; whoever has to know whether a step was taken uses a [`Link`](super::Link).
pub struct Hub {
    client: Client,
    timeout: Duration,
    line: Mutex<Line>,
}

/// The connection that is open or being opened. Opening goes on from one question to the next: none of them may have time enough for it.
#[derive(Default)]
struct Line {
    number: u64,
    opening: Option<Opening>,
}

type Opening = Shared<BoxFuture<'static, Result<MultiplexedConnection, Arc<RedisError>>>>;

impl Hub {
    /// A link that is not connected yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            client: config.client.clone(),
            timeout: config.timeout,
            line: Mutex::default(),
        }
    }

    /// Runs `script` with `keys` and `arguments`, and returns its text. Waits no longer than `limit`.
    ///
    /// # Errors
    /// [`Error`] when no answer came in time. The step may have been taken, or may still be taken later.
    ///
    /// # Cancel safety
    /// The step may be taken, and its answer is lost; nobody else's is.
    pub async fn run(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[&[u8]],
        limit: Duration,
    ) -> Result<Option<Vec<u8>>, Error> {
        let (number, opening) = self.line();
        let asked = async {
            let mut connection = opening.await.map_err(Error::Unreachable)?;
            let mut invocation = script.0.prepare_invoke();
            for key in keys {
                invocation.key(key.as_str());
            }
            for argument in arguments {
                invocation.arg(*argument);
            }
            Ok(invocation.invoke_async(&mut connection).await?)
        };
        let answer = tokio::time::timeout(limit, asked).await;
        let answer = answer.unwrap_or(Err(Error::Timeout(limit)));
        if answer.is_err() {
            self.hang_up(number);
        }
        answer
    }

    fn line(&self) -> (u64, Opening) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opening) = &line.opening {
            return (line.number, opening.clone());
        }
        let opening = open(self.client.clone(), self.timeout * ANSWERS_TO_CONNECT)
            .boxed()
            .shared();
        line.number += 1;
        line.opening = Some(opening.clone());
        (line.number, opening)
    }

    /// The next question opens a new connection, unless one has been opened since. One that is still being opened is left to that.
    fn hang_up(&self, number: u64) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = line.opening.as_ref().is_some_and(|opening| opening.peek().is_some());
        if line.number == number && opened {
            line.opening = None;
        }
    }
}

async fn open(client: Client, limit: Duration) -> Result<MultiplexedConnection, Arc<RedisError>> {
    // The time limits are ours, around each question; the crate's own would only add a second set.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    let opening = client.get_multiplexed_async_connection_with_config(&config);
    match tokio::time::timeout(limit, opening).await {
        Ok(opened) => opened.map_err(Arc::new),
        Err(_) => Err(Arc::new(RedisError::from(std::io::Error::from(
            std::io::ErrorKind::TimedOut,
        )))),
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}
