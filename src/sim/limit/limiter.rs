//! All limits of one app in one tenant together.

use std::time::Duration;

use serde::Deserialize;

use super::window::Window;
use super::{Limit, Shape};

/// Whether calls that were refused count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rejected {
    /// They do, as the documentation's authors hint: whoever keeps calling keeps being refused.
    #[default]
    Count,
    /// They do not.
    Ignore,
}

/// Which calls count together. Nobody outside Microsoft knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// All of them.
    #[default]
    All,
    /// Those of one operation.
    Operation,
}

/// The upstream's bookkeeping for one app registration in one tenant.
///
/// ```
/// use std::time::Duration;
/// use defender_gateway::sim::{Limiter, Shape};
/// let mut limiter = Limiter::new(Shape::Anchored, &["2/1m".parse().unwrap()]);
/// assert!(limiter.arrive(Duration::from_secs(10)).is_ok());
/// assert!(limiter.arrive(Duration::from_secs(20)).is_ok());
/// let rejection = limiter.arrive(Duration::from_secs(30)).unwrap_err();
/// assert_eq!(rejection.retry_after, Duration::from_secs(40));
/// assert!(limiter.arrive(Duration::from_secs(70)).is_ok());
/// ```
#[derive(Clone, Debug)]
pub struct Limiter {
    windows: Vec<Window>,
    rejected: Rejected,
    last: Duration,
}

/// A call over a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("over {limit}, come back in {retry_after:?}")]
pub struct Rejection {
    /// The limit that keeps the caller out longest.
    pub limit: Limit,
    /// How long until a call is admitted, if none comes before; above zero.
    pub retry_after: Duration,
}

impl Limiter {
    /// An unused allowance. Refused calls count; see [`Limiter::counting`]. Without limits everything is admitted.
    #[must_use]
    pub fn new(shape: Shape, limits: &[Limit]) -> Self {
        Self {
            windows: limits.iter().map(|limit| Window::new(shape, *limit)).collect(),
            rejected: Rejected::default(),
            last: Duration::ZERO,
        }
    }

    /// Says whether refused calls count.
    #[must_use]
    pub fn counting(mut self, rejected: Rejected) -> Self {
        self.rejected = rejected;
        self
    }

    /// A call arrives, `at` after the epoch. A time before the last one is taken as the last one: arrivals have an order.
    ///
    /// # Errors
    /// The call is over a limit. The wait named is true: that much later a call is admitted, unless another arrives before it.
    pub fn arrive(&mut self, at: Duration) -> Result<(), Rejection> {
        self.last = self.last.max(at);
        let at = self.last;
        let admitted = self.longest_wait(at).is_none();
        if admitted || self.rejected == Rejected::Count {
            for window in &mut self.windows {
                window.charge(at);
            }
        }
        if admitted {
            return Ok(());
        }
        // Asked again: the refused call itself may have lengthened the wait.
        self.longest_wait(at).map_or(Ok(()), Err)
    }

    fn longest_wait(&mut self, at: Duration) -> Option<Rejection> {
        self.windows
            .iter_mut()
            .map(|window| Rejection {
                limit: window.limit(),
                retry_after: window.wait(at),
            })
            .filter(|rejection| !rejection.retry_after.is_zero())
            .max_by_key(|rejection| rejection.retry_after)
    }
}
