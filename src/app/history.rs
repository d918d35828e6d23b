//! What happened in the last hour, in steps, for the charts of the status page.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::status::Sources;
use crate::response::Outcome;
use crate::task::Tasks;
use crate::telemetry::{metrics, named_enum};
use crate::{queue, quota, scan};

/// The time between two samples. Long enough to cost nothing, short enough to show a burst of a
/// minute as a burst.
const STEP: Duration = Duration::from_secs(20);

/// One hour of steps. Each sample has some 120 bytes.
const KEPT: usize = 180;

/// What is called now: the last ten minutes.
const LATEST: usize = 30;

/// Requests answered per upstream call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PerCall {
    /// As it is.
    pub(super) now: f64,
    /// As it would be if each call by id asked for as many ids as may be.
    pub(super) best: f64,
}

metrics! {
    /// What calls yield, as metrics.
    #[derive(Clone, Debug)]
    pub(super) struct CallMetrics {
        /// Calls charged to quotas, with whatever token: what was sent, or may have been.
        charged: Counter = "charged_calls",
        /// Requests answered per upstream call in the last ten minutes, 0 without calls.
        now: Gauge<f64, AtomicU64> = "requests_per_call",
        /// The same if each call by id had asked for merge.max_ids ids.
        best: Gauge<f64, AtomicU64> = "requests_per_call_best",
    }
}

impl CallMetrics {
    /// Brings them up to date. A charge that is taken back is not taken back here: the next call
    /// makes up for it, because a counter never falls.
    pub(super) fn show(&self, charged: u64, per_call: Option<PerCall>) {
        self.charged.inner().fetch_max(charged, Ordering::Relaxed);
        self.now.set(per_call.map_or(0.0, |per_call| per_call.now));
        self.best.set(per_call.map_or(0.0, |per_call| per_call.best));
    }
}

/// Samples of the last hour. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct History(Arc<Mutex<Ring>>);

#[derive(Debug, Default)]
struct Ring {
    samples: VecDeque<Sample>,
    last: Option<(Instant, Counts)>,
    /// Names and limits of the windows that all `remaining` are about.
    windows: Vec<(Arc<str>, usize)>,
}

named_enum! {
    /// What is counted, with the name of its column.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Figure, as_str {
        /// Answered from memory.
        Memory = "from_memory",
        /// Answered by a call that others share.
        Shared = "shared_call",
        /// Answered by a call of their own.
        Alone = "own_call",
        Refused = "refused",
        Failed = "failed",
        Invalid = "invalid",
        Gone = "gone",
        Calls = "upstream_calls",
        /// Calls that asked by id, which could have asked for more.
        CallsById = "calls_by_id",
        /// The ids that they had to ask for.
        AskedIds = "asked_ids",
    }
}

/// How often each figure was counted, since the start or in one step.
type Counts = [u64; Figure::ALL.len()];

/// What happened in one step, and how things stood at its end.
#[derive(Clone, Debug)]
struct Sample {
    counts: Counts,
    waiting: usize,
    /// Calls left per window, shortest first, of the operation with the fewest; empty when it was
    /// about other windows.
    remaining: Vec<usize>,
}

impl History {
    /// Takes a sample every 20 s until `tasks` stop.
    pub(super) fn start(sources: Arc<Sources>, tasks: &Tasks) -> Self {
        let history = Self::default();
        let kept = history.clone();
        tasks.spawn_upkeep("history", async move {
            let mut clock = interval(STEP);
            // A machine that was asleep has no samples to make up for.
            clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                kept.record(clock.tick().await, &sources);
            }
        });
        history
    }

    fn record(&self, now: Instant, sources: &Sources) {
        let windows = sources.quotas().map(|quota| quota.snapshot().windows).reduce(scarcest);
        let windows = windows.unwrap_or_default();
        let own: usize = sources.queues().map(queue::Queue::waiting).sum();
        let sample = Sample {
            counts: Figure::ALL.map(|figure| figure.total(sources)),
            waiting: own + sources.waiting_with_callers_tokens(),
            remaining: windows.iter().map(|window| window.remaining).collect(),
        };
        let windows = windows.iter().map(|window| (Arc::clone(&window.name), window.limit));
        let mut ring = self.ring();
        ring.measure(windows.collect());
        ring.add(now, sample);
    }

    /// What `/history` answers: columns, the oldest step first.
    pub(super) fn show(&self) -> Value {
        let ring = self.ring();
        let column = |of: &dyn Fn(&Sample) -> u64| ring.samples.iter().map(of).collect::<Vec<_>>();
        let mut shown = json!({
            "step_s": STEP.as_secs(),
            "steps": KEPT,
            "last_s": ring.last.map(|(at, _)| at.elapsed().as_secs_f64()),
            "waiting": column(&|sample| sample.waiting as u64),
            "remaining": ring.samples.iter().map(|sample| &sample.remaining).collect::<Vec<_>>(),
        });
        let hidden = [Figure::CallsById, Figure::AskedIds];
        for figure in Figure::ALL.into_iter().filter(|figure| !hidden.contains(figure)) {
            shown[figure.as_str()] = column(&|sample| sample.counts[figure as usize]).into();
        }
        shown
    }

    /// How many requests were answered per call, lately; `None` when there was no call.
    pub(super) fn per_call(&self, max_ids: usize) -> Option<PerCall> {
        let ring = self.ring();
        let latest = ring.samples.iter().rev().take(LATEST);
        let sum = |figure: Figure| latest.clone().map(|sample| sample.counts[figure as usize]).sum::<u64>() as f64;
        let requests = sum(Figure::Memory) + sum(Figure::Shared) + sum(Figure::Alone);
        let calls = sum(Figure::Calls);
        let others = (calls - sum(Figure::CallsById)).max(0.0);
        let fewest = others + (sum(Figure::AskedIds) / max_ids as f64).ceil();
        (calls > 0.0).then(|| PerCall {
            now: requests / calls,
            best: requests / fewest.clamp(1.0, calls),
        })
    }

    fn ring(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same windows with what is left where the least is.
fn scarcest(some: Vec<quota::Window>, others: Vec<quota::Window>) -> Vec<quota::Window> {
    let pairs = some.into_iter().zip(others);
    pairs
        .map(|(a, b)| if b.remaining < a.remaining { b } else { a })
        .collect()
}

impl Ring {
    /// From now on `remaining` is about these windows. What was left of others says nothing beside
    /// them.
    fn measure(&mut self, windows: Vec<(Arc<str>, usize)>) {
        if self.windows != windows {
            self.windows = windows;
            for sample in &mut self.samples {
                sample.remaining.clear();
            }
        }
    }

    /// `sample` brings counters since the start; what is kept is the difference to the last one.
    fn add(&mut self, now: Instant, sample: Sample) {
        let before = self.last.replace((now, sample.counts));
        // The first look is the beginning of the first step.
        let Some((_, before)) = before else { return };
        if self.samples.len() >= KEPT {
            self.samples.pop_front();
        }
        // A call of which no byte was written is taken back.
        let counts = std::array::from_fn(|at| sample.counts[at].saturating_sub(before[at]));
        self.samples.push_back(Sample { counts, ..sample });
    }
}

impl Figure {
    /// How often it was counted since the start.
    fn total(self, sources: &Sources) -> u64 {
        use scan::Outcome::{Collapsed, Forwarded, Hit, Merged, Stale};
        let ended = |outcome| sources.context.metrics.count.ended(outcome);
        let served = |outcome| ended(Outcome::Served(outcome));
        match self {
            Self::Memory => served(Hit) + served(Stale),
            Self::Shared => served(Collapsed) + served(Merged),
            Self::Alone => served(Forwarded),
            Self::Refused => ended(Outcome::Refused),
            Self::Failed => ended(Outcome::Failed),
            Self::Invalid => ended(Outcome::Invalid),
            Self::Gone => ended(Outcome::Gone),
            Self::Calls => sources.calls(),
            Self::CallsById => sources.current().flights().asked_ids().0,
            Self::AskedIds => sources.current().flights().asked_ids().1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts<const N: usize>(of: [(Figure, u64); N]) -> Counts {
        let mut counts = Counts::default();
        for (figure, count) in of {
            counts[figure as usize] = count;
        }
        counts
    }

    fn sample(memory: u64, calls: u64) -> Sample {
        Sample {
            counts: counts([(Figure::Memory, memory), (Figure::Calls, calls)]),
            waiting: 3,
            remaining: vec![90, 1400],
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_step_shows_what_happened_in_it() {
        let history = History::default();
        for (memory, calls) in [(5, 1), (12, 1), (12, 4)] {
            history.ring().add(Instant::now(), sample(memory, calls));
            tokio::time::advance(STEP).await;
        }
        let shown = history.show();
        assert_eq!(shown["from_memory"], json!([7, 0]));
        assert_eq!(shown["upstream_calls"], json!([0, 3]));
        assert_eq!(shown["waiting"], json!([3, 3]));
        assert_eq!(shown["remaining"], json!([[90, 1400], [90, 1400]]));
        assert_eq!(shown["last_s"], json!(20.0));
    }

    #[test]
    fn what_is_left_is_that_of_the_operation_with_the_fewest() {
        let window = |remaining| quota::Window {
            name: "1m".into(),
            limit: 100,
            length: Duration::from_mins(1),
            used: 100 - remaining,
            remaining,
            reset: Duration::ZERO,
        };
        let left = |list: Vec<quota::Window>| list.iter().map(|window| window.remaining).collect::<Vec<_>>();
        assert_eq!(
            left(scarcest(vec![window(98), window(7)], vec![window(0), window(9)])),
            [0, 7]
        );
    }

    #[test]
    fn charged_calls_never_fall() {
        let mut registry = prometheus_client::registry::Registry::default();
        let metrics = CallMetrics::register(&mut registry);
        let shown = [3, 2, 4].map(|charged| {
            metrics.show(charged, None);
            metrics.charged.get()
        });
        assert_eq!(shown, [3, 3, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_left_of_other_windows_is_not_shown() {
        let windows = |per_hour| vec![("1m".into(), 100), ("1h".into(), per_hour)];
        let history = History::default();
        for (calls, per_hour) in [(0, 1500), (1, 1500), (2, 1500), (3, 3000)] {
            history.ring().measure(windows(per_hour));
            history.ring().add(Instant::now(), sample(0, calls));
        }
        let shown = history.show();
        assert_eq!(shown["remaining"], json!([[], [], [90, 1400]]));
        assert_eq!(shown["upstream_calls"], json!([1, 1, 1]));
    }

    #[tokio::test(start_paused = true)]
    async fn the_best_is_as_many_ids_in_each_call_as_may_be() {
        let history = History::default();
        assert_eq!(history.per_call(100), None);
        for times in 0..100 {
            let counts = counts([
                (Figure::Memory, 150 * times),
                (Figure::Calls, 12 * times),
                (Figure::CallsById, 10 * times),
                (Figure::AskedIds, 50 * times),
            ]);
            history.ring().add(Instant::now(), Sample { counts, ..sample(0, 0) });
        }
        // In ten minutes 360 calls, of which 60 were not by id, and 1,500 ids, which fit into 15
        // calls.
        let expected = PerCall {
            now: 12.5,
            best: 4500.0 / 75.0,
        };
        assert_eq!(history.per_call(100), Some(expected));
        assert_eq!(
            history.per_call(1).map(|per_call| per_call.best),
            Some(12.5),
            "no worse than now"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_last_hour_is_kept_and_a_count_that_falls_does_no_harm() {
        let history = History::default();
        for step in 0..10_000_u64 {
            history.ring().add(Instant::now(), sample(step, 10_000 - step));
        }
        let shown = history.show();
        assert_eq!(shown["from_memory"].as_array().map(Vec::len), Some(KEPT));
        assert_eq!(shown["upstream_calls"][0], json!(0));
    }
}
