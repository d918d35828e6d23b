//! Limits: a number of calls per window, `100/1m`.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

/// At most `calls` within any `window`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limit {
    /// 1 to [`Limit::MAX_CALLS`].
    pub calls: NonZeroU32,
    /// Whole seconds, 1 s to [`Limit::MAX_WINDOW`].
    pub window: Duration,
}

impl Limit {
    /// The ledger keeps one entry for each call of the longest window, and a million entries are
    /// the memory it may take.
    pub const MAX_CALLS: u32 = 1_000_000;
    /// Longer windows would exceed what is kept across restarts.
    pub const MAX_WINDOW: Duration = Duration::from_hours(24);

    /// The window's name in answers, metrics and on the status page.
    ///
    /// ```
    /// use defender_gateway::testing::config::Limit;
    /// assert_eq!("1500/3600s".parse::<Limit>().map(Limit::name), Ok("1h".into()));
    /// ```
    pub fn name(self) -> String {
        super::show_duration(self.window)
    }
}

/// Reads `CALLS/WINDOW`. The error is a phrase that follows the value in a message.
impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (calls, window) = text
            .split_once('/')
            .ok_or("is no limit; write calls per window, such as 100/1m")?;
        let calls: u32 = match calls.parse() {
            Ok(calls) if calls <= Self::MAX_CALLS => calls,
            _ => {
                return Err(format!(
                    "does not start with a number of calls from 1 to {}",
                    Self::MAX_CALLS
                ));
            }
        };
        let calls = NonZeroU32::new(calls).ok_or("would allow no call at all; the least is 1")?;
        let window = super::parse_duration(window).map_err(|problem| format!("has a window that {problem}"))?;
        // The windows' lengths go on the wire in whole seconds (`RateLimit-Policy`, parameter `w`).
        if window.subsec_nanos() != 0 || window.is_zero() || window > Self::MAX_WINDOW {
            return Err("has a window that is not whole seconds from 1s to 24h".into());
        }
        Ok(Self { calls, window })
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.calls, self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn odd_limits_are_refused_with_a_reason() {
        for (text, reason) in [
            ("100", "is no limit"),
            ("0/1m", "would allow no call"),
            ("1000001/1m", "does not start with a number of calls"),
            ("-1/1m", "does not start with a number of calls"),
            ("100/1", "has a window that has no unit"),
            ("100/0s", "has a window that is not whole seconds"),
            ("100/1500ms", "has a window that is not whole seconds"),
            ("100/25h", "has a window that is not whole seconds"),
        ] {
            let error = text.parse::<Limit>().unwrap_err();
            assert!(error.starts_with(reason), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn shown_values_are_parsed_again(calls in 1..=Limit::MAX_CALLS, window_s in 1..=86_400u64) {
            let limit = Limit {
                calls: NonZeroU32::new(calls).unwrap(),
                window: Duration::from_secs(window_s),
            };
            prop_assert_eq!(limit.to_string().parse(), Ok(limit));
        }
    }
}
