//! How long each host's answers usually take.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use crate::attempt::Leg;

/// Answers remembered per host. The share of them that is later than the 95th percentile is 5 in 100 by construction, so a host that
/// becomes slow for good is soon usual again.
const MEMORY: usize = 100;

/// With fewer answers, nothing is usual yet.
const LEAST: usize = 20;

/// Most hosts remembered: as many as there can be regions.
const MAX_HOSTS: usize = 32;

/// The times of each host's latest answers.
#[derive(Debug, Default)]
pub(super) struct Usual(HashMap<Arc<Url>, VecDeque<Duration>>);

impl Usual {
    /// When an answer on this leg is later than 95 % of the host's answers; `None` while too few are known.
    pub(super) fn overdue(&self, leg: &Leg) -> Option<Instant> {
        let times = self.0.get(&leg.base).filter(|times| times.len() >= LEAST)?;
        let mut sorted: Vec<_> = times.iter().copied().collect();
        sorted.sort_unstable();
        let rank = (sorted.len() * 95).div_ceil(100);
        sorted.get(rank - 1).map(|usual| leg.since + *usual)
    }

    /// The host answered now.
    pub(super) fn answered(&mut self, leg: &Leg, now: Instant) {
        if self.0.len() >= MAX_HOSTS && !self.0.contains_key(&leg.base) {
            return;
        }
        let times = self.0.entry(Arc::clone(&leg.base)).or_default();
        if times.len() >= MEMORY {
            times.pop_front();
        }
        times.push_back(now.saturating_duration_since(leg.since));
    }

    /// The host has not answered by now, and nobody waits any longer. Its time would have been longer than this, so it counts when it is
    /// late already; an earlier end says nothing.
    pub(super) fn given_up(&mut self, leg: &Leg, now: Instant) {
        if self.overdue(leg).is_some_and(|overdue| now >= overdue) {
            self.answered(leg, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leg(host: &str, since: Instant) -> Leg {
        Leg {
            base: Arc::new(format!("https://{host}.test").parse().unwrap()),
            since,
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[tokio::test(start_paused = true)]
    async fn the_95th_percentile_of_the_latest_answers_of_each_host_is_usual() {
        let now = Instant::now();
        let (eu, us) = (leg("eu", now), leg("us", now));
        let mut usual = Usual::default();
        for n in 1..=19 {
            usual.answered(&eu, now + ms(n));
        }
        assert_eq!(usual.overdue(&eu), None, "too few");
        usual.answered(&eu, now + ms(20));
        assert_eq!(usual.overdue(&eu), Some(now + ms(19)));
        assert_eq!(usual.overdue(&us), None);
        for n in 101..=200 {
            usual.answered(&eu, now + ms(n));
        }
        assert_eq!(usual.overdue(&eu), Some(now + ms(195)), "the old ones are forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slower_host_is_usual_after_six_late_answers_that_nobody_waited_for() {
        let now = Instant::now();
        let eu = leg("eu", now);
        let mut usual = Usual::default();
        for _ in 0..100 {
            usual.answered(&eu, now + ms(10));
        }
        for _ in 0..6 {
            usual.given_up(&eu, now + ms(9));
            assert_eq!(usual.overdue(&eu), Some(now + ms(10)));
            usual.given_up(&eu, now + ms(50));
        }
        assert_eq!(usual.overdue(&eu), Some(now + ms(50)));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let now = Instant::now();
        let mut usual = Usual::default();
        for n in 0..2 * MAX_HOSTS {
            for _ in 0..2 * MEMORY {
                usual.answered(&leg(&format!("h{n}"), now), now);
            }
        }
        assert_eq!(usual.0.len(), MAX_HOSTS);
        assert!(usual.0.values().all(|times| times.len() == MEMORY));
    }
}
