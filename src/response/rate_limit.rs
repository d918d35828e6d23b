//! The quota as the header fields `RateLimit-Policy` and `RateLimit` show it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use super::answer::put;
use super::field;
use crate::quota::{self, Quota};

pub(super) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub(super) const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Passes the quota windows as they are at this moment to a function. It is called once for each
/// response, so it must be cheap and must not block.
pub type RateLimit = Arc<dyn Fn(Instant, &mut dyn FnMut(&Windows)) + Send + Sync>;

/// The quota windows at one moment, with their header fields already written: many responses share
/// them between two upstream calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    list: Vec<Window>,
    operation: Option<&'static str>,
    pub(super) policy: Option<HeaderValue>,
    pub(super) left: Option<HeaderValue>,
}

impl Windows {
    /// `list` has the shortest window first. If it is empty, there are no header fields.
    /// `operation` is the name of the operation whose calls alone count in these windows, if there
    /// is one.
    pub fn new(list: Vec<Window>, operation: Option<&'static str>) -> Self {
        Self {
            operation,
            policy: field::rate_limit_policy(&list),
            left: field::rate_limit(&list),
            list,
        }
    }

    /// The windows, shortest first.
    pub fn list(&self) -> &[Window] {
        &self.list
    }

    /// The name of the operation whose calls alone count in these windows.
    pub(super) fn operation(&self) -> Option<&'static str> {
        self.operation
    }

    pub(super) fn put(&self, fields: &mut HeaderMap) {
        put(fields, RATE_LIMIT_POLICY, self.policy.clone());
        put(fields, RATE_LIMIT, self.left.clone());
    }
}

/// One quota window as callers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The policy's name, such as `1m`.
    pub name: Arc<str>,
    /// Calls per window.
    pub quota: u64,
    /// The window's length in seconds, at least 1.
    pub window_s: u64,
    /// Calls left.
    pub remaining: u64,
    /// Seconds during which no more than `remaining` calls may be made.
    pub reset_s: u64,
    /// For a policy that spreads the calls of another window: what it does at present, as a
    /// sentence.
    pub spread: Option<String>,
}

/// What was told last, and for how long it is right.
#[derive(Debug)]
struct Told {
    revision: u64,
    until: Instant,
    windows: Windows,
}

/// Tells the windows of `quota`, in which the calls of `operation` alone count, if there is one.
/// They are read and written anew only when they have changed: answers from memory are many more
/// than calls and seconds.
pub fn rate_limit_of(quota: Quota, operation: Option<&'static str>) -> RateLimit {
    let last = Mutex::new(None::<Told>);
    Arc::new(move |now, show| {
        // Nothing in here panics half way; and who finds it taken waits for what it would have to
        // find out itself.
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        // Read first: what changes from here on makes the next answer look again.
        let revision = quota.revision();
        if let Some(told) = &*last
            && told.revision == revision
            && now < told.until
        {
            return show(&told.windows);
        }
        let snapshot = quota.snapshot();
        let until = snapshot.steady_until;
        let windows = Windows::new(policies(snapshot), operation);
        show(&windows);
        *last = Some(Told {
            revision,
            until,
            windows,
        });
    })
}

/// The name of the bucket's policy.
const PACE: &str = "pace";

/// What may go now: the windows, and the bucket as a policy of its own.
fn policies(snapshot: quota::Snapshot) -> Vec<Window> {
    let snapshot = snapshot.usable();
    let pace = snapshot.pace.as_ref().map(pace);
    snapshot.windows.iter().map(window).chain(pace).collect()
}

fn pace(state: &quota::PaceState) -> Window {
    let capacity_s = state.refill.as_secs().max(1);
    let reset = if state.next_token.is_zero() {
        state.refill
    } else {
        state.next_token
    };
    Window {
        name: PACE.into(),
        quota: state.capacity as u64,
        window_s: capacity_s,
        remaining: state.whole_tokens() as u64,
        reset_s: whole_seconds(reset),
        spread: Some(spread(state)),
    }
}

/// What the bucket does, in a sentence.
fn spread(state: &quota::PaceState) -> String {
    let pace = match state.per_minute {
        rate if rate >= 0.95 => format!("{rate:.0} calls a minute"),
        rate if rate > 0.0 => format!("a call every {:.0} seconds", 60.0 / rate),
        _ => "no call until earlier ones leave it".to_owned(),
    };
    format!("the {} window is being spread: {pace}", state.window)
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn window(window: &quota::Window) -> Window {
    Window {
        name: Arc::clone(&window.name),
        quota: window.limit as u64,
        window_s: window.length.as_secs().max(1),
        remaining: window.remaining as u64,
        // The margin for clocks that drift is ours; callers are told of the window that the
        // upstream documents.
        reset_s: whole_seconds(window.reset).min(window.length.as_secs().max(1)),
        spread: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    use crate::clock::Wall;

    fn quota() -> Quota {
        let limit = quota::Limit::try_new(NonZeroU32::new(10).unwrap(), Duration::from_mins(1)).unwrap();
        let config =
            quota::Config::try_new(vec![limit], NonZeroU32::new(10).unwrap(), Duration::from_secs(30)).unwrap();
        Quota::ephemeral(&config, Wall::system(), quota::Metrics::default())
    }

    fn fresh(quota: &Quota) -> Vec<Window> {
        policies(quota.snapshot())
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_told_is_always_what_is() {
        let quota = quota();
        let tell = rate_limit_of(quota.clone(), None);
        let mut left = Vec::new();
        for step in 0..400_u32 {
            // Calls that are answered, lost, never sent, and none for a while; in between, time
            // passes in uneven steps.
            if step % 7 < 3
                && let Ok(mut permit) = quota.take(Instant::now())
            {
                permit.leave();
                left.push(permit);
            }
            match step % 5 {
                0 => left.pop().into_iter().for_each(quota::Permit::settle),
                1 if step % 3 == 0 => left.pop().into_iter().for_each(quota::Permit::refund),
                2 => drop(left.pop()),
                _ => {}
            }
            for _ in 0..3 {
                tell(Instant::now(), &mut |told| {
                    assert_eq!(told.list(), fresh(&quota), "step {step}");
                });
                tokio::time::advance(Duration::from_millis(u64::from(step * 37 % 450))).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_bucket_is_a_policy_of_its_own_and_empty_during_a_pause() {
        let quota = quota();
        let pace = || policies(quota.snapshot()).pop().unwrap();
        let full = pace();
        assert_eq!((&*full.name, full.quota, full.window_s), ("pace", 10, 60));
        assert_eq!((full.remaining, full.reset_s), (10, 60));
        for left in (0..10).rev() {
            quota.take(Instant::now()).unwrap().settle();
            assert_eq!(pace().remaining, left);
        }
        let seconds = pace().reset_s;
        tokio::time::advance(Duration::from_secs(seconds)).await;
        assert!(pace().remaining > 0 || pace().reset_s > 0, "{:?}", pace());
        tokio::time::advance(Duration::from_mins(2)).await;
        let wait = Duration::from_millis(7500);
        let said = quota::ThrottleHint {
            window: None,
            wait: Some(wait),
        };
        quota.take(Instant::now()).unwrap().throttled(said);
        let told = policies(quota.snapshot());
        assert!(
            told.iter().all(|policy| (policy.remaining, policy.reset_s) == (0, 8)),
            "{told:?}"
        );
        let shown = quota.snapshot();
        assert_eq!(
            (shown.windows[0].used, shown.windows[0].remaining),
            (1, 9),
            "people see the room there is"
        );
        tokio::time::advance(Duration::from_secs(8)).await;
        let told = policies(quota.snapshot());
        assert!(
            told.iter().all(|policy| policy.remaining == 1),
            "one call finds out: {told:?}"
        );
        assert!(pace().spread.unwrap().starts_with("the 1m window is being spread: "));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_written_anew_without_need() {
        let quota = quota();
        let tell = rate_limit_of(quota.clone(), None);
        let place = || {
            let mut place = std::ptr::null();
            tell(Instant::now(), &mut |told| place = told.list().as_ptr());
            place
        };
        let first = place();
        tokio::time::advance(Duration::from_mins(2)).await;
        // Unused, nothing returns: nothing counts down.
        assert_eq!(place(), first);
        drop(quota.take(Instant::now()).unwrap());
        assert_ne!(place(), first);
    }
}
