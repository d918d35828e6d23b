//! A token as sign-in issues it.

use std::time::Duration;

use tokio::time::Instant;

use super::unusable::Unusable;
use crate::secret::Secret;

/// A token fresh from sign-in.
#[derive(Debug)]
pub(in crate::token) struct Issued {
    pub(in crate::token) secret: Secret,
    /// Counted from the request; never zero.
    pub(in crate::token) life: Duration,
    /// When sign-in wants it to be renewed; shorter than `life`.
    pub(in crate::token) refresh_in: Option<Duration>,
    /// When the request left. The token's life is counted from here, which errs on the safe side.
    pub(in crate::token) asked: Instant,
}

impl Issued {
    /// The assumed life if the response has none.
    const DEFAULT_LIFE: Duration = Duration::from_mins(5);
    /// Longer lives are cut; Entra's longest is 28 hours.
    const MAX_LIFE: Duration = Duration::from_hours(7 * 24);

    /// A token that can be sent, for its life according to sign-in.
    ///
    /// # Errors
    ///
    /// When the token has no life left.
    pub(super) fn try_new(
        secret: Secret,
        life: Option<Duration>,
        refresh_in: Option<Duration>,
    ) -> Result<Self, Unusable> {
        let life = life.unwrap_or(Self::DEFAULT_LIFE).min(Self::MAX_LIFE);
        if life.is_zero() {
            return Err(Unusable::TokenExpired);
        }
        Ok(Self {
            secret,
            life,
            refresh_in: refresh_in.filter(|at| !at.is_zero() && *at < life),
            asked: Instant::now(),
        })
    }

    /// Sets when the request left.
    pub(super) fn since(mut self, asked: Instant) -> Self {
        self.asked = asked;
        self
    }
}
