//! The upstream's call limits: the ways in which it may count, and a verifier that does not know
//! which one it uses.
//!
//! Pure. Time comes in as a [`Duration`] since an epoch that the user picks
//! (the start of the simulator, the start of a test), so the same limiter works with real sockets
//! and with virtual time.
//!
//! The window shape of the real service is not documented; [`Shape`] has the four candidates. A
//! client that stays within `calls` arrivals in every window of `window`, at every alignment, is
//! never refused by any of them. [`QuotaVerifier`] checks exactly that.

mod quota_verifier;
mod window;

#[cfg(test)]
mod tests;

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use crate::limit::window::Window;
use crate::span;

pub use quota_verifier::QuotaVerifier;
pub use window::Shape;

/// A number of calls per window.
///
/// ```
/// use defender_gateway_simulator::Limit;
/// let limit: Limit = "100/1m".parse().unwrap();
/// assert_eq!(limit.calls(), 100);
/// assert_eq!(limit.window().as_secs(), 60);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Limit {
    calls: NonZeroU32,
    window: Duration,
}

impl Limit {
    /// What the documentation states for this API: 100 calls per minute and 1,500 per hour.
    pub fn documented() -> Vec<Self> {
        vec![Self::clamped(100, 60), Self::clamped(1_500, 3_600)]
    }

    fn clamped(calls: u32, seconds: u64) -> Self {
        Self {
            calls: NonZeroU32::new(calls).unwrap_or(NonZeroU32::MIN),
            window: Duration::from_secs(seconds),
        }
    }

    /// How many calls the window admits; at least 1.
    pub fn calls(self) -> u32 {
        self.calls.get()
    }

    /// The window's length; above zero.
    pub fn window(self) -> Duration {
        self.window
    }

    /// The window as the service writes it in a 429: `00:01:00`. Windows below a second keep their
    /// fraction.
    pub fn clock(self) -> String {
        let seconds = self.window.as_secs();
        let clock = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        match self.window.subsec_micros() * 10 {
            0 => clock,
            ticks => format!("{clock}.{ticks:07}"),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.calls, span::display(self.window))
    }
}

impl FromStr for Limit {
    type Err = String;

    /// `100/1m`: calls, a slash, a duration with its unit.
    fn from_str(text: &str) -> Result<Self, String> {
        let (calls, window) = text
            .trim()
            .split_once('/')
            .ok_or_else(|| format!("{text:?} is no limit: write calls, a slash and a window, such as 100/1m"))?;
        let calls = calls.trim().parse();
        let calls = calls.map_err(|_| format!("{text:?} begins with no number of calls from 1 up"))?;
        let window = span::parse(window.trim()).map_err(|error| format!("the window of {text:?} is bad: {error}"))?;
        let limit = (!window.is_zero()).then_some(Self { calls, window });
        limit.ok_or_else(|| format!("the window of {text:?} must be longer than zero"))
    }
}

impl TryFrom<String> for Limit {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

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
/// use defender_gateway_simulator::{Limiter, Shape};
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
                limit: window.limit,
                retry_after: window.wait(at),
            })
            .filter(|rejection| !rejection.retry_after.is_zero())
            .max_by_key(|rejection| rejection.retry_after)
    }
}
