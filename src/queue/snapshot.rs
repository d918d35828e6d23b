//! The queue as people and monitors see it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use foldhash::quality::RandomState;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use tokio::time::Instant;

use super::PermitSource;
use super::refused::Reason;
use super::state::State;
use crate::caller::Name;
use crate::telemetry::{Counters, metrics};

/// What `/status` shows.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Requests that wait.
    pub waiting: usize,
    /// Callers who have a request waiting.
    pub callers: usize,
    /// How long a caller who is new here would wait; `None` while nobody knows when slots come.
    pub predicted_wait: Option<Duration>,
    /// The callers seen lately, those with the most waiting requests first, then the most served;
    /// at most 50.
    pub shares: Vec<CallerShare>,
}

/// One caller's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerShare {
    /// The caller.
    pub name: Name,
    /// Its requests that wait.
    pub waiting: usize,
    /// Slots it has had since it was first seen.
    pub served: u64,
    /// When its turns come; `None` when nothing of it waits, and while nobody knows when slots come.
    pub outlook: Option<PredictedTurns>,
}

/// When a caller's turns come, if those come who are expected to ask and go first, and nobody else
/// comes or leaves before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PredictedTurns {
    /// Requests of others that are served before its next one; some of them may yet have to come.
    pub position: usize,
    /// Until its next turn.
    pub next: Duration,
    /// Until the last request it has waiting now has its turn.
    pub last: Duration,
}

impl PredictedTurns {
    /// For a caller whose requests wait at two places.
    fn with(self, other: Self) -> Self {
        Self {
            position: self.position.min(other.position),
            next: self.next.min(other.next),
            last: self.last.max(other.last),
        }
    }
}

impl Snapshot {
    /// Two queues as one: the longer wait, and what each caller has in both. How many callers there
    /// are is exact as long as each queue shows all of its own, and otherwise too few.
    pub fn with(mut self, other: Self) -> Self {
        self.waiting += other.waiting;
        let most = self.callers.max(other.callers);
        self.predicted_wait = self.predicted_wait.max(other.predicted_wait);
        for share in other.shares {
            match self.shares.iter_mut().find(|known| known.name == share.name) {
                None => self.shares.push(share),
                Some(known) => {
                    known.waiting += share.waiting;
                    known.served += share.served;
                    known.outlook = known
                        .outlook
                        .into_iter()
                        .chain(share.outlook)
                        .reduce(PredictedTurns::with);
                }
            }
        }
        let shown = self.shares.iter().filter(|share| share.waiting > 0).count();
        self.callers = most.max(shown);
        self.shares
            .sort_unstable_by(|a, b| (b.waiting, b.served, &a.name).cmp(&(a.waiting, a.served, &b.name)));
        self.shares.truncate(SHOWN);
        self
    }
}

/// Callers shown.
const SHOWN: usize = 50;

impl<P> State<P> {
    pub(super) fn snapshot<S: PermitSource<Permit = P>>(&mut self, now: Instant, source: &S) -> Snapshot {
        let is_known = source.unavailable_for().is_none();
        let predicted_wait = is_known.then(|| self.predicted_wait(now, source));
        let waiting = self.order.waiting_by_caller();
        let callers = waiting.len();
        let mut shares: Vec<_> = self
            .recent
            .iter()
            .map(|(name, served)| (waiting.get(name).copied().unwrap_or(0), served, name.clone()))
            .collect();
        shares.sort_unstable_by(|a, b| (Reverse(a.0), Reverse(a.1), &a.2).cmp(&(Reverse(b.0), Reverse(b.1), &b.2)));
        shares.truncate(SHOWN);
        let share = |(waiting, served, name): (usize, u64, Name)| CallerShare {
            outlook: self.outlook(&name, now).filter(|_| is_known),
            name,
            waiting,
            served,
        };
        Snapshot {
            waiting: self.order.len(),
            callers,
            predicted_wait,
            shares: shares.into_iter().map(share).collect(),
        }
    }

    fn outlook(&self, caller: &Name, now: Instant) -> Option<PredictedTurns> {
        let turns = self.order.tickets_of(caller).filter_map(|(first, last)| {
            let ((ahead, first), (_, last)) = (self.turn_of(first, now)?, self.turn_of(last, now)?);
            Some(PredictedTurns {
                position: ahead.rank(),
                next: first.saturating_duration_since(now),
                last: last.saturating_duration_since(now),
            })
        });
        turns.reduce(PredictedTurns::with)
    }
}

/// Callers remembered; beyond it the one not seen for longest is forgotten. Queues that bound this
/// together have an equal part each.
const REMEMBERED: usize = 1024;

/// The callers seen, in order of their last visit. Every step takes logarithmic time, whatever
/// names a flood makes up.
#[derive(Debug, Default)]
pub(super) struct RecentCallers {
    seen: HashMap<Name, Seen, RandomState>,
    /// By number of the last visit.
    order: BTreeMap<u64, Name>,
    visits: u64,
    /// Other queues that the bound holds for too.
    others: usize,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    visit: u64,
    served: u64,
}

impl RecentCallers {
    /// Nobody is remembered yet. The bound holds together with so many other queues.
    pub(super) fn beside(others: usize) -> Self {
        Self {
            others,
            ..Self::default()
        }
    }

    /// Notes a visit.
    pub(super) fn visit(&mut self, name: &Name) {
        let latest = self.visits;
        self.visits += 1;
        let visit = self.visits;
        if let Some(seen) = self.seen.get_mut(name) {
            // The same as last time: nobody is passed.
            if seen.visit == latest {
                self.visits = latest;
                return;
            }
            let before = std::mem::replace(&mut seen.visit, visit);
            self.order.remove(&before);
        } else {
            if self.seen.len() >= REMEMBERED / (1 + self.others)
                && let Some((_, oldest)) = self.order.pop_first()
            {
                self.seen.remove(&oldest);
            }
            self.seen.insert(name.clone(), Seen { visit, served: 0 });
        }
        self.order.insert(visit, name.clone());
    }

    /// Notes that a caller was served.
    pub(super) fn served(&mut self, name: &Name) {
        if let Some(seen) = self.seen.get_mut(name) {
            seen.served += 1;
        }
    }

    /// Everybody remembered, with how often each was served since it was first seen.
    fn iter(&self) -> impl Iterator<Item = (&Name, u64)> {
        self.seen.iter().map(|(name, seen)| (name, seen.served))
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallerLabel {
    caller: String,
}

/// Callers with series of their own: names are not authenticated, and a monitor keeps what it has
/// seen.
const CALLERS: usize = 20;

metrics! {
    /// The queue's metrics.
    #[derive(Clone, Debug)]
    pub struct Metrics {
        /// Requests that wait for a slot of the quota
        pub(super) waiting: Gauge = "queue_waiting",
        /// How long requests waited for a slot
        wait: Histogram = "queue_wait_seconds" => new(WAIT_BUCKETS),
        /// Refusals because of the quota that callers are told, one for all requests that share the call
        refused: Counters<Reason> = "queue_refused" => by("reason"),
        /// Callers who have a request waiting
        callers: Gauge = "queue_callers",
        /// How long a caller who is new here would wait for a slot; NaN while the store is lost
        predicted_wait: Gauge<f64, AtomicU64> = "queue_predicted_wait_seconds",
        /// Requests that wait, for the 20 callers with the most
        caller_waiting: Family<CallerLabel, Gauge> = "queue_caller_waiting",
        /// How long until the next turn of each of these callers; NaN while the store is lost
        caller_wait: Family<CallerLabel, Gauge<f64, AtomicU64>> = "queue_caller_predicted_wait_seconds",
        /// Slots that each of these callers has had since it was first seen
        caller_served: Family<CallerLabel, Gauge> = "queue_caller_served",
    }
}

/// Waits are either nothing, a few slots of 2.4 s, or up to the longest wait of ten minutes.
const WAIT_BUCKETS: [f64; 10] = [0.001, 0.01, 0.1, 1.0, 2.5, 5.0, 15.0, 30.0, 120.0, 600.0];

impl Metrics {
    /// Brings the gauges up to date; called when somebody scrapes.
    pub fn show(&self, snapshot: &Snapshot) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.callers.set(gauge(snapshot.callers));
        let seconds = |wait: Option<Duration>| wait.map_or(f64::NAN, |wait| wait.as_secs_f64());
        self.predicted_wait.set(seconds(snapshot.predicted_wait));
        // Other callers than last time, perhaps.
        self.caller_waiting.clear();
        self.caller_wait.clear();
        self.caller_served.clear();
        for share in snapshot.shares.iter().take(CALLERS) {
            let label = CallerLabel {
                caller: share.name.to_string(),
            };
            let wait = if share.waiting == 0 {
                Some(Duration::ZERO)
            } else {
                share.outlook.map(|outlook| outlook.next)
            };
            self.caller_waiting.get_or_create(&label).set(gauge(share.waiting));
            self.caller_wait.get_or_create(&label).set(seconds(wait));
            let served = i64::try_from(share.served).unwrap_or(i64::MAX);
            self.caller_served.get_or_create(&label).set(served);
        }
    }

    pub(super) fn waited(&self, wait: Duration) {
        self.wait.observe(wait.as_secs_f64());
    }

    /// Counts a refusal.
    pub fn refused(&self, reason: Reason) {
        self.refused.of(reason).inc();
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn made_up_names_push_out_the_oldest_only() {
        let mut callers = RecentCallers::default();
        let steady = Name::new("steady");
        for n in 0..10 * REMEMBERED {
            callers.visit(&Name::new(&n.to_string()));
            callers.visit(&steady);
            callers.served(&steady);
            assert!(callers.seen.len() <= REMEMBERED && callers.order.len() == callers.seen.len());
        }
        let served = callers.iter().find(|(name, _)| **name == steady).unwrap().1;
        assert_eq!(served, 10 * REMEMBERED as u64);
    }

    #[test]
    fn queues_beside_each_other_are_as_long_as_the_longest_and_a_caller_has_what_it_has_in_all() {
        let second = Duration::from_secs(1);
        let queue = |wait, callers: &[(&str, usize)]| Snapshot {
            waiting: callers.iter().map(|(_, waiting)| waiting).sum(),
            callers: callers.len(),
            predicted_wait: Some(wait * second),
            shares: callers
                .iter()
                .map(|(name, waiting)| CallerShare {
                    name: Name::new(name),
                    waiting: *waiting,
                    served: 1,
                    outlook: Some(PredictedTurns {
                        position: 0,
                        next: wait * second,
                        last: wait * second,
                    }),
                })
                .collect(),
        };
        let both = queue(600, &[("a", 2), ("c", 1)]).with(queue(1, &[("b", 3), ("a", 2)]));
        assert_eq!(
            (both.waiting, both.callers, both.predicted_wait),
            (8, 3, Some(600 * second))
        );
        let shares = both
            .shares
            .iter()
            .map(|share| (share.name.as_str(), share.waiting, share.served));
        assert_eq!(shares.collect::<Vec<_>>(), [("a", 4, 2), ("b", 3, 1), ("c", 1, 1)]);
        let outlook = both.shares[0].outlook.unwrap();
        assert_eq!((outlook.next, outlook.last), (second, 600 * second));
    }

    #[test]
    fn so_many_callers_have_series_of_their_own_and_those_who_left_have_none() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let series = |prefix: &str| {
            let share = |n: usize| CallerShare {
                name: Name::new(&format!("{prefix}{n:02}")),
                waiting: 1,
                served: 0,
                outlook: None,
            };
            metrics.show(&Snapshot {
                waiting: 50,
                callers: 50,
                predicted_wait: Some(Duration::ZERO),
                shares: (0..50).map(share).collect(),
            });
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            let of = |prefix: &str| {
                text.matches(&format!("queue_caller_waiting{{caller=\"{prefix}"))
                    .count()
            };
            [of("old"), of("new")]
        };
        assert_eq!(series("old"), [20, 0]);
        assert_eq!(series("new"), [0, 20]);
    }
}
