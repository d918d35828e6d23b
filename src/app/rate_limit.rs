//! The quota windows as answers tell them.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::respond::{self, RateLimit, Windows};
use crate::{quota, quota::Quota};

/// What was told last, and for how long it is right.
#[derive(Debug)]
struct Told {
    stamp: u64,
    until: Instant,
    windows: Windows,
}

/// Tells the windows of `quota`. They are read and written anew only when they have changed: answers from memory are many more than
/// calls and seconds.
pub(super) fn of(quota: Quota) -> RateLimit {
    let last = Mutex::new(None::<Told>);
    Arc::new(move |now, show| {
        // Nothing in here panics half way; and who finds it taken waits for what it would have to find out itself.
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        // Read first: what changes from here on makes the next answer look again.
        let stamp = quota.stamp();
        if let Some(told) = &*last
            && told.stamp == stamp
            && now < told.until
        {
            return show(&told.windows);
        }
        let snapshot = quota.snapshot();
        let windows = snapshot.windows.into_iter().map(window).collect();
        let windows = match last.take() {
            Some(told) => told.windows.now(windows),
            None => Windows::new(windows),
        };
        show(&windows);
        *last = Some(Told {
            stamp,
            until: snapshot.steady_until,
            windows,
        });
    })
}

fn window(window: quota::Window) -> respond::Window {
    respond::Window {
        name: window.name,
        quota: window.limit as u64,
        window_s: window.length.as_secs().max(1),
        remaining: window.remaining as u64,
        // The margin for clocks that drift is ours; callers are told of the window that the upstream documents.
        reset_s: (window.reset.as_secs() + u64::from(window.reset.subsec_nanos() > 0))
            .min(window.length.as_secs().max(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;
    use std::time::Duration;

    use crate::clock::Wall;

    fn quota() -> Quota {
        let limit = quota::Limit::try_new(NonZeroU32::new(10).unwrap(), Duration::from_mins(1)).unwrap();
        let config =
            quota::Config::try_new(vec![limit], NonZeroU32::new(10).unwrap(), Duration::from_secs(30)).unwrap();
        Quota::forgetful(&config, Wall::system(), quota::Metrics::default())
    }

    fn fresh(quota: &Quota) -> Vec<respond::Window> {
        quota.snapshot().windows.into_iter().map(window).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_told_is_always_what_is() {
        let quota = quota();
        let tell = of(quota.clone());
        let mut left = Vec::new();
        for step in 0..400_u32 {
            // Calls that are answered, lost, never sent, and none for a while; in between, time passes in uneven steps.
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
    async fn nothing_is_written_anew_without_need() {
        let quota = quota();
        let tell = of(quota.clone());
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
