//! Several replicas, one real redis-server, one quota with short windows.

mod replica;
mod server;

use std::time::Duration;

use replica::{Replica, Upstream};
use server::Server;

const SECOND: Duration = Duration::from_secs(1);

/// Calls that arrived from `from` on, as a share of what the long window allows in that time.
fn used(upstream: &Upstream, from: Duration, to: Duration) -> f64 {
    let (calls, window) = replica::LIMITS[1];
    let arrived = upstream
        .arrivals()
        .iter()
        .filter(|at| **at >= from && **at < to)
        .count();
    arrived as f64 / (f64::from(calls) * (to - from).as_secs_f64() / window.as_secs_f64())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_busy_replicas_use_one_quota_up_and_share_it_fairly() {
    let server = Server::start().await;
    let upstream = Upstream::new();
    let replicas: Vec<_> = (0..8).map(|_| Replica::start(&server.url())).collect();
    for replica in &replicas {
        replica.saturate(&upstream, 4);
    }
    // The first burst comes out of turn; two long windows count.
    tokio::time::sleep(SECOND * 11).await;
    let from = upstream.elapsed();
    let before: Vec<_> = replicas.iter().map(Replica::served).collect();
    tokio::time::sleep(SECOND * 20).await;
    let to = upstream.elapsed();
    let served: Vec<_> = replicas
        .iter()
        .zip(before)
        .map(|(replica, before)| replica.served() - before)
        .collect();
    println!(
        "served {served:?}, used {:.4}, commands {:?}",
        used(&upstream, from, to),
        server.command(&["INFO", "commandstats"]).await
    );
    upstream.assert_within();
    assert!(
        used(&upstream, from, to) >= 0.99,
        "used {:.4}",
        used(&upstream, from, to)
    );
    let fair = served.iter().sum::<usize>() as f64 / 8.0;
    for n in served {
        assert!(
            (n as f64 - fair).abs() <= (fair * 0.05).max(2.0),
            "{n} where {fair} is fair"
        );
    }
}
