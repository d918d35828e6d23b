//! What the quota is, checked.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::telemetry::named_enum;

/// At most `calls` in any `window`, as the upstream counts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    calls: NonZeroU32,
    window: Duration,
    name: Arc<str>,
}

impl Limit {
    /// Our clock and the upstream's may run at different speeds: 100 ppm is ten times what a
    /// disciplined clock is off, and costs 0.01 % of the quota. The millisecond covers rounding on
    /// both sides.
    const DRIFT_PPM: u32 = 100;

    /// A limit of `calls` per `window`. The name is how people write the window: `1m`, `1h`, `90s`.
    ///
    /// # Errors
    /// [`InvalidLimits::Window`] when the window is shorter than 100 ms or longer than 24 h:
    /// shorter ones drown in network jitter, longer ones in memory.
    pub fn try_new(calls: NonZeroU32, window: Duration) -> Result<Self, InvalidLimits> {
        if window < Duration::from_millis(100) || window > Duration::from_hours(24) {
            return Err(InvalidLimits::Window(window));
        }
        Ok(Self {
            calls,
            window,
            name: window_name(window).into(),
        })
    }

    /// Calls per window.
    pub fn calls(&self) -> usize {
        self.calls.get() as usize
    }

    /// The same as the number that it is.
    pub fn exact_calls(&self) -> NonZeroU32 {
        self.calls
    }

    /// The window's length.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// How long a charge is held: the window and a margin for clocks that drift apart.
    ///
    /// ```
    /// # use std::{num::NonZeroU32, time::Duration};
    /// let calls = NonZeroU32::new(1500).unwrap();
    /// let hour = defender_gateway::testing::quota::Limit::try_new(calls, Duration::from_secs(3600)).unwrap();
    /// assert_eq!(hour.hold(), Duration::from_millis(3_600_361));
    /// ```
    pub fn hold(&self) -> Duration {
        self.window + self.window / (1_000_000 / Self::DRIFT_PPM) + Duration::from_millis(1)
    }

    /// The window's name in headers, metrics and `/status`.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }
}

fn window_name(window: Duration) -> String {
    let ms = window.as_millis();
    match ms {
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        _ => format!("{ms}ms"),
    }
}

named_enum! {
    /// What to assume about calls made before this process started, when nothing is remembered.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub enum UnknownPast, as_str {
        /// None were made.
        #[default]
        Empty = "empty",
        /// Some may have been: a tenth of the burst, then the sustained rate, until one long window
        /// has been watched.
        Paced = "paced",
        /// All were: no call until that is provably over.
        Full = "full",
    }
}

named_enum! {
    /// Whether what is left of the longest window is spread out under pressure.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub enum Pacing, as_str {
        /// A token bucket spreads it evenly, so that an hour is not gone after 15 minutes.
        #[default]
        Spread = "spread",
        /// Calls leave as long as the windows have room.
        None = "none",
    }
}

/// The quota's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Shortest window first; never empty.
    pub(super) limits: Vec<Limit>,
    pub(super) burst: NonZeroU32,
    pub(super) attempt: Duration,
    pub(super) unknown_past: UnknownPast,
    pub(super) pacing: Pacing,
    pub(super) state_file: Option<PathBuf>,
    pub(super) predecessors: Vec<PathBuf>,
    /// So many calls of so long are remembered, whatever the limits need.
    remembers: (usize, Duration),
}

impl Config {
    /// What Microsoft documents for an hour, with its margin. Limits may be tightened for a while,
    /// by hand: these come back.
    const DOCUMENTED: (usize, Duration) = (1500, Duration::from_millis(3_600_361));

    /// `limits` hold at the same time; `burst` calls may leave back to back after a quiet time;
    /// `attempt` is the longest that a call can take, after which an unanswered one counts as
    /// arrived.
    ///
    /// # Errors
    /// [`InvalidLimits`] when there is no limit, two limits share a window, or `burst` is above the
    /// smallest limit (it could never be used).
    pub fn try_new(mut limits: Vec<Limit>, burst: NonZeroU32, attempt: Duration) -> Result<Self, InvalidLimits> {
        limits.sort_by_key(Limit::window);
        if limits.windows(2).any(|pair| pair[0].window == pair[1].window) {
            return Err(InvalidLimits::SameWindow);
        }
        let smallest = limits
            .iter()
            .map(|limit| limit.calls)
            .min()
            .ok_or(InvalidLimits::NoLimit)?;
        if burst > smallest {
            return Err(InvalidLimits::Burst { burst, smallest });
        }
        Ok(Self {
            limits,
            burst,
            attempt,
            unknown_past: UnknownPast::Empty,
            pacing: Pacing::Spread,
            state_file: None,
            predecessors: Vec::new(),
            remembers: Self::DOCUMENTED,
        })
    }

    /// How many calls the bucket holds at first, when nothing is remembered.
    pub(super) fn first_level(&self) -> u32 {
        match self.unknown_past {
            UnknownPast::Empty => self.burst.get(),
            UnknownPast::Paced => self.burst.get() / 10,
            UnknownPast::Full => 0,
        }
    }

    /// Sets what a cold start assumes.
    pub fn unknown_past(mut self, past: UnknownPast) -> Self {
        self.unknown_past = past;
        self
    }

    /// Sets whether the longest window is spread out.
    pub fn pacing(mut self, pacing: Pacing) -> Self {
        self.pacing = pacing;
        self
    }

    /// Sets the file that remembers charges over a restart.
    pub fn state_file(mut self, path: Option<PathBuf>) -> Self {
        self.state_file = path;
        self
    }

    /// Sets the files whose charges count here too if they were written to after the state file:
    /// those of a quota that was divided otherwise.
    pub fn predecessors(mut self, paths: Vec<PathBuf>) -> Self {
        self.predecessors = paths;
        self
    }

    /// Sets how many calls are remembered, and for how long, whatever the limits need.
    pub(super) fn remembering(mut self, calls: usize, window: Duration) -> Self {
        self.remembers = (calls, window);
        self
    }

    /// The limits, shortest window first.
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// How many calls are remembered, and for how long: what the limits need, and what others may
    /// that come after them.
    pub(super) fn memory(&self) -> (usize, Duration) {
        let (calls, window) = self.remembers;
        let most = self.limits.iter().map(Limit::calls).fold(calls, usize::max);
        let longest = self.limits.iter().map(Limit::hold).fold(window, Duration::max);
        (most, longest)
    }
}

/// Why quota settings cannot be used; the operator's mistake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLimits {
    /// No limit at all would be no guarantee.
    #[error("there is no limit")]
    NoLimit,
    /// One of them could never matter.
    #[error("two limits have the same window")]
    SameWindow,
    /// Out of range.
    #[error("a window of {0:?} is outside 100ms to 24h")]
    Window(Duration),
    /// More than a window holds.
    #[error("a burst of {burst} is above the smallest limit, {smallest}")]
    Burst {
        /// What was asked for.
        burst: NonZeroU32,
        /// What the smallest window allows.
        smallest: NonZeroU32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(calls: u32, secs: u64) -> Limit {
        Limit::try_new(NonZeroU32::new(calls).unwrap(), Duration::from_secs(secs)).unwrap()
    }

    #[test]
    fn windows_are_named_as_people_write_them() {
        assert_eq!(limit(1, 60).name().as_ref(), "1m");
        assert_eq!(limit(1, 3600).name().as_ref(), "1h");
        assert_eq!(limit(1, 90).name().as_ref(), "90s");
    }

    #[test]
    fn a_burst_above_the_smallest_limit_is_refused() {
        let burst = NonZeroU32::new(101).unwrap();
        let result = Config::try_new(vec![limit(1500, 3600), limit(100, 60)], burst, Duration::from_mins(1));
        assert!(matches!(result, Err(InvalidLimits::Burst { .. })));
    }

    #[test]
    fn the_margin_costs_less_than_a_thousandth() {
        let hour = limit(1500, 3600);
        assert!(hour.hold().checked_sub(hour.window()).unwrap() < hour.window() / 1000);
        assert!(hour.hold() > hour.window());
    }
}
