//! The token source: keeps one token for all requests, and renews it before it is needed.

mod refresher;
mod schedule;
mod state;
mod trial;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::clock::Wall;
use crate::net::Exchange;
use crate::task::Tasks;
use crate::token::sign_in::SignIn;
use crate::token::token_source::refresher::Refresher;
use crate::token::token_source::state::Shared;
use crate::token::{Bearer, Config, Error, Kind, Metrics, Reason};

pub use state::{LastError, Snapshot, Warning};
pub(super) use trial::Trial;

/// A failure that ends within this time is waited for instead of returned, so that a lost
/// connection costs no caller an error.
const PATIENCE: Duration = Duration::from_secs(1);

/// Keeps one token for all requests. Clones are cheap and share it.
#[derive(Clone, Debug)]
pub struct TokenSource {
    kind: Kind,
    shared: Arc<Shared>,
    changes: watch::Receiver<()>,
    metrics: Metrics,
}

impl TokenSource {
    /// Asks for the first token at once and renews it until `tasks` are finished.
    ///
    /// Requests go through `exchange`, which follows no redirects; those to a machine's metadata
    /// service go through `imds_exchange`, which uses no proxy.
    pub fn start(
        config: Config,
        exchange: Exchange,
        imds_exchange: Exchange,
        wall: Wall,
        tasks: &Tasks,
        metrics: Metrics,
    ) -> Self {
        let kind = config.credential.kind();
        let shared = Arc::new(Shared::default());
        // From the start: requests that come before the task has begun wait for it.
        shared.state().asking = true;
        let (sender, changes) = watch::channel(());
        let sign_in = SignIn::new(config, exchange, imds_exchange, wall);
        let upkeep = Refresher::new(sign_in, Arc::clone(&shared), sender, metrics.clone());
        tasks.spawn_upkeep("token", upkeep.run());
        Self {
            kind,
            shared,
            changes,
            metrics,
        }
    }

    /// This is the token source in use from now on: its metrics are shown.
    pub fn take_over(&self) {
        self.metrics.take_over();
    }

    /// The token, if there is a valid one.
    pub fn current(&self) -> Option<Bearer> {
        self.shared.state().usable(Instant::now())
    }

    /// The token: at once while there is a valid one, otherwise when a request has brought one.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] at once, until it is worth asking again; [`Error::Unavailable`] when
    /// `until` comes first, or at once when sign-in is not asked again before.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the request under way to the other waiters.
    pub async fn bearer(&self, until: Instant) -> Result<Bearer, Error> {
        let (bearer, _) = self.bearer_within(until, until).await?;
        Ok(bearer)
    }

    /// The same for a call that comes back after `until` if there is no token by then, and that can
    /// use a token until `patience`. It holds the trial, if there is one, until it has ended.
    ///
    /// # Errors
    ///
    /// As for [`TokenSource::bearer`], but at once only when sign-in is not asked again before
    /// `patience`.
    ///
    /// # Cancel safety
    ///
    /// As for [`TokenSource::bearer`].
    pub(super) async fn bearer_within(
        &self,
        until: Instant,
        patience: Instant,
    ) -> Result<(Bearer, Option<Trial>), Error> {
        let renewed = timeout_at(until, self.renewed(patience)).await;
        renewed.unwrap_or_else(|_| {
            // The earlier failure says more than that the time is over.
            Err(match &self.shared.state().failure {
                Some(failure) => failure.as_of(Instant::now()),
                None => Error::unavailable(Reason::NotInTime),
            })
        })
    }

    /// Reports that Defender answered a call with `bearer` with 401, which was `sent` then, and
    /// whether it said that the token is invalid. One renewal is forced for all reports about the
    /// same token.
    ///
    /// Returns whether the call is worth another attempt: there is a newer token, or one is being
    /// requested.
    pub fn rejected(&self, bearer: &Bearer, is_invalid: bool, sent: Instant) -> bool {
        let again = self
            .shared
            .state()
            .reject(bearer, is_invalid.then_some(sent), Instant::now());
        if again {
            self.shared.wanted.notify_one();
        }
        again
    }

    /// Reports that Defender accepted `bearer`.
    pub fn accepted(&self, bearer: &Bearer) {
        self.shared.state().accept(bearer);
    }

    /// The state for `/status`.
    pub fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        let state = self.shared.state().clone();
        let last_error = state.failure.as_ref().map(|failure| LastError {
            code: failure.error.code(),
            message: failure.error.message(),
            advice: failure.error.advice(),
            retry_in: failure.until.saturating_duration_since(now),
        });
        let at_hand = state.at_hand();
        let left = at_hand.map(|bearer| bearer.expires().saturating_duration_since(now));
        Snapshot {
            kind: self.kind,
            expires_in: left.filter(|left| !left.is_zero()),
            refreshing: state.asking,
            last_error,
            roles: state.roles,
            warnings: state.warnings,
        }
    }

    /// As if the time after a forced renewal were over.
    #[cfg(test)]
    fn end_cooldown(&self) {
        self.shared.state().end_cooldown();
    }

    async fn renewed(&self, patience: Instant) -> Result<(Bearer, Option<Trial>), Error> {
        let mut changes = self.changes.clone();
        let mut waited = false;
        loop {
            // Before the state is read, so that no change is missed.
            changes.mark_unchanged();
            let now = Instant::now();
            {
                let mut state = self.shared.state();
                let is_usable = state.usable(now).is_some();
                match state.failing(now) {
                    // The renewal that Defender's 401 forced has failed. The old token would be
                    // rejected again.
                    Some(failure) if waited && is_usable => return Err(failure.as_of(now)),
                    Some(failure)
                        if !is_usable && failure.until > now + PATIENCE && !failure.can_recover_by(patience) =>
                    {
                        return Err(failure.as_of(now));
                    }
                    _ => {}
                }
                if let Some((bearer, until)) = state.take(now) {
                    return Ok((bearer, until.map(|until| Trial::new(&self.shared, until))));
                }
            }
            self.shared.wanted.notify_one();
            waited = true;
            if changes.changed().await.is_err() {
                return Err(Error::unavailable(Reason::Stopped));
            }
        }
    }
}
