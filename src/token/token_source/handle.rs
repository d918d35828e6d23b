//! What callers hold.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::state::{RefreshStatus, Renewal, State, Verdict};
use super::upkeep::Upkeep;
use crate::clock::Wall;
use crate::net::Exchange;
use crate::task::Tasks;
use crate::token::sign_in::SignIn;
use crate::token::{Bearer, Config, Error, Kind, LastError, Metrics, Reason, Snapshot};

/// A failure that is over so soon is waited out instead of told: a lost connection should cost no caller an error.
const PATIENCE: Duration = Duration::from_secs(1);

/// Keeps one token for everybody. Clones are cheap and share it.
#[derive(Clone, Debug)]
pub struct TokenSource {
    kind: Kind,
    state: Arc<State>,
    standing: watch::Receiver<RefreshStatus>,
}

impl TokenSource {
    /// Asks for the first token at once and renews it until `tasks` are finished.
    ///
    /// Requests go through `exchange`, which follows no redirects; those to a machine's metadata service through `imds_exchange`,
    /// which uses no proxy.
    #[must_use]
    pub fn start(
        config: Config,
        exchange: Exchange,
        imds_exchange: Exchange,
        wall: Wall,
        tasks: &Tasks,
        metrics: Metrics,
    ) -> Self {
        let kind = config.credential.kind();
        let state = Arc::new(State::default());
        // Asking from the start: callers who come before the task has begun wait for it.
        let (sender, standing) = watch::channel(RefreshStatus {
            asking: true,
            ..RefreshStatus::default()
        });
        let sign_in = SignIn::new(config, exchange, imds_exchange, wall);
        let upkeep = Upkeep::new(sign_in, Arc::clone(&state), sender, metrics);
        tasks.spawn_upkeep("token", upkeep.run());
        Self { kind, state, standing }
    }

    /// The token, if there is a valid one. Takes no lock.
    #[must_use]
    pub fn current(&self) -> Option<Bearer> {
        self.state.usable(Instant::now())
    }

    /// The token: at once while there is a valid one, else when a request has brought one.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] at once, until it is worth asking again; [`Error::Unavailable`] when `until` comes first, or at once when sign-in
    /// is not to be asked again before.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the request under way to the others.
    pub async fn bearer(&self, until: Instant) -> Result<Bearer, Error> {
        self.bearer_within(until, until).await
    }

    /// The same for somebody who comes back after `until` if there is no token by then, and for whom one is of use until `patience`.
    ///
    /// # Errors
    ///
    /// As for [`TokenSource::access_token`], but at once only when sign-in is not to be asked again before `patience`.
    ///
    /// # Cancel safety
    ///
    /// As for [`TokenSource::access_token`].
    pub async fn bearer_within(&self, until: Instant, patience: Instant) -> Result<Bearer, Error> {
        if let Some(bearer) = self.current() {
            return Ok(bearer);
        }
        match timeout_at(until, self.renewed(patience)).await {
            Ok(result) => result,
            // What went wrong before says more than that time is over.
            Err(_) => Err(match &self.standing.borrow().failure {
                Some(failure) => failure.told(Instant::now()),
                None => Error::unavailable(Reason::NotInTime),
            }),
        }
    }

    /// Tells that Defender answered `access_token` with 401. One renewal is forced for all who tell it about the same token.
    #[must_use]
    pub fn rejected(&self, bearer: &Bearer) -> Verdict {
        let now = Instant::now();
        let (is_asking, is_failing) = {
            let standing = self.standing.borrow();
            (standing.asking, standing.failing(now).is_some())
        };
        self.state.reject(bearer, Renewal { is_asking, is_failing }, now)
    }

    /// How it stands.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        let standing = self.standing.borrow().clone();
        let last_error = standing.failure.as_ref().map(|failure| LastError {
            code: failure.error.code(),
            message: failure.error.message(),
            advice: failure.error.advice(),
            retry_in: failure.until.saturating_duration_since(now),
        });
        let left = self
            .state
            .newest()
            .map(|bearer| bearer.expires().saturating_duration_since(now));
        Snapshot {
            kind: self.kind,
            expires_in: left.filter(|left| !left.is_zero()),
            refreshing: standing.asking,
            last_error,
            roles: standing.roles,
            warnings: standing.warnings,
        }
    }

    /// As if the minute after a forced renewal were over.
    #[cfg(test)]
    pub(super) fn end_quiet(&self) {
        self.state.end_quiet();
    }

    async fn renewed(&self, patience: Instant) -> Result<Bearer, Error> {
        let mut standing = self.standing.clone();
        let mut waited = false;
        loop {
            let now = Instant::now();
            let failure = standing.borrow_and_update().failing(now).cloned();
            // The token is stored before its standing is told, so looking in this order misses none.
            match (failure, self.state.usable(now)) {
                // The renewal that Defender's 401 forced has failed. The old token would be rejected again.
                (Some(failure), Some(_)) if waited => return Err(failure.told(now)),
                (_, Some(bearer)) => return Ok(bearer),
                (Some(failure), None) if failure.until > now + PATIENCE && !failure.can_recover_by(patience) => {
                    return Err(failure.told(now));
                }
                _ => {}
            }
            self.state.wanted.notify_one();
            waited = true;
            if standing.changed().await.is_err() {
                return Err(Error::unavailable(Reason::Stopped));
            }
        }
    }
}
