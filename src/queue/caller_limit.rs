//! The optional fair-use limit of each caller, in front of the cache: hits count as well.
//!
//! A courtesy between callers, not a guarantee: after a quiet time a caller may make up to twice
//! its limit in one window, which is why this is a token bucket here and an exact ledger in front
//! of the upstream.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
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

/// One bucket per caller.
#[derive(Clone, Debug)]
pub struct CallerLimiter {
    buckets: Arc<Buckets>,
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
                self.buckets.retain_recent();
            }
            if self.buckets.len() >= BUCKETS {
                return Ok(());
            }
        }
        self.buckets.check_key(caller).map_err(|not_until| {
            let now = self.buckets.clock().now();
            Refused::new(Reason::CallerLimiter, not_until.wait_time_from(now))
        })
    }

    /// Forgets callers whose buckets are full again, once a minute.
    pub fn spawn_upkeep(&self, tasks: &Tasks) {
        let buckets = Arc::clone(&self.buckets);
        tasks.spawn_upkeep("fair use", async move {
            loop {
                tokio::time::sleep(Duration::from_mins(1)).await;
                buckets.retain_recent();
                buckets.shrink_to_fit();
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
    async fn idle_callers_are_forgotten() {
        let tasks = Tasks::new();
        let limit = CallerLimiter::new(NonZeroU32::new(60).unwrap(), Duration::from_mins(1)).unwrap();
        limit.spawn_upkeep(&tasks);
        for n in 0..1000 {
            limit.check(&Name::new(&format!("caller {n}"))).unwrap();
        }
        tokio::time::sleep(Duration::from_secs(200)).await;
        assert_eq!(limit.buckets.len(), 0);
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
