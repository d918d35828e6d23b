//! Counts how requests ended by caller: for the fifty most active callers, and for all others
//! together.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    known: HashMap<Name, Caller, RandomState>,
    others: Counters,
    ranked: Instant,
}

/// A caller whose activity is known.
#[derive(Debug)]
struct Caller {
    /// `None` if it is counted with the others.
    counters: Option<Counters>,
    recent: u64,
}

/// Indexed by outcome; a series is there from its first request on.
type Counters = [Option<Counter>; Outcome::COUNT];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    caller: String,
    outcome: &'static str,
}

impl Labels {
    fn of(caller: &str, outcome: Outcome) -> Self {
        Self {
            caller: caller.to_owned(),
            outcome: outcome.as_str(),
        }
    }
}

impl Callers {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let callers = Self(Arc::new(Shared {
            family: Family::default(),
            table: Mutex::new(Table {
                known: HashMap::default(),
                others: Counters::default(),
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

    pub(super) fn count(&self, name: &Name, outcome: Outcome) {
        let mut table = self.table();
        let Table { known, others, .. } = &mut *table;
        let caller = match known.get_mut(name) {
            Some(caller) => caller,
            None => newly_known(known, name),
        };
        caller.recent += 1;
        let (counters, label) = match &mut caller.counters {
            Some(counters) => (counters, name.as_str()),
            None => (others, OTHERS),
        };
        let series = || self.0.family.get_or_create_owned(&Labels::of(label, outcome));
        counters[outcome.index()].get_or_insert_with(series).inc();
    }

    /// Chooses the most active callers when it is time. Called whenever metrics are scraped.
    pub fn rank(&self) {
        let now = Instant::now();
        let mut table = self.table();
        if now.saturating_duration_since(table.ranked) < RANKED_EVERY {
            return;
        }
        table.ranked = now;
        let mut callers: Vec<_> = table.known.iter_mut().collect();
        // A listed caller stays listed unless another one is twice as active, so that series do not
        // come and go.
        callers.sort_unstable_by_key(|(name, caller)| {
            let weight = if caller.counters.is_some() { 2 } else { 1 };
            Reverse((caller.recent * weight, (*name).clone()))
        });
        for (place, (name, caller)) in callers.into_iter().enumerate() {
            caller.recent /= 2;
            let is_listed = place < LISTED && may_be_listed(name);
            if is_listed && caller.counters.is_none() {
                caller.counters = Some(Counters::default());
            } else if !is_listed && caller.counters.take().is_some() {
                for outcome in Outcome::ALL {
                    self.0.family.remove(&Labels::of(name.as_str(), outcome));
                }
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change is complete before anything can panic.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a caller known, in the place of the least active one if there are too many.
fn newly_known<'a>(known: &'a mut HashMap<Name, Caller, RandomState>, name: &Name) -> &'a mut Caller {
    if known.len() >= KNOWN {
        // More callers are known than listed, so there is one.
        let unlisted = known.iter().filter(|(_, caller)| caller.counters.is_none());
        let least = unlisted.min_by_key(|(_, caller)| caller.recent);
        if let Some(least) = least.map(|(name, _)| name.clone()) {
            known.remove(&least);
        }
    }
    let listed = known.values().filter(|caller| caller.counters.is_some()).count();
    let is_listed = listed < LISTED && may_be_listed(name);
    known.entry(name.clone()).or_insert(Caller {
        counters: is_listed.then(Counters::default),
        recent: 0,
    })
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
        for _ in 0..times {
            callers.count(&Name::new(name), Outcome::Refused);
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
        ask(&callers, "left", 1);
        for round in 1..=4 {
            for n in 0..LISTED {
                ask(&callers, &format!("busy-{n}"), 100 * round);
            }
            tokio::time::advance(RANKED_EVERY).await;
            callers.rank();
        }
        assert!(!exposition(&registry).contains("left"));
        // Two of its requests were under way all the time.
        for outcome in [Outcome::Refused, Outcome::Failed] {
            callers.count(&Name::new("left"), outcome);
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
        ask(&callers, "team-00", 1);
        let text = exposition(&registry);
        assert!(
            text.contains("caller_requests_total{caller=\"team-00\",outcome=\"refused\"} 11"),
            "{text}"
        );
    }
}
