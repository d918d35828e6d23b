//! The four ways in which the real service may count.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::Limit;

/// How calls are counted into windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// A fixed window that starts with the first call after the last window ended.
    Anchored,
    /// Fixed windows at multiples of their length since the epoch.
    Aligned,
    /// Every arrival counts for one window. The strictest of the four, and therefore the default.
    #[default]
    SlidingLog,
    /// A bucket of `calls` that refills evenly, `calls` per window.
    TokenBucket,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Anchored, Self::Aligned, Self::SlidingLog, Self::TokenBucket];

    /// Its name in scenario files and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anchored => "anchored",
            Self::Aligned => "aligned",
            Self::SlidingLog => "sliding-log",
            Self::TokenBucket => "token-bucket",
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The state of one limit. Times must not go backwards, which [`super::Limiter`] ensures.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) limit: Limit,
    count: Count,
}

#[derive(Clone, Debug)]
enum Count {
    Fixed {
        is_aligned: bool,
        start: Option<Duration>,
        used: u32,
    },
    SlidingLog {
        arrivals: VecDeque<Duration>,
    },
    TokenBucket {
        level: u128,
        at: Duration,
    },
}

impl Window {
    pub(super) fn new(shape: Shape, limit: Limit) -> Self {
        let count = match shape {
            Shape::Anchored | Shape::Aligned => Count::Fixed {
                is_aligned: shape == Shape::Aligned,
                start: None,
                used: 0,
            },
            Shape::SlidingLog => Count::SlidingLog {
                arrivals: VecDeque::new(),
            },
            Shape::TokenBucket => Count::TokenBucket {
                level: full(limit),
                at: Duration::ZERO,
            },
        };
        Self { limit, count }
    }

    /// How long from `at` until a call is admitted if none arrives before it; zero means now.
    pub(super) fn wait(&mut self, at: Duration) -> Duration {
        self.roll(at);
        let window = self.limit.window();
        let calls = self.limit.calls();
        match &self.count {
            Count::Fixed { start, used, .. } if *used >= calls => {
                start.map_or(Duration::ZERO, |start| (start + window).saturating_sub(at))
            }
            Count::SlidingLog { arrivals } if arrivals.len() >= calls as usize => arrivals
                .front()
                .map_or(Duration::ZERO, |oldest| (*oldest + window).saturating_sub(at)),
            Count::TokenBucket { level, .. } => {
                let missing = window.as_nanos().saturating_sub(*level);
                from_nanos(missing.div_ceil(u128::from(calls)))
            }
            _ => Duration::ZERO,
        }
    }

    /// Counts a call that arrived at `at`, admitted or not.
    pub(super) fn charge(&mut self, at: Duration) {
        self.roll(at);
        let cost = self.limit.window().as_nanos();
        match &mut self.count {
            Count::Fixed {
                is_aligned,
                start,
                used,
            } => {
                let aligned = from_nanos(at.as_nanos() / cost * cost);
                start.get_or_insert(if *is_aligned { aligned } else { at });
                *used = used.saturating_add(1);
            }
            Count::SlidingLog { arrivals } => {
                arrivals.push_back(at);
                // Only the last `calls` arrivals can decide anything, so refused calls cannot fill
                // memory.
                if arrivals.len() > self.limit.calls() as usize {
                    arrivals.pop_front();
                }
            }
            // A refused call uses up what has been refilled, so a client that keeps calling stays
            // refused.
            Count::TokenBucket { level, .. } => *level = level.saturating_sub(cost),
        }
    }

    /// Advances the time. A window is half-open: a call that arrived exactly one window ago no
    /// longer counts.
    fn roll(&mut self, at: Duration) {
        let window = self.limit.window();
        match &mut self.count {
            Count::Fixed { start, used, .. } => {
                if start.is_some_and(|start| at >= start + window) {
                    (*start, *used) = (None, 0);
                }
            }
            Count::SlidingLog { arrivals } => {
                while arrivals.front().is_some_and(|oldest| at >= *oldest + window) {
                    arrivals.pop_front();
                }
            }
            Count::TokenBucket { level, at: last } => {
                let gained = at.saturating_sub(*last).as_nanos() * u128::from(self.limit.calls());
                *level = (*level + gained).min(full(self.limit));
                *last = at;
            }
        }
    }
}

/// A full bucket, in units of which one call costs `window` and one nanosecond adds `calls`:
/// integers only, without drift.
fn full(limit: Limit) -> u128 {
    limit.window().as_nanos() * u128::from(limit.calls())
}

fn from_nanos(nanos: u128) -> Duration {
    Duration::from_nanos_u128(nanos)
}
