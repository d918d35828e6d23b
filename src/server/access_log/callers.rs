//! Counts how requests ended by caller: for the fifty most active callers, and for all others
//! together.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use foldhash::quality::RandomState;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use crate::caller::Name;
use crate::response::Outcome;

/// The number of callers with series of their own. Names are not authenticated, and a monitor keeps
/// every series it has seen.
const LISTED: usize = 50;

/// The number of callers whose activity is known. When another one comes, the least active one
/// without series is forgotten.
const KNOWN: usize = 256;

/// How often the most active callers are chosen anew. Each time, half of the earlier activity is
/// forgotten.
const RANKED_EVERY: Duration = Duration::from_mins(1);

/// The label of all other callers.
const OTHERS: &str = "(others)";

/// The counts by caller. Clones share them.
#[derive(Clone, Debug)]
pub struct Callers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    family: Family<Labels, Counter>,
    others: Counters,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    known: HashMap<Name, Arc<Caller>, RandomState>,
    ranked: Instant,
}

/// A caller whose activity is known. When it gains or loses its series, the object is replaced.
#[derive(Debug)]
pub(super) struct Caller {
    name: Name,
    /// `None` if it is counted with the others.
    counters: Option<Counters>,
    recent: AtomicU64,
    is_replaced: AtomicBool,
}

type Counters = [OnceLock<Counter>; Outcome::COUNT];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    caller: String,
    outcome: &'static str,
}

impl Callers {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let callers = Self(Arc::new(Shared {
            family: Family::default(),
            others: Counters::default(),
            table: Mutex::new(Table {
                known: HashMap::default(),
                ranked: Instant::now(),
            }),
        }));
        registry.register(
            "caller_requests",
            "Requests answered, by caller and by how: the 50 most active callers, and all others as one",
            callers.0.family.clone(),
        );
        callers
    }

    /// The object of the caller with this name.
    pub(super) fn get(&self, name: &Name) -> Arc<Caller> {
        let mut table = self.table();
        if let Some(caller) = table.known.get(name) {
            return Arc::clone(caller);
        }
        if table.known.len() >= KNOWN {
            // More callers are known than listed, so there is one.
            let unlisted = table.known.values().filter(|caller| caller.counters.is_none());
            if let Some(least) = unlisted.min_by_key(|caller| caller.activity()).cloned() {
                table.known.remove(&least.name);
                least.is_replaced.store(true, Ordering::Relaxed);
            }
        }
        let listed = table.known.values().filter(|caller| caller.counters.is_some()).count();
        let is_listed = listed < LISTED && may_be_listed(name);
        let caller = Arc::new(Caller::new(name.clone(), is_listed.then(Counters::default)));
        table.known.insert(name.clone(), Arc::clone(&caller));
        caller
    }

    pub(super) fn count(&self, caller: &Caller, outcome: Outcome) {
        caller.recent.fetch_add(1, Ordering::Relaxed);
        let counter = self
            .own_series(caller, outcome)
            .unwrap_or_else(|| self.0.others[outcome.index()].get_or_init(|| self.series(OTHERS, outcome)));
        counter.inc();
    }

    /// The series of a listed caller. The object may be an old one, when a request ends that was
    /// longer under way than its caller was listed: that one's series are gone, and stay so.
    fn own_series<'a>(&self, caller: &'a Caller, outcome: Outcome) -> Option<&'a Counter> {
        let known = &caller.counters.as_ref()?[outcome.index()];
        if caller.is_replaced() {
            return None;
        }
        known.get().or_else(|| {
            // Callers lose their series only while the table is locked.
            let _table = self.table();
            (!caller.is_replaced()).then(|| known.get_or_init(|| self.series(caller.name.as_str(), outcome)))
        })
    }

    fn series(&self, caller: &str, outcome: Outcome) -> Counter {
        self.0.family.get_or_create_owned(&Labels {
            caller: caller.to_owned(),
            outcome: outcome.as_str(),
        })
    }

    /// Chooses the most active callers when it is time. Called whenever metrics are scraped.
    pub fn rank(&self) {
        let now = Instant::now();
        let mut table = self.table();
        if now.saturating_duration_since(table.ranked) < RANKED_EVERY {
            return;
        }
        table.ranked = now;
        let mut callers: Vec<_> = table.known.values().cloned().collect();
        // A listed caller stays listed unless another one is twice as active, so that series do not
        // come and go.
        callers.sort_unstable_by_key(|caller| {
            let weight = if caller.counters.is_some() { 2 } else { 1 };
            Reverse((caller.activity() * weight, caller.name.clone()))
        });
        for (place, caller) in callers.into_iter().enumerate() {
            let half = caller.activity() / 2;
            caller.recent.store(half, Ordering::Relaxed);
            let is_listed = place < LISTED && may_be_listed(&caller.name);
            if is_listed == caller.counters.is_some() {
                continue;
            }
            let next = Caller::new(caller.name.clone(), is_listed.then(Counters::default));
            next.recent.store(half, Ordering::Relaxed);
            table.known.insert(caller.name.clone(), Arc::new(next));
            caller.is_replaced.store(true, Ordering::Relaxed);
            if !is_listed {
                self.forget(&caller);
            }
        }
    }

    fn forget(&self, caller: &Caller) {
        for outcome in Outcome::ALL {
            self.0.family.remove(&Labels {
                caller: caller.name.as_str().to_owned(),
                outcome: outcome.as_str(),
            });
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change is complete before anything can panic.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Caller {
    fn new(name: Name, counters: Option<Counters>) -> Self {
        Self {
            name,
            counters,
            recent: AtomicU64::new(0),
            is_replaced: AtomicBool::new(false),
        }
    }

    fn activity(&self) -> u64 {
        self.recent.load(Ordering::Relaxed)
    }

    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    /// Whether the object has to be looked up again.
    pub(super) fn is_replaced(&self) -> bool {
        self.is_replaced.load(Ordering::Relaxed)
    }
}

/// A caller that calls itself what the others are called is one of them.
fn may_be_listed(name: &Name) -> bool {
    name.as_str() != OTHERS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposition(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text
    }

    fn ask(callers: &Callers, name: &str, times: usize) {
        let caller = callers.get(&Name::new(name));
        for _ in 0..times {
            callers.count(&caller, Outcome::Refused);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_names_share_a_series_and_active_callers_get_their_own() {
        let mut registry = Registry::default();
        let callers = Callers::register(&mut registry);
        for n in 0..10_000 {
            ask(&callers, &format!("made-up-{n}"), 1);
        }
        ask(&callers, "busy", 100);
        let text = exposition(&registry);
        assert_eq!(text.matches("caller_requests_total{").count(), LISTED + 1);
        assert!(
            text.contains("caller_requests_total{caller=\"(others)\",outcome=\"refused\"} 10050"),
            "{text}"
        );
        assert!(callers.table().known.len() <= KNOWN);

        tokio::time::advance(RANKED_EVERY).await;
        callers.rank();
        ask(&callers, "busy", 7);
        let text = exposition(&registry);
        assert!(
            text.contains("caller_requests_total{caller=\"busy\",outcome=\"refused\"} 7"),
            "{text}"
        );
        assert!(text.matches("caller_requests_total{").count() <= LISTED + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_series_of_a_caller_who_is_listed_no_more_do_not_come_back() {
        let mut registry = Registry::default();
        let callers = Callers::register(&mut registry);
        let left = callers.get(&Name::new("left"));
        callers.count(&left, Outcome::Refused);
        for round in 1..=4 {
            for n in 0..LISTED {
                ask(&callers, &format!("busy-{n}"), 100 * round);
            }
            tokio::time::advance(RANKED_EVERY).await;
            callers.rank();
        }
        assert!(left.is_replaced() && !exposition(&registry).contains("left"));
        // Two of its requests were under way all the time.
        for outcome in [Outcome::Refused, Outcome::Failed] {
            callers.count(&left, outcome);
        }
        let text = exposition(&registry);
        assert!(!text.contains("left"), "{text}");
        assert!(
            text.contains("caller_requests_total{caller=\"(others)\",outcome=\"failed\"} 1"),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_with_the_name_of_the_others_is_one_of_them() {
        let mut registry = Registry::default();
        let callers = Callers::register(&mut registry);
        ask(&callers, OTHERS, 1);
        for round in 1..=4 {
            for n in 0..LISTED {
                ask(&callers, &format!("busy-{n}"), 100 * round);
            }
            tokio::time::advance(RANKED_EVERY).await;
            callers.rank();
        }
        ask(&callers, "late", 1);
        let text = exposition(&registry);
        assert!(
            text.contains("caller_requests_total{caller=\"(others)\",outcome=\"refused\"} 2"),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_listed_caller_is_not_displaced_by_an_equally_active_one() {
        let mut registry = Registry::default();
        let callers = Callers::register(&mut registry);
        for n in 0..60 {
            ask(&callers, &format!("team-{n:02}"), 10);
        }
        let before = exposition(&registry);
        tokio::time::advance(RANKED_EVERY).await;
        callers.rank();
        assert_eq!(exposition(&registry), before);
        let listed = callers.get(&Name::new("team-00"));
        assert!(!listed.is_replaced());
    }
}
