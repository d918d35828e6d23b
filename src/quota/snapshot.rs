//! The quota as people and monitors see it: its windows, and the token bucket that callers feel.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;

use super::state::ThrottleState;
use super::{Pacer, QuotaState};
use crate::store::Eviction;
use crate::telemetry::metrics;

/// What `/status` shows.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The windows, shortest first.
    pub windows: Vec<Window>,
    /// The bucket that spreads the longest window; `None` when calls are not spread.
    pub pace: Option<PaceState>,
    /// Until when the windows and the bucket, told in whole seconds and calls, stay as they are
    /// unless [`super::Quota::revision`] changes.
    pub steady_until: Instant,
    /// How long everybody still waits because the upstream said 429.
    pub paused: Option<Duration>,
    /// The pause has ended, and one call finds out whether that is so.
    pub probing: bool,
    /// While the store is lost, or has never answered: how long to stay away. What is shown of the
    /// windows is what was known last.
    pub unavailable_for: Option<Duration>,
    /// Calls of others on the same app registration in a longest window, as estimated from 429s.
    pub foreign: u64,
    /// Calls that have left and are not answered yet.
    pub in_flight: usize,
    /// Calls that this process has made.
    pub calls: u64,
    /// The replicas that share the quota, this one included; `None` when it is not shared.
    pub replicas: Option<usize>,
    /// Those of them that go by other limits, burst or pacing, when there are any.
    pub other_limits: Option<OtherLimits>,
    /// What the store does when its memory is full; `None` without a store, and while it has not
    /// said.
    pub eviction: Option<Eviction>,
    /// Why the store does not answer; `None` without a store, and while it answers.
    pub store_failure: Option<String>,
}

impl Snapshot {
    /// The same for whoever wants to make a call now: while a pause lasts or the store is lost, no
    /// window and no bucket lets one go.
    pub fn usable(mut self) -> Self {
        let most = usize::from(self.probing);
        let wait = match self.unavailable_for.or(self.paused) {
            None if !self.probing => return self,
            wait => wait,
        };
        for window in &mut self.windows {
            window.remaining = window.remaining.min(most);
            window.reset = wait.unwrap_or(window.reset);
        }
        if let Some(pace) = &mut self.pace {
            pace.tokens = pace.tokens.min(most as f64);
            pace.next_token = wait.unwrap_or(pace.next_token);
        }
        self
    }

    /// What is left of each window: `37 of 100 left in 1m, 1200 of 1500 left in 1h`.
    pub fn left(&self) -> String {
        let left = |window: &Window| format!("{} of {} left in {}", window.remaining, window.limit, window.name);
        self.windows.iter().map(left).collect::<Vec<_>>().join(", ")
    }
}

/// Replicas that share the quota and go by other limits than this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherLimits {
    /// How many they are.
    pub replicas: usize,
    /// Since when there have been any.
    pub since: Instant,
}

/// One window as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// `1m`, `1h`.
    pub name: Arc<str>,
    /// Calls per window.
    pub limit: usize,
    /// The window's length.
    pub length: Duration,
    /// Calls that count now.
    pub used: usize,
    /// Calls that it has room for. A pause or a lost store may keep them back.
    pub remaining: usize,
    /// Until `remaining` next grows; the window's length when nothing is used.
    pub reset: Duration,
}

/// The bucket that spreads the longest window, at one moment. Callers feel it long before a window
/// is full, so it is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct PaceState {
    /// Calls that it holds when it is full: so many may leave back to back.
    pub capacity: usize,
    /// Calls that may leave now as far as the bucket goes, in fractions of a call. A pause or a
    /// lost store may keep them back.
    pub tokens: f64,
    /// Calls per minute by which it fills now.
    pub per_minute: f64,
    /// Until it holds one whole call more; zero when it is full.
    pub next_token: Duration,
    /// How long it takes to fill an empty bucket when the longest window is used up evenly.
    pub refill: Duration,
    /// The name of the window that it spreads: the longest, such as `1h`.
    pub window: Arc<str>,
}

impl PaceState {
    /// Whole calls that may leave now.
    pub fn whole_tokens(&self) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between zero and the capacity"
        )]
        let whole = (self.tokens + 2.0 * Pacer::EPSILON).max(0.0) as usize;
        whole.min(self.capacity)
    }
}

/// What refusals leave of the windows' room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// All of it.
    Nothing,
    /// One call, which finds out whether the pause is over.
    AllButOne,
    /// Nothing may go for so long, as far as known.
    For(Duration),
}

impl QuotaState {
    /// The state of a quota that is not shared.
    pub(super) fn snapshot(&mut self, now: Instant) -> Snapshot {
        self.ledger.sweep(now);
        let windows = self.windows(now);
        let pace = self.pace_state(now);
        Snapshot {
            steady_until: self.steady_until(&windows, pace.as_ref(), now),
            windows,
            pace,
            paused: self.pause(now),
            probing: self.held(now) == Held::AllButOne,
            unavailable_for: None,
            foreign: self.foreign(now),
            in_flight: self.ledger.in_flight(),
            calls: self.calls(),
            replicas: None,
            other_limits: None,
            eviction: None,
            store_failure: None,
        }
    }

    /// The windows, shortest first.
    pub fn windows(&self, now: Instant) -> Vec<Window> {
        let windows = self.ledger.limits().iter().map(|limit| {
            let (used, back) = self.ledger.usage(limit, now);
            let used = used.min(limit.calls());
            let back = back.map(|at| at.saturating_duration_since(now));
            Window {
                name: Arc::clone(limit.name()),
                limit: limit.calls(),
                length: limit.window(),
                used,
                remaining: limit.calls() - used,
                reset: back.unwrap_or_else(|| limit.window()),
            }
        });
        windows.collect()
    }

    /// Until when these windows and this bucket, told in whole seconds and calls, stay as they are
    /// if nothing happens but that time passes.
    pub fn steady_until(&self, windows: &[Window], pace: Option<&PaceState>, now: Instant) -> Instant {
        /// Nothing is said about more than this: when nothing counts down there is nothing to look
        /// at.
        const LONGEST: Duration = Duration::from_hours(1);
        let counting = self
            .ledger
            .limits()
            .iter()
            .zip(windows)
            .filter(|(limit, _)| self.ledger.usage(limit, now).1.is_some())
            .map(|(_, window)| window.reset)
            .chain(pace.map(|pace| pace.next_token))
            .chain(self.pause(now))
            .map(|left| match left.subsec_nanos() {
                0 => Duration::from_secs(u64::from(!left.is_zero())),
                part => Duration::from_nanos(part.into()),
            })
            // Nothing counts down in a bucket that is full.
            .filter(|left| !left.is_zero());
        let next_second = now + counting.min().unwrap_or(LONGEST);
        self.next_timeout()
            .map_or(next_second, |timeout| timeout.min(next_second))
    }

    /// The bucket; `None` when calls are not spread.
    pub fn pace_state(&mut self, now: Instant) -> Option<PaceState> {
        if self.is_unpaced(now) {
            return None;
        }
        // A plan that is due would show a rate that does not hold any more.
        let _ = self.opens_at(now);
        let longest = self.ledger.limits().last()?;
        let capacity = self.pace.burst();
        let per_second = longest.calls() as f64 / longest.window().as_secs_f64();
        Some(PaceState {
            capacity,
            tokens: self.pace.level_at(now),
            per_minute: self.pace.filling(now).rate * 60.0,
            next_token: self.pace.next_token(now),
            refill: Duration::from_secs_f64(capacity as f64 / per_second),
            window: Arc::clone(longest.name()),
        })
    }

    /// What cannot be used because the upstream said 429.
    fn held(&self, now: Instant) -> Held {
        /// What is told in whole seconds.
        const SHORTEST: Duration = Duration::from_secs(1);
        match self.throttle {
            ThrottleState::Open => Held::Nothing,
            ThrottleState::Paused { until } if until <= now => Held::AllButOne,
            ThrottleState::Paused { until } => Held::For(until - now),
            ThrottleState::Probing { probe } => self.ledger.issued_at(probe).map_or(Held::Nothing, |issued| {
                let lands = issued + self.latency.bound();
                Held::For(lands.saturating_duration_since(now).max(SHORTEST))
            }),
        }
    }

    /// How long everybody still waits because the upstream said 429, as far as known.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        match self.held(now) {
            Held::For(pause) => Some(pause),
            Held::Nothing | Held::AllButOne => None,
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WindowLabel {
    window: Arc<str>,
}

metrics! {
    /// The quota's metrics.
    #[derive(Clone, Debug)]
    pub struct Metrics {
        /// Calls that the upstream allows in a window
        limit: Family<WindowLabel, Gauge> = "quota_limit",
        /// Calls that a window has room for now; a pause or a lost store may keep them back
        remaining: Family<WindowLabel, Gauge> = "quota_remaining",
        /// How long all calls still wait because the upstream answered 429
        paused: Gauge<f64, AtomicU64> = "quota_paused_seconds",
        /// Calls that may leave now as far as the bucket goes that spreads the longest window; a
        /// pause or a lost store may keep them back
        pace_tokens: Gauge<f64, AtomicU64> = "quota_pace_tokens",
        /// Calls by others on the same app registration in a window, as estimated from answers of
        /// 429
        foreign: Family<WindowLabel, Gauge> = "quota_foreign_calls",
        /// Answers of 429 from the upstream to calls with the gateway's own token
        throttled: Counter = "quota_throttled",
    }
}

impl Metrics {
    /// Shows the quota as it is at this moment; called when somebody scrapes.
    pub(super) fn show(&self, snapshot: &Snapshot) {
        if let Some(longest) = snapshot.windows.last() {
            let label = WindowLabel {
                window: longest.name.clone(),
            };
            let foreign = i64::try_from(snapshot.foreign).unwrap_or(i64::MAX);
            self.foreign.get_or_create(&label).set(foreign);
        }
        for window in &snapshot.windows {
            let label = WindowLabel {
                window: window.name.clone(),
            };
            self.limit.get_or_create(&label).set(count(window.limit));
            self.remaining.get_or_create(&label).set(count(window.remaining));
        }
        self.paused.set(snapshot.paused.unwrap_or_default().as_secs_f64());
        // Without a bucket only the windows hold calls back.
        let tokens = snapshot.pace.as_ref().map_or(f64::INFINITY, |pace| pace.tokens);
        self.pace_tokens.set(tokens);
    }

    /// The limits have changed: windows that are gone are not shown any more.
    pub(super) fn forget_windows(&self) {
        self.limit.clear();
        self.remaining.clear();
        self.foreign.clear();
    }

    pub(super) fn throttled(&self) {
        self.throttled.inc();
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
