//! The one background task that asks for tokens.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::schedule::{self, Backoff};
use super::state::{Failure, Shared, State};
use crate::token::metrics::Outcome;
use crate::token::sign_in::SignIn;
use crate::token::{Bearer, Error, Metrics, Reason, Roles, Warning};

/// How often credential files are checked for changes. Kubernetes takes up to a minute to deliver a
/// change anyway.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// So many different failures in a row are remembered as logged: an outage has a few.
const MOST_LOGGED: usize = 16;

/// Asks for tokens, one request at a time.
pub(super) struct Refresher {
    sign_in: SignIn,
    shared: Arc<Shared>,
    /// Tells those who wait of every change, and by its end that none will come.
    changed: watch::Sender<()>,
    metrics: Metrics,
    backoff: Backoff,
    /// How many tokens in a row lacked the permission.
    without_role: usize,
    /// The failures that were logged since the latest success, and whether there was a valid token;
    /// at most [`MOST_LOGGED`].
    logged: Vec<(String, bool)>,
    /// When the next request leaves at the latest.
    due: Instant,
}

impl Refresher {
    pub(super) fn new(sign_in: SignIn, shared: Arc<Shared>, changed: watch::Sender<()>, metrics: Metrics) -> Self {
        Self {
            sign_in,
            shared,
            changed,
            metrics,
            backoff: Backoff::new(),
            without_role: 0,
            logged: Vec::new(),
            due: Instant::now(),
        }
    }

    /// It never ends.
    pub(super) async fn run(mut self) {
        loop {
            self.update(|state| state.asking = true);
            match self.request().await {
                Ok(bearer) => self.succeeded(bearer),
                Err(error) => self.failed(&error),
            }
            self.wait_for_work().await;
        }
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.state());
        self.changed.send_replace(());
    }

    async fn request(&mut self) -> Result<Bearer, Error> {
        let issued = self.sign_in.ask().await?;
        let generation = self.shared.state().generation_of(&issued.secret);
        let bearer = Bearer::new(generation, &issued);
        // It expired on its way. Asking again at once would loop.
        if !bearer.is_usable(Instant::now()) {
            return Err(Error::unavailable(Reason::Unreadable));
        }
        self.due = issued.asked + schedule::renewal(&issued);
        Ok(bearer)
    }

    fn succeeded(&mut self, bearer: Bearer) {
        let now = Instant::now();
        let roles = Roles::of(bearer.secret());
        if roles == Roles::Missing {
            // The old token serves meanwhile, and on if none comes.
            self.without_role += 1;
            self.due = self.due.min(now + schedule::renewal_without_role(self.without_role));
        } else {
            self.without_role = 0;
        }
        let valid_s = bearer.expires().saturating_duration_since(now).as_secs();
        let renewal_in_s = self.due.saturating_duration_since(now).as_secs();
        if self.shared.state().is_newest(&bearer) {
            tracing::info!(valid_s, renewal_in_s, "signed in, and got the same token again");
        } else {
            tracing::info!(valid_s, renewal_in_s, "signed in");
        }
        self.backoff = Backoff::new();
        self.logged.clear();
        self.metrics.count(Outcome::Ok);
        self.metrics.expires(bearer.expires());
        self.settle(Ok(bearer), roles, now);
    }

    fn failed(&mut self, error: &Error) {
        let now = Instant::now();
        let wait = self.backoff.after(error);
        self.due = now + wait;
        self.metrics.count(error.outcome());
        let roles = self.shared.state().roles;
        let failure = Failure {
            until: self.due,
            earliest_retry: now + schedule::retry_delay_if_waited_for(error, wait),
            error: error.clone(),
        };
        self.settle(Err(failure), roles, now);
        self.log(error, wait, now);
    }

    /// Logs one line for a failed request. One that fails as an earlier one since the latest success,
    /// with as much of a token at hand, is for debugging only: while requests wait there is one
    /// every few seconds.
    fn log(&mut self, error: &Error, wait: Duration, now: Instant) {
        let code = error.code();
        let reason = error.message();
        let advice = error.advice();
        let retry_in_s = wait.as_secs_f64();
        if !self.metrics.is_in_use() {
            tracing::warn!(
                code,
                reason,
                advice,
                "signing in failed, with credentials that are not in use"
            );
            return;
        }
        let at_hand = self.shared.state().at_hand().cloned();
        let usable = at_hand.filter(|bearer| bearer.is_usable(now));
        let valid_s = usable.map(|bearer| bearer.expires().saturating_duration_since(now).as_secs());
        let this = (code.clone(), valid_s.is_some());
        let is_new = !self.logged.contains(&this);
        if is_new {
            self.logged.truncate(MOST_LOGGED - 1);
            self.logged.push(this);
        }
        match (is_new, valid_s) {
            (true, None) => tracing::error!(
                code,
                reason,
                advice,
                retry_in_s,
                "signing in failed; there is no valid token"
            ),
            (true, Some(valid_s)) => tracing::warn!(
                code,
                reason,
                advice,
                retry_in_s,
                valid_s,
                "signing in failed; the old token serves on"
            ),
            (false, _) => tracing::debug!(code, reason, retry_in_s, valid_s, "signing in failed again"),
        }
    }

    fn settle(&self, result: Result<Bearer, Failure>, roles: Roles, now: Instant) {
        let (loaded, certificate_left) = self.sign_in.credential_age();
        self.metrics.credential(loaded, certificate_left);
        let mut warnings = self.sign_in.warnings();
        if roles == Roles::Missing {
            warnings.push(Warning::RoleMissing);
        }
        let known = self.shared.state().warnings.clone();
        for warning in warnings.iter().filter(|warning| !known.contains(warning)) {
            tracing::warn!("{warning}");
        }
        self.update(|state| {
            state.settle(result, now);
            (state.roles, state.warnings) = (roles, warnings);
        });
    }

    /// Waits for a reason to ask again: the time has come, a token is needed, or the credential has
    /// changed.
    async fn wait_for_work(&mut self) {
        let mut look_at = Instant::now() + CHECK_INTERVAL;
        let has_files = self.sign_in.has_files();
        loop {
            tokio::select! {
                () = sleep_until(self.due) => return,
                () = self.shared.wanted.notified() => {
                    if self.is_wanted() {
                        return;
                    }
                    self.retry_sooner();
                }
                () = sleep_until(look_at), if has_files => {
                    if self.has_new_credential().await {
                        tracing::info!("the credential has changed; signing in with the new one");
                        self.backoff = Backoff::new();
                        return;
                    }
                    look_at = Instant::now() + CHECK_INTERVAL;
                }
            }
        }
    }

    /// Whether asking now helps a waiting request.
    fn is_wanted(&self) -> bool {
        let (now, state) = (Instant::now(), self.shared.state());
        state.usable(now).is_none() && state.failing(now).is_none()
    }

    /// A token is needed and there is none: the next request leaves as early as is allowed.
    fn retry_sooner(&mut self) {
        let state = self.shared.state();
        if let (Some(failure), None) = (&state.failure, state.usable(Instant::now())) {
            self.due = self.due.min(failure.earliest_retry);
        }
    }

    async fn has_new_credential(&self) -> bool {
        let failed = self
            .shared
            .state()
            .failure
            .as_ref()
            .map(|failure| failure.error.outcome());
        // After an outage sign-in is asked again soon enough, and reads the credential again; the
        // delay that it asked for is obeyed.
        failed != Some(Outcome::Unavailable) && self.sign_in.has_changed(failed.is_some()).await
    }
}
