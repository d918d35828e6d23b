//! Many commands at once over one connection, and messages over the same where the store can.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, FromRedisValue, cmd};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use super::Error;
use super::address::{Config, MOST_PATIENT};
use super::breaker::Breaker;
use super::connection::{Connection, within};
use super::script::Script;
use super::subscription::{self, Event, Subscribers};

/// The store, for all parts of a process. Clones share one connection, over which many commands can
/// be under way and, where the server speaks RESP3, messages come; else these come over a second
/// one. Connects when first asked, and again after every failure but a timeout; after several
/// timeouts in a row too, since the answers of a connection that is broken never come.
///
/// Each command waits for at most the configured timeout, besides the one that connects. After a
/// failure that closed the connection all fail at once for a moment: a store that is gone costs
/// nobody any time.
///
/// # Cancel safety
/// All commands are safe to cancel; whether the store did what it was told is not known then.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    config: Config,
    state: Mutex<State>,
    subscribers: Arc<Subscribers>,
    breaker: Breaker,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    /// Counts connections, so that one failure of many commands closes one connection.
    opened: u64,
    timeouts: Timeouts,
    rest: Option<(Instant, Duration)>,
    /// How much longer than the timeout a step may take: more after one that was not answered in
    /// time, and less again with each that is. A store that many ask at once answers late, and who
    /// gives up then asks again and makes it later still.
    patience: Duration,
    /// Keeps the connection for messages, where there is one.
    listener: Option<DropGuard>,
}

/// How long a store that failed is left alone: the first time, and at most.
const REST: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(400));

/// Timeouts of one connection without an answer in between.
#[derive(Clone, Copy, Debug, Default)]
struct Timeouts {
    count: u32,
    last: Option<Instant>,
}

/// After so many timeouts in a row a connection is taken to be broken.
const MOST_TIMEOUTS: u32 = 3;

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("config", &self.0.config)
            .finish_non_exhaustive()
    }
}

impl From<Config> for Client {
    fn from(config: Config) -> Self {
        Self::new(&config)
    }
}

impl Client {
    /// A client that is not connected yet.
    pub fn new(config: &Config) -> Self {
        Self(Arc::new(Shared {
            config: config.clone(),
            state: Mutex::default(),
            subscribers: Arc::default(),
            breaker: Breaker::default(),
        }))
    }

    /// What is stored under `key`.
    ///
    /// # Errors
    /// [`Error`] when no answer came in time.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        self.command(cmd("GET").arg(key)).await
    }

    /// Stores `value` under `key`; the store forgets it after `ttl`, counted in milliseconds, at
    /// least one.
    ///
    /// # Errors
    /// [`Error`] when no answer came in time.
    pub async fn set(&self, key: &str, value: &[u8], ttl: Duration) -> Result<(), Error> {
        self.command(cmd("SET").arg(key).arg(value).arg("PX").arg(millis(ttl)))
            .await
    }

    /// The same, unless something is stored there already; says whether it was stored.
    ///
    /// # Errors
    /// [`Error`] when no answer came in time.
    pub async fn claim(&self, key: &str, value: &[u8], ttl: Duration) -> Result<bool, Error> {
        let answer: Option<String> = self
            .command(cmd("SET").arg(key).arg(value).arg("NX").arg("PX").arg(millis(ttl)))
            .await?;
        Ok(answer.is_some())
    }

    /// Runs `script`, which returns bytes or nothing. In a cluster all `keys` must have one hash
    /// tag.
    ///
    /// # Errors
    /// [`Error`] when no answer came in time. The script may have run, or may still run.
    pub async fn run(&self, script: &Script, keys: &[String], arguments: &[&[u8]]) -> Result<Option<Vec<u8>>, Error> {
        let run = |mut connection| async move { script.run(&mut connection, keys, arguments).await };
        self.ask(run).await
    }

    /// Runs `script` with `keys` and one argument; returns its text. Waits for longer than the
    /// timeout where the store is slow. After a timeout the store first has to answer a command
    /// that costs it next to nothing, as patiently, so that no scripts pile up in front of one that
    /// stands still. After any other failure, or three timeouts, the next command goes to a new
    /// connection, and looks for the master again.
    ///
    /// # Errors
    /// [`Error`] when no answer came in time. The step may have been taken, or may still be taken
    /// later. In a cluster it may even have been taken twice: a command whose connection broke is
    /// sent again there.
    pub async fn step(&self, script: &Script, keys: &[String], argument: &str) -> Result<String, Error> {
        self.step_among(script, keys, argument, Duration::ZERO).await
    }

    /// The same where others may ask at the same moment, whose commands take the store `others`
    /// before it comes to this one. It is waited for so much longer, up to four times the timeout
    /// in all.
    ///
    /// # Errors
    /// As [`Client::step`].
    pub async fn step_among(
        &self,
        script: &Script,
        keys: &[String],
        argument: &str,
        others: Duration,
    ) -> Result<String, Error> {
        let (mut connection, opened) = self.connection().await?;
        let timeout = self.0.config.timeout;
        let state = self.0.state.lock().await;
        let most = timeout * (MOST_PATIENT - 1);
        let limit = timeout + state.patience.max(others).min(most);
        let was_late = state.timeouts.count > 0;
        drop(state);
        let asked = Instant::now();
        let sign_of_life = async {
            if was_late {
                let _exists: u8 = connection.query(cmd("EXISTS").arg(keys.first())).await?;
            }
            Ok(())
        };
        let answer = match within(limit, sign_of_life).await {
            Ok(()) => within(limit, script.run(&mut connection, keys, &[argument.as_bytes()])).await,
            Err(error) => Err(error),
        };
        let mut state = self.0.state.lock().await;
        state.patience = match &answer {
            Ok(_) => state.patience / 8 * 7,
            Err(Error::Timeout(_)) => (state.patience * 2 + timeout).min(most),
            Err(_) => state.patience,
        };
        drop(state);
        self.judge(answer, opened, (asked, limit)).await
    }

    /// Passes on what is said on `channel` from now on, and when something may have been missed.
    /// Some messages may be lost: whoever listens must also look from time to time. `heard` is
    /// called where messages are read and must not wait; it returns `false` once nobody listens any
    /// more.
    pub async fn subscribe(&self, channel: String, heard: impl Fn(Event<'_>) -> bool + Send + Sync + 'static) {
        let is_new = self.0.subscribers.add(channel.clone(), Arc::new(heard));
        let mut state = self.0.state.lock().await;
        match &mut state.connection {
            Some(connection) if connection.hears() => {
                if is_new && let Err(error) = within(self.0.config.timeout, connection.subscribe(&channel)).await {
                    tracing::debug!(error = &error as &dyn std::error::Error, "cannot listen to the store");
                    state.connection = None;
                }
            }
            Some(_) => state.listener = Some(subscription::listen(&self.0.config, &self.0.subscribers)),
            None => {}
        }
        drop(state);
        self.0.subscribers.missed();
    }

    /// Whether to ask something now that can be done without: not while the store is slow or gone,
    /// but for one command from time to time.
    pub fn admits(&self) -> bool {
        self.0.breaker.admits(Instant::now())
    }

    /// Whether the store answers in time, as far as is known.
    pub fn is_well(&self) -> bool {
        !self.0.breaker.is_open()
    }

    /// Why the store's messages do not come, if they cannot; while the store is lost, that may be
    /// the reason.
    pub fn hears_nothing(&self) -> Option<String> {
        self.0.subscribers.failure()
    }

    /// An answer did not come within `limit`, for which somebody would have waited.
    pub fn is_late(&self, limit: Duration) {
        self.0.breaker.open(Instant::now(), limit);
    }

    async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Error> {
        self.ask(|mut connection| async move { Ok(connection.query(command).await?) })
            .await
    }

    async fn ask<T, F>(&self, ask: impl FnOnce(Connection) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let limit = self.0.config.timeout;
        let (connection, opened) = self.connection().await?;
        let asked = Instant::now();
        let answer = within(limit, ask(connection)).await;
        // That a server refuses to do this says nothing of the connection.
        if answer.as_ref().is_err_and(Error::is_answer) {
            return answer;
        }
        self.judge(answer, opened, (asked, limit)).await
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
        match Connection::open(&self.0.config, &self.0.subscribers).await {
            Ok(connection) => {
                state.opened += 1;
                state.timeouts = Timeouts::default();
                state.connection = Some(connection.clone());
                let needs_listener = !connection.hears() && !self.0.subscribers.channels().is_empty();
                if connection.hears() {
                    state.listener = None;
                    self.0.subscribers.note(None);
                } else if needs_listener && state.listener.is_none() {
                    state.listener = Some(subscription::listen(&self.0.config, &self.0.subscribers));
                }
                let opened = state.opened;
                drop(state);
                self.0.subscribers.missed();
                Ok((connection, opened))
            }
            Err(error) => {
                state.rest();
                self.0.breaker.open(Instant::now(), self.0.config.timeout);
                Err(error)
            }
        }
    }

    async fn judge<T>(
        &self,
        answer: Result<T, Error>,
        opened: u64,
        (asked, limit): (Instant, Duration),
    ) -> Result<T, Error> {
        let now = Instant::now();
        let mut state = self.0.state.lock().await;
        let is_closed = state.opened == opened
            && state.timeouts.is_broken(answer.as_ref().err(), asked, now)
            && state.connection.take().is_some();
        if answer.is_ok() {
            state.rest = None;
            self.0.breaker.answered(now.saturating_duration_since(asked));
        } else {
            self.0.breaker.open(now, limit);
        }
        if is_closed {
            state.rest();
        }
        drop(state);
        if is_closed {
            self.0.subscribers.missed();
        }
        answer
    }
}

impl Timeouts {
    /// Whether the connection is broken on which a command sent then has now been answered, or has
    /// failed with this error. Commands that were under way at the same time and were not answered
    /// count as one.
    fn is_broken(&mut self, error: Option<&Error>, asked: Instant, now: Instant) -> bool {
        match error {
            None => *self = Self::default(),
            Some(Error::Timeout(_)) if self.last.is_some_and(|last| asked < last) => {}
            Some(Error::Timeout(_)) => {
                self.count += 1;
                self.last = Some(now);
            }
            Some(_) => return true,
        }
        self.count >= MOST_TIMEOUTS
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn only_timeouts_in_a_row_break_a_connection() {
        let (start, late, mut timeouts) = (Instant::now(), Error::Timeout(SECOND), Timeouts::default());
        let mut ends =
            |error, asked: u32| timeouts.is_broken(error, start + SECOND * asked, start + SECOND * (asked + 1));
        assert!(!ends(Some(&late), 0), "one timeout");
        assert!(!ends(Some(&late), 1));
        assert!(!ends(None, 2), "an answer");
        assert!(!ends(Some(&late), 3) && !ends(Some(&late), 4), "they are counted anew");
        assert!(ends(Some(&late), 5), "the third in a row");
    }

    #[tokio::test(start_paused = true)]
    async fn commands_that_are_late_together_are_one_timeout() {
        let (start, late, mut timeouts) = (Instant::now(), Error::Timeout(SECOND), Timeouts::default());
        for _ in 0..10 {
            assert!(!timeouts.is_broken(Some(&late), start, start + SECOND));
        }
        assert!(!timeouts.is_broken(Some(&late), start + SECOND, start + SECOND * 2));
        assert!(timeouts.is_broken(Some(&late), start + SECOND * 2, start + SECOND * 3));
    }

    #[tokio::test(start_paused = true)]
    async fn any_other_failure_breaks_a_connection_at_once() {
        let now = Instant::now();
        assert!(Timeouts::default().is_broken(Some(&Error::Resting), now, now));
    }
}
