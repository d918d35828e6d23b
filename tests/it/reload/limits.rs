//! The quota's limits change under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use defender_gateway::testing::sim::Shape;
use defender_gateway::testing::task::Tasks;

use crate::support::{Setup, id, until};

#[tokio::test]
async fn limits_are_tightened_and_widened_and_no_window_is_over() {
    // The upstream's own limits never change, and its judge looks at every window in the end.
    let running = Setup::new()
        .upstream_limits(Shape::SlidingLog, &["20/2s", "60/8s"])
        .write("quota.limits", "[\"20/2s\", \"60/8s\"]")
        .write("cache.ttl", "\"0s\"")
        .start()
        .await;
    let over = Arc::new(AtomicBool::new(false));
    let tasks = Tasks::new();
    let callers: Vec<_> = (0..8)
        .map(|n| {
            let (caller, over) = (running.caller().clone(), Arc::clone(&over));
            tasks.spawn("caller", async move {
                let mut asked = 0;
                while !over.load(Ordering::Relaxed) {
                    let status = caller.ask(&[id(n * 10_000 + asked)]).await.status;
                    assert_eq!(status, 200);
                    asked += 1;
                }
            })
        })
        .collect();
    let calls = async |count: usize| {
        let goal = running.simulator.calls().len() + count;
        until("more calls", async || {
            (running.simulator.calls().len() >= goal).then_some(())
        })
        .await;
    };
    calls(25).await;
    for limits in [
        "[\"5/2s\"]",
        "[\"20/2s\", \"60/8s\"]",
        "[\"20/2s\", \"30/4s\"]",
        "[\"20/2s\", \"60/8s\"]",
    ] {
        running.reload(&[("quota.limits", limits)]).await.unwrap();
        calls(12).await;
    }
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(running.upstream_statuses().iter().all(|status| *status == Some(200)));
    running.finish().await;
}
