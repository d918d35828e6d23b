//! The bucket that callers feel: a burst at once, then what is left of the longest window, evenly.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

/// What the longest window has left, as the bucket needs to know it.
#[derive(Clone, Copy, Debug)]
pub struct WindowBudget<'a> {
    /// Calls that the longest window has room for now.
    pub free: f64,
    /// When each counted call leaves the window, ascending.
    pub returns: &'a [Instant],
    /// The window's length, with its margin.
    pub window: Duration,
    /// What others are estimated to use of it.
    pub others: Option<Others<'a>>,
}

impl WindowBudget<'_> {
    /// Of so few calls in a window, one that waits for the return after its own would be a notable
    /// share. In a larger window that one is the slack by which forecasts hold, and beside others
    /// it is part of the distance to what fits.
    pub(super) const SMALL: usize = 100;

    fn is_small(&self) -> bool {
        self.others.is_none() && self.free + self.returns.len() as f64 <= Self::SMALL as f64
    }
}

/// Others who use the same window. Their calls come and leave evenly, but for holes from times
/// without calls.
#[derive(Clone, Copy, Debug)]
pub struct Others<'a> {
    /// Their calls in a window.
    pub calls: f64,
    /// Everybody's calls in a window.
    pub most: f64,
    /// However full the estimate takes the window to be, so many calls a second find out, unless a
    /// share of what is left is less.
    pub least: f64,
    /// From when to when none of their calls leave, while they make new ones.
    pub holes: &'a VecDeque<(Instant, Instant)>,
}

/// How much of `(now, until]` lies in one of the holes.
pub(super) fn overlap(holes: &VecDeque<(Instant, Instant)>, now: Instant, until: Instant) -> Duration {
    let inside = |&(from, to): &(Instant, Instant)| to.min(until).saturating_duration_since(from.max(now));
    holes.iter().map(inside).sum()
}

/// A bucket of at most `burst` calls, filled at the largest constant rate that can never run dry.
///
/// With `spare` calls free beyond what the bucket already promises, and the k-th counted call (k =
/// 1, 2, ...) leaving the window at `x_k`, the rate is the least of `(spare + k - 1) / (x_k - now)`
/// over all k, and `(spare + n) / window` when all n have left. A limit of L loses one call in L +
/// 1 by that, so in a small window the call that a return makes room for is in the bucket when it
/// comes, not only after: `(spare + k) / (x_k - now)`, and, since the next return is that of a call
/// which leaves now, `(spare + n + 1) / window`. Spent at that rate, the window is just used up at
/// the `x_k` that gave the minimum; until then the plan stays right, so it is made again only at
/// that moment, or when calls were left unused.
#[derive(Clone, Debug)]
pub struct Pacer {
    burst: f64,
    level: f64,
    /// Calls per second.
    rate: f64,
    /// When `level` was right.
    at: Instant,
    /// Up to when that rate holds; `None`: it has to be computed at the next look.
    plan_end: Option<Instant>,
}

/// The largest constant rate up to `rate` that the returns sustain, and until when.
fn sustainable(now: Instant, supply: &WindowBudget<'_>, spare: f64, mut rate: f64) -> (f64, Instant) {
    let window = supply.window.as_secs_f64();
    let mut end = now + supply.window;
    // The call that a return makes room for may be ready when it comes: the ledger lets none go
    // before. Beside others it waits one return longer, which keeps the distance to what fits.
    let ready = f64::from(u8::from(supply.is_small()));
    let taken_until = |until| {
        let others = supply.others.filter(|others| !others.holes.is_empty());
        others.map_or(0.0, |others| {
            others.calls / window * overlap(others.holes, now, until).as_secs_f64()
        })
    };
    // A call in flight may come back after the window's length. Alone, a plan is made anew before
    // that matters.
    let last = supply.returns.last().filter(|_| supply.others.is_some());
    let last = last.map_or(end, |last| end.max(*last));
    let (longest, most_taken) = ((last - now).as_secs_f64(), taken_until(last));
    for (k, &back) in supply.returns.iter().enumerate() {
        let left = spare + k as f64 + ready;
        // No later one can ask for less.
        if (left - most_taken) / longest >= rate {
            break;
        }
        let taken = taken_until(back);
        let wait = back.saturating_duration_since(now).as_secs_f64();
        let sustained = (left - taken) / wait;
        if wait > 0.0 && sustained < rate {
            rate = sustained;
            end = back;
        }
    }
    (rate, end)
}

/// A bucket as it is written down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BucketState {
    /// Calls that it holds.
    pub level: f64,
    /// Calls per second by which it fills.
    pub rate: f64,
    /// How much longer that rate holds.
    pub lasts: Duration,
}

impl Pacer {
    /// Of the rate that an estimate of others leaves, at least this share is used, however full it
    /// takes the window to be.
    const LEAST: f64 = 0.25;

    /// Rounding of the level must not cost a wait.
    pub(super) const EPSILON: f64 = 1e-6;

    /// A bucket that holds `level` of `burst` calls.
    pub fn new(burst: NonZeroU32, level: u32, now: Instant) -> Self {
        let burst = f64::from(burst.get());
        Self {
            burst,
            level: f64::from(level).min(burst),
            rate: 0.0,
            at: now,
            plan_end: None,
        }
    }

    /// A bucket kept elsewhere, as it is now: `rate` calls per second, planned until `end`.
    pub fn kept(burst: NonZeroU32, level: f64, rate: f64, end: Instant, now: Instant) -> Self {
        let burst = f64::from(burst.get());
        Self {
            burst,
            level: level.clamp(0.0, burst),
            rate: rate.max(0.0),
            at: now,
            plan_end: Some(end),
        }
    }

    /// Whether [`Pacer::plan`] must be called before the next look.
    pub fn is_due(&self, now: Instant) -> bool {
        self.plan_end.is_none_or(|end| end <= now)
    }

    /// Fills the bucket up to `now` and computes the rate anew. Costs a pass over the supply's
    /// returns.
    pub fn plan(&mut self, now: Instant, supply: WindowBudget<'_>) {
        self.fill(now);
        let free = supply.free;
        // What the ledger cannot give, the bucket cannot promise; but a call that is nearly due
        // stays nearly due, or slots would shift with the moment at which a plan is made.
        self.level = self.level.min(free.max(1.0));
        let spare = free - self.level;
        let window = supply.window.as_secs_f64();
        let returning = supply.returns.len() as f64;
        // The call that leaves now is the next to return.
        let next = f64::from(u8::from(supply.is_small()));
        let even = (spare + returning + next).min(free + returning) / window;
        let Some(others) = supply.others else {
            let (rate, end) = sustainable(now, &supply, spare, even);
            self.rate = rate.max(0.0);
            self.plan_end = Some(end);
            return;
        };
        let fair = even.min((others.most - others.calls) / window);
        let (rate, end) = sustainable(now, &supply, spare, fair);
        // An estimate slows down, it does not stop: calls find out whether it is right. It is soon
        // another one.
        // With nothing to spare and no call of our own that returns, there is nothing to fill with.
        self.rate = rate.max((fair * Self::LEAST).min(others.least)).max(0.0);
        self.plan_end = Some(end.min(now + supply.window / 60));
    }

    /// Makes the next look compute the rate anew: the ledger changed in a way that the plan did not
    /// foresee.
    pub fn invalidate(&mut self) {
        self.plan_end = None;
    }

    /// Holds at most `burst` calls from now on, and plans anew.
    pub fn resize(&mut self, burst: NonZeroU32, now: Instant) {
        self.fill(now);
        self.burst = f64::from(burst.get());
        self.level = self.level.min(self.burst);
        self.invalidate();
    }

    /// When the bucket holds a call, if nothing else happens; may lie past the plan's end, see
    /// [`Pacer::plan_end`].
    pub fn opens_at(&self, now: Instant) -> Option<Instant> {
        let missing = 1.0 - Self::EPSILON - self.level_at(now);
        if missing <= 0.0 {
            return Some(now);
        }
        let wait = missing / self.rate;
        (wait < 1e6).then(|| now + Duration::from_secs_f64(wait))
    }

    /// The moment up to which the present rate holds.
    pub fn plan_end(&self) -> Option<Instant> {
        self.plan_end
    }

    /// Takes a call out.
    pub fn take(&mut self, now: Instant) {
        if self.level_at(now) >= self.burst {
            // The bucket ran over: there is more than the plan counts on.
            self.invalidate();
        }
        self.fill(now);
        self.level = (self.level - 1.0).max(0.0);
    }

    /// The bucket as it is now, to be written down.
    pub fn filling(&self, now: Instant) -> BucketState {
        let end = self.plan_end().unwrap_or(now);
        BucketState {
            level: self.level_at(now),
            rate: self.rate,
            lasts: end.saturating_duration_since(now),
        }
    }

    /// Lets at most a tenth of the burst go at once: the upstream has been refusing for long.
    pub(super) fn keep_a_tenth(&mut self, now: Instant) {
        self.fill(now);
        self.level = self.level.min((self.burst / 10.0).max(1.0));
    }

    /// Lets a call go now.
    pub(super) fn have_one(&mut self, now: Instant) {
        self.fill(now);
        self.level = self.level.max(1.0);
    }

    /// Puts a call back that was not made.
    pub fn put_back(&mut self, now: Instant) {
        self.fill(now);
        self.level = (self.level + 1.0).min(self.burst);
    }

    /// How many calls the bucket holds.
    pub fn level_at(&self, now: Instant) -> f64 {
        let grown = self.rate * now.saturating_duration_since(self.at).as_secs_f64();
        (self.level + grown).min(self.burst)
    }

    /// How many calls a full bucket holds.
    pub fn burst(&self) -> usize {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "made from a u32")]
        let burst = self.burst as usize;
        burst
    }

    /// Until the bucket holds one whole call more, or a new plan is made; zero when it is full.
    pub fn next_token(&self, now: Instant) -> Duration {
        let level = self.level_at(now) + Self::EPSILON;
        if level >= self.burst {
            return Duration::ZERO;
        }
        let wait = (level.floor() + 1.0 - level) / self.rate;
        let grown = (wait < 1e6).then(|| Duration::from_secs_f64(wait));
        let planned = self
            .plan_end()
            .map(|end| end.saturating_duration_since(now))
            .filter(|left| !left.is_zero());
        grown.into_iter().chain(planned).min().unwrap_or(Duration::from_secs(1))
    }

    /// Whether at least half of the burst is there.
    pub fn is_half_full(&self, now: Instant) -> bool {
        self.level_at(now) * 2.0 >= self.burst
    }

    fn fill(&mut self, now: Instant) {
        self.level = self.level_at(now);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest limits are where what others are estimated to use leaves less than one call.
    #[test]
    fn a_bucket_beside_others_never_drains() {
        let (now, window) = (Instant::now(), Duration::from_hours(1));
        let (burst, holes) = (NonZeroU32::new(10).unwrap(), VecDeque::new());
        for limit in 1..=12 {
            for (tenths, own, level) in
                (0..=9).flat_map(|n| (0..2).flat_map(move |own| [0, 1, 10].map(|level| (n, own, level))))
            {
                let calls = f64::from(limit) * f64::from(tenths) / 10.0;
                let returns = vec![now + window / 2; own];
                let supply = WindowBudget {
                    free: (f64::from(limit) - calls - own as f64).max(0.0),
                    returns: &returns,
                    window,
                    others: Some(Others {
                        calls,
                        most: f64::from(limit),
                        least: f64::INFINITY,
                        holes: &holes,
                    }),
                };
                let mut pacer = Pacer::new(burst, level, now);
                pacer.plan(now, supply);
                assert!(pacer.rate >= 0.0, "{limit} {tenths} {own} {level}: {pacer:?}");
                let later = now + Duration::from_secs(30);
                assert!(pacer.level_at(later) >= pacer.level_at(now));
                // Neither of them panics.
                let _ = (pacer.opens_at(later), pacer.next_token(later));
            }
        }
    }
}
