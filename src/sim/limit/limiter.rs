//! All limits of one app in one tenant together.

use std::time::Duration;

use serde::Deserialize;

use super::window::Window;
use super::{Limit, Shape};

/// Whether refused calls count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rejected {
    /// They do, as the documentation hints: a client that keeps calling keeps being refused.
    #[default]
    Count,
    /// They do not.
    Ignore,
}

/// Which calls count together, which is not known outside Microsoft.
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
/// use defender_gateway::testing::sim::{Limiter, Shape};
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
    /// The limit with the longest wait.
    pub limit: Limit,
    /// How long until a call is admitted, if none comes before; above zero.
    pub retry_after: Duration,
}

impl Limiter {
    /// A limiter without calls. Refused calls count; see [`Limiter::counting`]. Without limits
    /// every call is admitted.
    pub fn new(shape: Shape, limits: &[Limit]) -> Self {
        Self {
            windows: limits.iter().map(|limit| Window::new(shape, *limit)).collect(),
            rejected: Rejected::default(),
            last: Duration::ZERO,
        }
    }

    /// Sets whether refused calls count.
    pub fn counting(mut self, rejected: Rejected) -> Self {
        self.rejected = rejected;
        self
    }

    /// Records a call, `at` after the epoch. A time before the last one counts as the last one,
    /// because arrivals have an order.
    ///
    /// # Errors
    ///
    /// The call is over a limit. The stated wait is true: that much later a call is admitted,
    /// unless another arrives before it.
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
        // Computed again, because the refused call itself may have lengthened the wait.
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
