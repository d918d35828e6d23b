//! Flights that go on with other settings.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;
use tower::{Layer as _, service_fn};

use super::fixture::{MERGE, caller, predicted_wait, request, rows};
use crate::BoxError;
use crate::attempt::Attempt;
use crate::middleware;
use crate::scan::{CacheSink, Call, Merging, Request, StoredRows, UpstreamProfile, UpstreamResponse};
use crate::single_flight::driver::Below;
use crate::single_flight::{BatchConfig, Config, Metrics, SingleFlight};
use crate::task::Tasks;

/// Counts how often it was asked for rows that came with other calls.
#[derive(Debug, Default)]
struct CountingSink(AtomicUsize);

impl CacheSink for CountingSink {
    fn keep(&self, _: &Request, _: &UpstreamResponse, _: Instant) -> Option<Duration> {
        None
    }

    fn rows_since(&self, _: &Arc<Request>, _: Instant) -> Option<Box<dyn StoredRows>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[tokio::test(start_paused = true)]
async fn flights_use_the_cache_of_the_latest_settings_and_let_go_of_the_one_before() {
    let config = Config {
        merge: MERGE,
        attempt: Duration::from_mins(1),
    };
    let (tasks, profile) = (Tasks::new(), Arc::new(UpstreamProfile::new(1000)));
    let sinks = [Arc::<CountingSink>::default(), Arc::default()];
    let [before, now] = sinks.clone().map(|sink| sink as Arc<dyn CacheSink>);
    let wait = predicted_wait(Duration::from_secs(1));
    let first = SingleFlight::new(
        config,
        tasks.clone(),
        before,
        Arc::clone(&profile),
        wait,
        Metrics::default(),
    );
    let second = first.reconfigured(config, now, profile, true);
    drop(first);
    let below = Below::new(service_fn(|attempt: Attempt| async move {
        Ok::<_, BoxError>(rows(&attempt.request.bind().unwrap()))
    }));
    let flights = middleware::layer(second).layer(below);
    let (request, caller) = (Arc::new(request(&["a"])), Arc::new(caller("x", 30)));
    flights.call(Call { request, caller }).await.unwrap();
    let [before, now] = sinks;
    assert!(now.0.load(Ordering::Relaxed) > 0, "the present cache is asked");
    assert_eq!(before.0.load(Ordering::Relaxed), 0, "the former cache is not asked");
    let former: Weak<_> = Arc::downgrade(&before);
    drop(before);
    assert!(former.upgrade().is_none(), "the former cache's memory is free");
}

#[tokio::test(start_paused = true)]
async fn settings_of_merging_change_nothing_for_calls_under_way_while_it_is_off() {
    let config = |when, max_ids: usize| Config {
        merge: BatchConfig {
            when,
            max_ids: max_ids.try_into().unwrap(),
            ..MERGE
        },
        attempt: Duration::from_mins(1),
    };
    let sink = Arc::<CountingSink>::default() as Arc<dyn CacheSink>;
    let profile = Arc::new(UpstreamProfile::new(1000));
    let flights = SingleFlight::new(
        config(Merging::Off, 5),
        Tasks::new(),
        Arc::clone(&sink),
        Arc::clone(&profile),
        predicted_wait(Duration::from_secs(1)),
        Metrics::default(),
    );
    let keeps_flights = |config, is_same_way| {
        let now = flights.reconfigured(config, Arc::clone(&sink), Arc::clone(&profile), is_same_way);
        Arc::ptr_eq(&now.flight_table, &flights.flight_table)
    };
    assert!(keeps_flights(config(Merging::Off, 6), true));
    assert!(
        !keeps_flights(config(Merging::Off, 6), false),
        "a call by another way is nobody's"
    );
    assert!(!keeps_flights(config(Merging::On, 5), true));
}

#[tokio::test(start_paused = true)]
async fn a_flight_keeps_up_what_it_needs_until_it_ends() {
    let config = Config {
        merge: MERGE,
        attempt: Duration::from_mins(1),
    };
    let tasks = Tasks::new();
    let generation = Arc::new(());
    let weak = Arc::downgrade(&generation);
    let flights = SingleFlight::new(
        config,
        tasks.clone(),
        Arc::<CountingSink>::default(),
        Arc::new(UpstreamProfile::new(1000)),
        predicted_wait(Duration::from_secs(1)),
        Metrics::default(),
    );
    let kept = Weak::clone(&weak);
    let flights = flights.keeping_up(Arc::new(move || Box::new(kept.upgrade())));
    let below = Below::new(service_fn(|attempt: Attempt| async move {
        tokio::time::sleep(Duration::from_secs(10)).await;
        Ok::<_, BoxError>(rows(&attempt.request.bind().unwrap()))
    }));
    let flights = middleware::layer(flights).layer(below);
    let ask = || {
        let (request, caller) = (Arc::new(request(&["a"])), Arc::new(caller("x", 30)));
        tasks.spawn("test", flights.call(Call { request, caller }))
    };
    let first = ask();
    tokio::task::yield_now().await;
    let joined = ask();
    tokio::time::advance(Duration::from_secs(1)).await;
    first.abort();
    drop(generation);
    assert!(first.await.unwrap_err().is_cancelled());
    assert!(weak.upgrade().is_some(), "the other request waits for the flight");
    joined.await.unwrap().unwrap();
    assert_eq!(tasks.finish(Duration::from_secs(1)).await, 0);
    assert!(weak.upgrade().is_none());
}
