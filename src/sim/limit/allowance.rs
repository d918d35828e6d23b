//! One limit: a number of calls per window.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use crate::sim::span;

/// A number of calls per window.
///
/// ```
/// use defender_gateway::testing::sim::Limit;
/// let limit: Limit = "100/1m".parse().unwrap();
/// assert_eq!(limit.calls(), 100);
/// assert_eq!(limit.window().as_secs(), 60);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limit {
    calls: NonZeroU32,
    window: Duration,
}

impl Limit {
    /// What the documentation states for this API: 100 calls per minute and 1,500 per hour.
    pub fn documented() -> Vec<Self> {
        vec![Self::clamped(100, 60), Self::clamped(1_500, 3_600)]
    }

    /// `None` when `window` is zero or longer than a day.
    pub fn new(calls: NonZeroU32, window: Duration) -> Option<Self> {
        (!window.is_zero() && window <= span::LONGEST).then_some(Self { calls, window })
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

/// Why a text is no limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseLimitError {
    /// There is no `/`.
    #[error("{0:?} is no limit: write calls, a slash and a window, such as 100/1m")]
    NoSlash(String),
    /// The part before the slash is no number from 1 to 4294967295.
    #[error("{0:?} is no number of calls from 1 up")]
    Calls(String),
    /// The part behind the slash is no duration.
    #[error("the window of {0:?} is bad: {1}")]
    Window(String, span::ParseSpanError),
    /// A window that never ends at once.
    #[error("the window of {0:?} must be longer than zero")]
    Zero(String),
}

impl FromStr for Limit {
    type Err = ParseLimitError;

    /// `100/1m`: calls, a slash, a duration with its unit.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (calls, window) = text
            .trim()
            .split_once('/')
            .ok_or_else(|| ParseLimitError::NoSlash(text.into()))?;
        let calls = calls.trim().parse().map_err(|_| ParseLimitError::Calls(calls.into()))?;
        let window = span::parse(window.trim()).map_err(|error| ParseLimitError::Window(text.into(), error))?;
        Self::new(calls, window).ok_or_else(|| ParseLimitError::Zero(text.into()))
    }
}
