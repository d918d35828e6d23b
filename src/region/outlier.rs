//! Outlier detection
//! (<https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier> has the
//! terms): when a host that makes no progress is ejected, and what happens to the calls in flight
//! to it.
//!
//! A call without progress for longer than its stall timeout is at a silent host, or at a slow one.
//! To tell which, one such call at a time is abandoned and retried at another host, at the cost of
//! a slot, while the host is avoided and the other calls wait. The retry decides:
//!
//! * another host answers within the stall timeout: the host is ejected, and the calls in flight to
//!   it are abandoned and retried too;
//! * another host is as slow: that is how long answers take now, and no other call is abandoned;
//! * the host itself answers a call: it is not silent, and the next stalled call starts a new
//!   detection;
//! * no host answers: no other call is abandoned, since a retry has not helped.
//!
//! The one invariant: no call is abandoned that could not be retried at another healthy host.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::attempt::{Attempt, Retries, StallTimeout};
use crate::region::host_selector::State;
use crate::region::{HostSelector, SelectedHost};

/// The shortest stall timeout, also while nothing is known: callers have to wait for it, and few
/// answers take longer.
const LEAST: Duration = Duration::from_secs(3);

/// The stall timeout as a multiple of the 95th percentile, and of the longest recent stall.
const USUAL_FACTOR: f64 = 2.0;
const RECENT_FACTOR: f64 = 1.5;

/// The period of recent stalls.
const RECENT: Duration = Duration::from_mins(1);

/// Calls in flight to an ejected host have at least this long to be answered all the same.
const LEAVING: Duration = Duration::from_secs(1);

/// How long a detection without a result avoids its host, lets another host's answer eject it, and
/// keeps other calls from being abandoned.
pub(super) const PENDING: Duration = Duration::from_mins(1);

/// How often it is checked whether another host has become healthy, and whether this process ran.
const RECHECK: Duration = Duration::from_secs(1);

/// A check that is later than this did not happen because the process was frozen, throttled or
/// starved. No host is to blame for that time.
const STANDSTILL: Duration = Duration::from_secs(1);

/// The longest recent stall in an answer of any host.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RecentMax(Option<(Instant, Duration)>);

impl RecentMax {
    fn pause(self, now: Instant) -> Option<Duration> {
        let young = |at: &Instant| now.saturating_duration_since(*at) < RECENT;
        self.0.filter(|(at, _)| young(at)).map(|(_, pause)| pause)
    }

    fn saw(&mut self, pause: Duration, now: Instant) {
        if self.pause(now).is_none_or(|longest| pause >= longest) {
            self.0 = Some((now, pause));
        }
    }
}

/// The stall timeout of a host with this 95th percentile.
fn stall_timeout(usual: Option<Duration>, recent: Option<Duration>) -> Duration {
    let usual = usual.unwrap_or_default().mul_f64(USUAL_FACTOR);
    let recent = recent.unwrap_or_default().mul_f64(RECENT_FACTOR);
    LEAST.max(usual).max(recent)
}

/// Watches the progress of one call to a host.
#[derive(Debug)]
pub(super) struct ProgressMonitor {
    selector: HostSelector,
    index: usize,
    /// Until when the call may be retried.
    deadline: Instant,
    retries: Retries,
    longest: Mutex<Option<Duration>>,
}

impl ProgressMonitor {
    pub(super) fn new(selector: HostSelector, choice: &SelectedHost, deadline: Instant, retries: Retries) -> Arc<Self> {
        Arc::new(Self {
            selector,
            index: choice.index,
            deadline,
            retries,
            longest: Mutex::default(),
        })
    }

    /// The stall timeout for the client.
    pub(super) fn stall_timeout(self: &Arc<Self>) -> StallTimeout {
        let monitor = Arc::clone(self);
        StallTimeout::new(move || {
            let now = Instant::now();
            let stall = Stall {
                monitor: Arc::clone(&monitor),
                begun: now,
                checked: now,
            };
            Box::pin(stall.timed_out())
        })
    }

    /// The longest time in which there was no progress; `None` when the call was not sent.
    pub(super) fn longest_pause(&self) -> Option<Duration> {
        // A change is one assignment.
        *self.longest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A time without progress, which ends when it is dropped.
struct Stall {
    monitor: Arc<ProgressMonitor>,
    begun: Instant,
    /// When this process was last known to run.
    checked: Instant,
}

impl Stall {
    async fn timed_out(mut self) {
        let mut changes = self.monitor.selector.shared.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let now = self.leave_out_standstill();
            let next = match self.check_progress() {
                ProgressCheck::Abandon => return,
                ProgressCheck::CheckAgain(at) => at.min(now + RECHECK),
            };
            tokio::select! {
                () = sleep_until(next) => {}
                // The sender is part of the selector, which is kept here.
                _ = changes.changed() => {}
            }
        }
    }

    fn check_progress(&self) -> ProgressCheck {
        let monitor = &self.monitor;
        match monitor.retries {
            Retries::Left => {
                monitor
                    .selector
                    .lock()
                    .check_progress(monitor.index, self.begun, monitor.deadline, Instant::now())
            }
            Retries::Exhausted => ProgressCheck::CheckAgain(Instant::now() + RECHECK),
        }
    }

    /// The time, after a new beginning if the process has not run since the last check: an answer
    /// may have come meanwhile, and is read next.
    fn leave_out_standstill(&mut self) -> Instant {
        let now = Instant::now();
        if now.saturating_duration_since(self.checked) > RECHECK + STANDSTILL {
            self.note_pause(self.checked);
            self.begun = now;
        }
        self.checked = now;
        now
    }

    fn note_pause(&self, end: Instant) {
        let mut longest = self.monitor.longest.lock().unwrap_or_else(PoisonError::into_inner);
        *longest = (*longest).max(Some(end.saturating_duration_since(self.begun)));
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        let now = self.leave_out_standstill();
        self.note_pause(now);
    }
}

/// What a call says about its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallOutcome {
    /// It answered with rows; with the longest stall, if that is known.
    Success(Option<Duration>),
    /// It rejected the request in Defender's format, which takes other times.
    ClientError(Option<Duration>),
    /// It is alive, which does not say that it can answer: it throttles, or rejects the token. That
    /// neither excuses its bad answers nor shows that another host's were that host's fault.
    Alive,
    /// It says that it cannot answer, or the connection was lost after it had taken the request.
    Unavailable,
    /// Its response was no answer of Defender's.
    InvalidResponse,
    /// It did not take the request: it is ejected when that happens too often.
    NotTaken,
    /// It did not answer in time: the same, and other hosts are preferred for a while.
    NoAnswer,
    /// No connection: it is ejected at once.
    NotConnected,
}

/// What happens to a call without progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProgressCheck {
    /// It is abandoned, to be retried at another host.
    Abandon,
    /// It goes on until then at least, unless a host's state changes.
    CheckAgain(Instant),
}

impl State {
    /// What happens to a call to a host without progress since `begun` that may be retried until
    /// `deadline`.
    pub(super) fn check_progress(
        &mut self,
        index: usize,
        begun: Instant,
        deadline: Instant,
        now: Instant,
    ) -> ProgressCheck {
        let usual = self.usual(index);
        let is_left = self.hosts[index].health.was_ejected_since(begun, now);
        let due = begun
            + if is_left {
                usual.map_or(LEAVING, |usual| usual.max(LEAVING))
            } else {
                let most = stall_timeout(usual, self.recent.pause(now));
                // A caller with little time left cannot wait for rare answers, but for usual ones.
                let least = LEAST.max(usual.unwrap_or_default());
                most.min(deadline.saturating_duration_since(begun).max(least))
            };
        if now < due {
            return ProgressCheck::CheckAgain(due);
        }
        if now > deadline + Attempt::GRACE || !self.has_other_good(index, now) {
            return ProgressCheck::CheckAgain(now + RECHECK);
        }
        if is_left {
            return ProgressCheck::Abandon;
        }
        if let Some(since) = self.pending_detection(index, now) {
            return ProgressCheck::CheckAgain(since + PENDING);
        }
        if self.hosts[index].detection.is_some() && self.has_undoubted(index, now) {
            // The retry of an earlier detection was never made, because its callers had hung up,
            // and the host has answered nothing since.
            self.hosts[index].detection = None;
            self.hosts[index].health.eject(now);
        } else {
            // No detection → pending: this call's retry decides.
            self.hosts[index].detection = Some(now);
            self.hosts[index].health.avoid_until(now + PENDING);
        }
        ProgressCheck::Abandon
    }

    /// Takes the longest stall of an answer into account.
    pub(super) fn learn(&mut self, index: usize, pause: Option<Duration>, now: Instant) {
        if let Some(pause) = pause {
            self.hosts[index].usual.answered(pause);
            self.recent.saw(pause, now);
        }
    }

    /// A host is alive: it can be reached and is not silent, and that is all.
    pub(super) fn on_sign_of_life(&mut self, index: usize, now: Instant) {
        self.hosts[index].health.responded(now);
        self.end_detection(index);
    }

    /// A host has responded, so it is not silent.
    fn end_detection(&mut self, index: usize) {
        if self.hosts[index].detection.take().is_some() {
            self.hosts[index].health.stop_avoiding();
        }
    }

    /// A host has answered, which decides detections at other hosts.
    pub(super) fn on_answer(&mut self, index: usize, pause: Option<Duration>, now: Instant) {
        self.end_detection(index);
        for other in 0..self.hosts.len() {
            if self.pending_detection(other, now).is_none() {
                continue;
            }
            let most = stall_timeout(self.usual(other), None);
            let host = &mut self.hosts[other];
            host.detection = None;
            if pause.is_none_or(|pause| pause < most) {
                // Pending → ejected: another host answers in time, and this one did not.
                host.health.eject(now);
            } else {
                // Pending → no detection: the other host is as slow.
                host.health.stop_avoiding();
            }
        }
    }

    /// Whether another host is healthy, without a pending detection.
    pub(super) fn has_other_good(&self, index: usize, now: Instant) -> bool {
        let good = |other: usize| self.hosts[other].health.is_good(now) && self.pending_detection(other, now).is_none();
        (0..self.hosts.len()).any(|other| other != index && good(other))
    }

    /// Whether another host is healthy and has left no call unanswered.
    fn has_undoubted(&self, index: usize, now: Instant) -> bool {
        let mut others = self.hosts.iter().enumerate().filter(|(other, _)| *other != index);
        others.any(|(_, host)| host.health.is_good(now) && host.detection.is_none())
    }

    /// Since when there is a detection at a host that has no result yet.
    fn pending_detection(&self, index: usize, now: Instant) -> Option<Instant> {
        let pending = |since: &Instant| now.saturating_duration_since(*since) < PENDING;
        self.hosts[index].detection.filter(pending)
    }

    /// The 95th percentile of a host's stalls, or of the slowest other host's while it has answered
    /// nothing.
    fn usual(&self, index: usize) -> Option<Duration> {
        let of_others = || self.hosts.iter().filter_map(|host| host.usual.pause()).max();
        self.hosts[index].usual.pause().or_else(of_others)
    }
}
