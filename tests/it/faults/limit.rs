//! Demand far above the quota while the nearest region fails in one way after another.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use defender_gateway::testing::sim::{self, Simulator};

use super::bench::Bench;
use super::host::Fault;

/// Each caller can lose one call of unknown fate per fault, whose charge is kept for long: the
/// quota is larger than all of them.
const CALLERS: usize = 4;
const SCARCE: &str = "[quota]\nlimits = [\"90/1s\", \"5000/1m\"]\nburst = 90\n[defender]\ntimeout = \"2s\"\n";

/// How long each fault lasts.
const EACH: Duration = Duration::from_millis(450);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_window_is_over_while_demand_and_faults_never_end() {
    let sign_in = Simulator::start(sim::Config::instant()).unwrap();
    let bench = Bench::start(&sign_in, SCARCE).await;
    bench.until_measured().await;
    let end = Instant::now() + EACH * u32::try_from(Fault::ALL.len()).unwrap();
    let callers = (0..CALLERS).map(|_| async {
        while Instant::now() < end {
            bench.ask().await;
        }
    });
    let faults = async {
        for fault in Fault::ALL {
            bench.near.set(fault).await;
            tokio::time::sleep(EACH).await;
        }
        bench.near.set(Fault::Nothing).await;
    };
    let (_, ()) = tokio::join!(join_all(callers), faults);
    let judge = bench.judge();
    for finding in judge.findings() {
        println!("{finding}");
    }
    let (arrived, charged) = (bench.arrived(), bench.charged().await);
    println!(
        "{arrived} arrived, {charged} in the ledger, {} unanswered",
        bench.unanswered().await
    );
    assert!(judge.is_satisfied(), "{:?}", judge.findings());
    bench.assert_all_in_the_ledger("all faults in turn").await;
    let complaints = bench.complaints();
    assert!(complaints.is_empty(), "{complaints:#?}");
    assert!(arrived > 90, "demand was never above the quota: {arrived}");
}
