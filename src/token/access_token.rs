//! The access token in use.

use std::time::Duration;

use tokio::time::Instant;

use crate::secret::Secret;

/// A token and its generation. Clones share its text.
#[derive(Clone, Debug)]
pub struct Bearer {
    generation: u64,
    secret: Secret,
    expires: Instant,
    usable_until: Instant,
}

impl Bearer {
    /// A token is no longer used from this long before its expiry, because it has to arrive and
    /// clocks differ.
    const MARGIN: Duration = Duration::from_secs(10);

    /// A token whose `life` began at `asked`.
    pub(super) fn new(generation: u64, secret: Secret, asked: Instant, life: Duration) -> Self {
        Self {
            generation,
            secret,
            expires: asked + life,
            // A twentieth, so that tokens of seconds (the simulator's) can be used at all.
            usable_until: asked + life - Self::MARGIN.min(life / 20),
        }
    }

    /// The number of the token, counted from 1; a later token has a larger number.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The token itself.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// When the token expires.
    pub fn expires(&self) -> Instant {
        self.expires
    }

    /// Whether the token may be sent at `now`: true until shortly before it expires.
    pub fn is_usable(&self, now: Instant) -> bool {
        now < self.usable_until
    }
}
