//! Nearness over sockets: the simulator's regions move, and the gateway follows without a call or a
//! token.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use url::Url;

use defender_gateway::testing::BoxError;
use defender_gateway::testing::net;
use defender_gateway::testing::region::{Candidate, Config, HostSelector, Metrics, Probe};
use defender_gateway::testing::sim::{self, Simulator};
use defender_gateway::testing::task::Tasks;

use crate::support::{Controls, until};

/// The gateway's way to measure, counted.
#[derive(Clone)]
struct Counted {
    connector: net::Connector,
    /// Measurements that have begun, per host.
    begun: Arc<Mutex<std::collections::HashMap<Url, usize>>>,
    ended: Arc<AtomicUsize>,
}

impl Probe for Counted {
    fn measure(&self, base: Arc<Url>) -> BoxFuture<'_, Result<Duration, BoxError>> {
        *self.begun.lock().unwrap().entry((*base).clone()).or_default() += 1;
        Box::pin(async move {
            let result = Probe::measure(&self.connector, base).await;
            self.ended.fetch_add(1, Ordering::SeqCst);
            result
        })
    }
}

impl Counted {
    /// The most measurements of any host.
    fn most(&self) -> usize {
        self.begun.lock().unwrap().values().copied().max().unwrap_or(0)
    }

    /// The least measurements of any host.
    fn least(&self) -> usize {
        self.begun.lock().unwrap().values().copied().min().unwrap_or(0)
    }
}

struct World {
    simulator: Simulator,
    table: HostSelector,
    probe: Counted,
    _tasks: Tasks,
}

/// Regions with these distances in milliseconds, probed every `interval`.
fn world(distances: [(&str, u64); 2], interval: Duration) -> World {
    let mut config = sim::Config::instant();
    config
        .regions
        .retain(|region| distances.iter().any(|(name, _)| region.name == *name));
    let simulator = Simulator::start(config).unwrap();
    for (region, ms) in distances {
        simulator.set_latency(region, Duration::from_millis(ms)).unwrap();
    }
    let candidates = simulator
        .regions()
        .into_iter()
        .map(|(name, url)| Candidate { name, url });
    let mut config = Config::new(candidates.collect()).unwrap();
    config.probe_interval = interval;
    let table = HostSelector::new(config, Metrics::default());
    let probe = Counted {
        connector: net::Client::new(&net::Config::default())
            .unwrap()
            .cleartext_http2()
            .connector()
            .clone(),
        begun: Arc::default(),
        ended: Arc::default(),
    };
    let tasks = Tasks::new();
    table.watch(&tasks, probe.clone());
    World {
        simulator,
        table,
        probe,
        _tasks: tasks,
    }
}

impl World {
    fn selected(&self) -> String {
        let rows = self.table.snapshot();
        rows.into_iter().find(|row| row.selected).unwrap().name.to_string()
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        until(what, async || condition(self).then_some(())).await;
    }

    fn assert_nothing_spent(&self) {
        assert!(self.simulator.calls().is_empty(), "{:?}", self.simulator.calls());
        assert!(self.simulator.token_requests().is_empty());
        assert!(self.simulator.violations().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapped_regions_are_followed_within_two_rounds_of_probes() {
    let world = world([("us", 150), ("eu", 10)], Duration::from_millis(300));
    world
        .until("the nearest", |world| {
            world.selected() == "eu" && world.probe.least() >= 3
        })
        .await;
    let before = world.probe.most();
    world.simulator.set_latency("us", Duration::from_millis(10)).unwrap();
    world.simulator.set_latency("eu", Duration::from_millis(150)).unwrap();
    world.until("the change", |world| world.selected() == "us").await;
    // The round that was under way during the change may have measured either.
    let rounds = world.probe.most() - before;
    println!(
        "followed after {rounds} rounds, {} probes in all",
        world.probe.ended.load(Ordering::SeqCst)
    );
    assert!(rounds <= 3, "{rounds} rounds");
    world.assert_nothing_spent();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_regions_do_not_flap_in_as_many_rounds_as_an_hour_has() {
    let world = world([("us", 40), ("eu", 40)], Duration::from_millis(10));
    world.until("a few probes", |world| world.probe.least() >= 5).await;
    let (mut selected, mut changes) = (world.selected(), 0);
    until("an hour's rounds", async || {
        if world.selected() != selected {
            selected = world.selected();
            changes += 1;
        }
        (world.probe.least() >= 125).then_some(())
    })
    .await;
    // One may be due to the noise of a busy machine; the paused tests allow none, with more noise
    // and for a day.
    println!("{changes} changes in 120 rounds");
    assert!(changes <= 2, "{changes} changes");
    world.assert_nothing_spent();
}
