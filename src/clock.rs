//! The clocks outside the process: the wall clock, and the time since the machine booted.
//!
//! Within the process, time is `tokio::time::Instant`, which tests can pause. Wall time is needed
//! only where dates come from or go outside: `Retry-After` dates, a token's `expires_on`, assertion
//! lifetimes. It may be stepped at any moment, so a duration is never measured with it. What has to
//! be measured from one process to the next (the age of a charge in the state file) is measured
//! with the time since boot, which no step of the wall clock changes.
//!
//! On Linux the time of the process stands still while the machine is suspended, and that of all
//! others goes on. Where something would then be taken for younger than it is ([`suspended`]), that
//! time is added.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Reads the wall clock. Clones are cheap and show the same time.
#[derive(Clone, Debug)]
pub struct Wall(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Anchored {
        at: Timestamp,
        since: Instant,
        boot: Arc<str>,
    },
}

/// The time since this machine booted, and the id of that boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootTime {
    /// The id of the boot. Times of different boots cannot be compared.
    pub boot_id: Arc<str>,
    /// The time since then, including the time in which the machine was suspended.
    pub elapsed: Duration,
}

/// Both clocks, read at the same moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The wall clock.
    pub wall: Timestamp,
    /// The time since boot; `None` where the operating system does not tell it.
    pub boot: Option<BootTime>,
}

impl Wall {
    /// The operating system's clock. It may jump; callers must tolerate that.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that shows `at` now and moves with tokio's monotonic clock, so that paused tests
    /// move it too. It belongs to a machine that boots at this moment.
    pub fn anchored(at: Timestamp) -> Self {
        static BOOTS: AtomicU64 = AtomicU64::new(0);
        let boot = format!("anchored-{}", BOOTS.fetch_add(1, Ordering::Relaxed));
        Self(Source::Anchored {
            at,
            since: Instant::now(),
            boot: boot.into(),
        })
    }

    /// The same machine's clock after it was stepped by this much. The operating system's clock
    /// stays as it is.
    pub fn stepped(&self, by: SignedDuration) -> Self {
        match &self.0 {
            Source::System => Self::system(),
            Source::Anchored { at, since, boot } => Self(Source::Anchored {
                at: at.saturating_add(by).unwrap_or(*at),
                since: *since,
                boot: Arc::clone(boot),
            }),
        }
    }

    /// The current wall-clock time.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => Timestamp::now(),
            Source::Anchored { at, since, .. } => at.checked_add(since.elapsed()).unwrap_or(Timestamp::MAX),
        }
    }

    /// The current wall-clock time and the time since boot.
    pub fn read(&self) -> Reading {
        let boot = match &self.0 {
            Source::System => boot_time(),
            Source::Anchored { since, boot, .. } => Some(BootTime {
                boot_id: Arc::clone(boot),
                elapsed: since.elapsed(),
            }),
        };
        Reading { wall: self.now(), boot }
    }
}

/// How long the machine has been suspended since it booted: the time that `Instant` does not know
/// of. It never shrinks. Zero where the operating system does not tell it, or counts that time.
pub fn suspended() -> Duration {
    #[cfg(test)]
    if let Some(simulated) = simulation::SUSPENDED.get() {
        return simulated;
    }
    suspended_since_boot()
}

/// What was measured by `Instant` before the machine was suspended for so long, as if it had been
/// measured after that.
pub fn earlier(at: Instant, by: Duration) -> Instant {
    // Where time stands still in a suspended machine, there are moments before it booted.
    at.checked_sub(by).unwrap_or(at)
}

#[cfg(test)]
pub use simulation::suspend;

/// A machine that tests suspend.
#[cfg(test)]
mod simulation {
    use std::cell::Cell;
    use std::time::Duration;

    thread_local! {
        pub(super) static SUSPENDED: Cell<Option<Duration>> = const { Cell::new(None) };
    }

    /// As if the machine had been suspended for so long just now, for what this thread asks.
    pub fn suspend(time: Duration) {
        SUSPENDED.set(Some(super::suspended() + time));
    }
}

/// On Linux: what `CLOCK_BOOTTIME` is ahead of `CLOCK_MONOTONIC`.
fn suspended_since_boot() -> Duration {
    use rustix::time::{ClockId, clock_gettime};

    /// A time that nobody could tell from none, such as passes between the two readings.
    const LEAST: u64 = 100_000_000;
    static MOST: AtomicU64 = AtomicU64::new(0);
    let nanos = |clock| {
        let time = clock_gettime(clock);
        i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
    };
    // Read first: what passes until the other is read makes the difference smaller, never larger.
    let boot = nanos(ClockId::Boottime);
    let ahead = u64::try_from(boot - nanos(ClockId::Monotonic)).unwrap_or(0);
    let known = MOST.load(Ordering::Relaxed);
    if ahead > known.saturating_add(LEAST) {
        MOST.fetch_max(ahead, Ordering::Relaxed);
    }
    Duration::from_nanos(MOST.load(Ordering::Relaxed))
}

/// The time since boot on Linux: `CLOCK_BOOTTIME`, and the boot id of `/proc`
/// (`proc_sys_kernel(5)`).
///
/// A time namespace shifts that clock for the processes inside (`time_namespaces(7)`), so its
/// offsets are part of the id.
fn boot_time() -> Option<BootTime> {
    use std::sync::OnceLock;

    use rustix::time::{ClockId, clock_gettime};

    static BOOT_ID: OnceLock<Option<Arc<str>>> = OnceLock::new();
    let boot_id = BOOT_ID.get_or_init(|| {
        let read = |path| std::fs::read_to_string(path).ok();
        let boot_id = read("/proc/sys/kernel/random/boot_id").filter(|id| !id.trim().is_empty())?;
        let offsets = read("/proc/self/timens_offsets").unwrap_or_default();
        let words: Vec<_> = [boot_id.as_str(), offsets.as_str()]
            .into_iter()
            .flat_map(str::split_whitespace)
            .collect();
        Some(words.join("/").into())
    });
    let now = clock_gettime(ClockId::Boottime);
    let elapsed = Duration::new(u64::try_from(now.tv_sec).ok()?, u32::try_from(now.tv_nsec).ok()?);
    Some(BootTime {
        boot_id: Arc::clone(boot_id.as_ref()?),
        elapsed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn an_anchored_clock_moves_with_paused_time() {
        let start = Timestamp::from_second(1_700_000_000).unwrap();
        let wall = Wall::anchored(start);
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(wall.now().as_second(), 1_700_000_090);
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_of_the_wall_clock_does_not_touch_the_time_since_boot() {
        let wall = Wall::anchored(Timestamp::from_second(1_700_000_000).unwrap());
        tokio::time::advance(Duration::from_secs(5)).await;
        let stepped = wall.stepped(SignedDuration::from_hours(2));
        assert_eq!(stepped.now().duration_since(wall.now()), SignedDuration::from_hours(2));
        assert_eq!(stepped.read().boot, wall.read().boot);
        assert_eq!(wall.read().boot.unwrap().elapsed, Duration::from_secs(5));
        assert_ne!(
            Wall::anchored(wall.now()).read().boot,
            wall.read().boot,
            "another machine"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_tells_the_time_since_boot_and_its_id_in_one_word() {
        let (first, second) = (boot_time().unwrap(), boot_time().unwrap());
        assert_eq!(first.boot_id, second.boot_id);
        assert!(first.boot_id.len() >= 36 && !first.boot_id.contains(char::is_whitespace));
        assert!(Duration::ZERO < first.elapsed && first.elapsed <= second.elapsed);
    }
}
