//! Every slot that is spent is a call that the upstream sees, and the other way round, although
//! requests that get their slots at the same moment may be taken along by each other's calls.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use serde_json::Value;

use crate::support::{Setup, ids};

/// Callers that ask at the same moment, for different ids.
const CROWD: usize = 12;
const ROUNDS: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_that_is_taken_along_in_the_moment_of_its_own_slot_spends_none() {
    let running = Setup::new()
        .set("merge.enabled", "true")
        .set("merge.known_rows", "10000")
        .start()
        .await;
    let asked = AtomicUsize::new(0);
    for _ in 0..ROUNDS {
        let crowd = (0..CROWD).map(|_| async {
            let n = asked.fetch_add(1, Ordering::Relaxed);
            running.caller.ask(&ids([n])).await
        });
        for answer in join_all(crowd).await {
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
    let is_idle = |status: &Value| status["quota"]["in_flight"] == 0;
    let status = running.until_status("no call under way", is_idle).await;
    let seen = running.simulator.calls().len();
    assert_eq!(status["quota"]["windows"][0]["used"], seen, "{status}");
    assert!(seen <= ROUNDS * CROWD, "{seen} calls: somebody was asked for twice");
    running.finish().await;
}
