//! The optional fair-use limit of each caller, in front of the cache: hits count as well.
//!
//! A courtesy between callers, not a guarantee: after a quiet time a caller may make up to twice
//! its limit in one window, which is why this is a token bucket here and an exact ledger in front
//! of the upstream.

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore as _;
use governor::state::keyed::{HashMapStateStore, ShrinkableKeyedStateStore as _};
use governor::{NotUntil, Quota, RateLimiter};
use tokio::time::Instant;
use tower::filter::{FilterLayer, Predicate};

use super::refused::{Reason, Refused};
use super::snapshot::Metrics;
use crate::BoxError;
use crate::caller::Name;
use crate::scan::Call;
use crate::task::Tasks;

/// Buckets kept at once. Beyond it idle ones are forgotten early, and as long as that is not
/// enough, nobody is limited.
const BUCKETS: usize = 10_000;

/// Refused requests of one caller are told different times, one for each further call, until so
/// long after the first of them: those that do not come back make others no later than that.
const FURTHEST: Duration = Duration::from_mins(1);

/// One bucket per caller.
#[derive(Clone, Debug)]
pub struct CallerLimiter {
    buckets: Arc<Buckets>,
    /// For when the last of each caller's refused requests was told to come.
    told: Arc<HashMapStateStore<Name>>,
    /// The second in which idle buckets were last forgotten for want of room.
    swept_s: Arc<AtomicU64>,
}

type Buckets = RateLimiter<Name, HashMapStateStore<Name>, PausableClock, NoOpMiddleware<Nanos>>;

impl CallerLimiter {
    /// `calls` per `window` for each caller, all of them at once after a quiet time. `None` when
    /// the window is too short to divide.
    pub fn new(calls: NonZeroU32, window: Duration) -> Option<Self> {
        let quota = Quota::with_period(window / calls.get())?.allow_burst(calls);
        let buckets = RateLimiter::new(quota, HashMapStateStore::default(), PausableClock::new());
        Some(Self {
            buckets: Arc::new(buckets),
            told: Arc::default(),
            swept_s: Arc::default(),
        })
    }

    /// Counts a request of `caller`.
    ///
    /// # Errors
    /// [`Refused`] when the caller's bucket is empty.
    pub fn check(&self, caller: &Name) -> Result<(), Refused> {
        if self.buckets.len() >= BUCKETS {
            // A look at every bucket, so not for each of a flood of new names.
            let second = self.buckets.clock().start.elapsed().as_secs() + 1;
            if self.swept_s.swap(second, Ordering::Relaxed) != second {
                self.forget_idle();
            }
            if self.buckets.len() >= BUCKETS {
                return Ok(());
            }
        }
        self.buckets.check_key(caller).map_err(|not_until| {
            let at: Duration = self.tell(caller, &not_until).into();
            let now = self.buckets.clock().now().into();
            Refused::new(Reason::CallerLimiter, at.saturating_sub(now))
        })
    }

    /// When one more request is let in, after those that were refused before it.
    fn tell(&self, caller: &Name, not_until: &NotUntil<Nanos>) -> Nanos {
        let (first, period) = (not_until.earliest_possible(), not_until.quota().replenish_interval());
        if self.told.len() >= BUCKETS {
            return first;
        }
        let after = |last: Option<Nanos>| last.map_or(first, |last| last + period).max(first);
        let told = self.told.measure_and_replace(caller, |last| {
            let at = after(last).min(first + period.max(FURTHEST));
            Ok::<_, Infallible>((at, at))
        });
        told.unwrap_or_else(|never| match never {})
    }

    fn forget_idle(&self) {
        self.buckets.retain_recent();
        self.told.retain_recent(self.buckets.clock().now());
    }

    /// Forgets callers whose buckets are full again, once a minute.
    pub fn spawn_upkeep(&self, tasks: &Tasks) {
        let limiter = self.clone();
        tasks.spawn_upkeep("fair use", async move {
            loop {
                tokio::time::sleep(Duration::from_mins(1)).await;
                limiter.forget_idle();
                limiter.buckets.shrink_to_fit();
                limiter.told.shrink_to_fit();
            }
        });
    }
}

/// governor's own clocks ignore paused tokio time.
#[derive(Clone, Copy, Debug)]
struct PausableClock {
    start: Instant,
}

impl PausableClock {
    fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for PausableClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.start.elapsed())
    }
}

/// Refuses callers over their fair use, once their request is read. Without a limit every
/// caller passes.
pub type CallerLimitLayer = FilterLayer<CallerLimit>;

/// The limit of a [`CallerLimitLayer`], with where it counts refusals. One pointer, because the
/// layers are cloned for each request of HTTP/2.
#[derive(Clone, Debug)]
pub struct CallerLimit(Option<Arc<(CallerLimiter, Metrics)>>);

impl CallerLimit {
    /// No limit without a `limiter`.
    pub fn new(limiter: Option<CallerLimiter>, metrics: Metrics) -> Self {
        Self(limiter.map(|limiter| Arc::new((limiter, metrics))))
    }
}

impl Predicate<Call> for CallerLimit {
    type Request = Call;

    fn check(&mut self, call: Call) -> Result<Call, BoxError> {
        if let Some((limiter, metrics)) = self.0.as_deref() {
            let checked = limiter.check(&call.caller.name);
            checked.inspect_err(|refused| metrics.refused(refused.reason))?;
        }
        Ok(call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_caller_over_its_limit_is_told_when_to_come_back() {
        let limit = CallerLimiter::new(NonZeroU32::new(60).unwrap(), Duration::from_mins(1)).unwrap();
        let (greedy, modest) = (Name::new("greedy"), Name::new("modest"));
        assert!((0..60).all(|_| limit.check(&greedy).is_ok()));
        let refused = limit.check(&greedy).unwrap_err();
        assert_eq!((refused.reason, refused.retry_after_s()), (Reason::CallerLimiter, 1));
        assert!(limit.check(&modest).is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(limit.check(&greedy).is_ok());
        assert!(limit.check(&greedy).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn those_refused_together_are_let_in_at_times_of_their_own() {
        let second = Duration::from_secs(1);
        for (calls, window_s) in [(6, 12), (60, 60), (600, 60), (7, 60)] {
            let window = second * window_s;
            let limit = CallerLimiter::new(NonZeroU32::new(calls).unwrap(), window).unwrap();
            let caller = Name::new("caller");
            assert!((0..calls).all(|_| limit.check(&caller).is_ok()));
            // As many as the minute has room for.
            let refused = (0..60 * calls / window_s).map(|_| limit.check(&caller).unwrap_err());
            let mut told: Vec<_> = refused.map(|refused| refused.retry_after_s()).collect();
            told.sort_unstable();
            let start = Instant::now();
            for (n, told) in told.iter().enumerate() {
                tokio::time::sleep_until(start + second * u32::try_from(*told).unwrap() + second / 50).await;
                assert!(limit.check(&caller).is_ok(), "{calls} in {window:?}: {n}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_later_for_ever_because_others_do_not_come_back() {
        let limit = CallerLimiter::new(NonZeroU32::new(60).unwrap(), Duration::from_mins(1)).unwrap();
        let caller = Name::new("caller");
        let until_refused = || {
            std::iter::repeat_with(|| limit.check(&caller))
                .find_map(Result::err)
                .unwrap()
        };
        until_refused();
        for _ in 0..1000 {
            limit.check(&caller).unwrap_err();
        }
        assert!(until_refused().retry_after_s() <= 61);
        tokio::time::advance(Duration::from_mins(1)).await;
        assert!(until_refused().retry_after_s() <= 2);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_callers_are_forgotten() {
        let tasks = Tasks::new();
        let limit = CallerLimiter::new(NonZeroU32::new(60).unwrap(), Duration::from_mins(1)).unwrap();
        limit.spawn_upkeep(&tasks);
        for n in 0..1000 {
            limit.check(&Name::new(&format!("caller {n}"))).unwrap();
        }
        for _ in 0..100 {
            let _ = limit.check(&Name::new("caller 0"));
        }
        tokio::time::sleep(Duration::from_secs(200)).await;
        assert_eq!((limit.buckets.len(), limit.told.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_names_take_no_more_than_so_many_buckets() {
        let limit = CallerLimiter::new(NonZeroU32::MIN, Duration::from_hours(1)).unwrap();
        for n in 0..10_100 {
            limit.check(&Name::new(&n.to_string())).unwrap();
        }
        assert_eq!(limit.buckets.len(), 10_000);
        assert!(
            limit.check(&Name::new("0")).is_ok(),
            "while all are taken nobody is limited"
        );
        tokio::time::advance(Duration::from_hours(2)).await;
        limit.check(&Name::new("new")).unwrap();
        assert!(
            limit.check(&Name::new("new")).is_err(),
            "those that are full again make room"
        );
    }
}
