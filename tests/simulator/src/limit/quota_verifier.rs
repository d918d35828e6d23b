//! Verifies from arrival times alone that quotas were kept.

use std::fmt;
use std::time::Duration;

use super::Limit;

/// Finds the fullest window of each limit, at any alignment.
///
/// A window of length W is half-open, `[s, s + W)`: two arrivals exactly W apart do not share one.
/// Give it arrival times as the upstream sees them, in any order. It keeps every time it is given;
/// it is made for tests.
///
/// ```
/// use std::time::Duration;
/// use defender_gateway_simulator::QuotaVerifier;
/// let mut judge = QuotaVerifier::new(&["2/1s".parse().unwrap()]);
/// judge.extend([0, 900, 1_000, 1_899].map(Duration::from_millis));
/// assert_eq!(judge.findings()[0].most, 3); // 900, 1000 and 1899 lie within one second
/// assert!(!judge.is_satisfied());
/// ```
#[derive(Clone, Debug)]
pub struct QuotaVerifier {
    limits: Vec<Limit>,
    arrivals: Vec<Duration>,
}

/// The fullest window of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The limit looked at.
    pub limit: Limit,
    /// The most arrivals in any window of its length.
    pub most: usize,
    /// When the first such window starts, which is at an arrival. Zero when nothing arrived.
    pub from: Duration,
}

impl Finding {
    /// Whether the limit was kept.
    pub fn is_within(&self) -> bool {
        self.most <= self.limit.calls() as usize
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_within() { "within" } else { "OVER" };
        if self.most == 0 {
            return write!(f, "{verdict} {}: no call", self.limit);
        }
        write!(
            f,
            "{verdict} {}: {} in the window from {:?}",
            self.limit, self.most, self.from
        )
    }
}

impl QuotaVerifier {
    /// A verifier without arrivals.
    pub fn new(limits: &[Limit]) -> Self {
        Self {
            limits: limits.to_vec(),
            arrivals: Vec::new(),
        }
    }

    /// The number of arrivals.
    pub fn seen(&self) -> usize {
        self.arrivals.len()
    }

    /// The fullest window of each limit, in the limits' order.
    pub fn findings(&self) -> Vec<Finding> {
        let mut sorted = self.arrivals.clone();
        sorted.sort_unstable();
        self.limits.iter().map(|limit| fullest(&sorted, *limit)).collect()
    }

    /// Whether every limit was kept.
    pub fn is_satisfied(&self) -> bool {
        self.findings().iter().all(Finding::is_within)
    }
}

/// Adds arrivals, each as the time after an epoch of the user's choice.
impl Extend<Duration> for QuotaVerifier {
    fn extend<I: IntoIterator<Item = Duration>>(&mut self, arrivals: I) {
        self.arrivals.extend(arrivals);
    }
}

/// The fullest window can always be moved right until it starts at an arrival, so only such windows
/// are checked.
fn fullest(sorted: &[Duration], limit: Limit) -> Finding {
    let mut found = Finding {
        limit,
        most: 0,
        from: Duration::ZERO,
    };
    let mut end = 0;
    for (start, from) in sorted.iter().enumerate() {
        while sorted.get(end).is_some_and(|at| *at < *from + limit.window()) {
            end += 1;
        }
        if end - start > found.most {
            (found.most, found.from) = (end - start, *from);
        }
    }
    found
}
