//! Several replicas, one real redis-server, one quota with short windows.
//!
//! The long window is 10 s instead of an hour, so a hundredth of it is 0.1 s, which a busy machine loses in timers and in waking tasks: a
//! single process with its quota in memory uses 99.1 to 99.5 % here.

mod replica;
pub(crate) mod server;

use std::time::Duration;

use defender_gateway::queue::Reason;
use tokio::sync::Mutex;

use replica::{Replica, Upstream};
use server::Server;

const SECOND: Duration = Duration::from_secs(1);

/// What a busy test machine leaves of the long window.
const USED: f64 = 0.96;

/// The tests load the machine; two at once would measure each other.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Calls that arrived from `from` on, as a share of what the long window allows in that time.
fn used(upstream: &Upstream, from: Duration) -> f64 {
    let (calls, window) = replica::LIMITS[1];
    let arrived = upstream.arrivals().iter().filter(|at| **at >= from).count();
    let allowed = f64::from(calls) * upstream.elapsed().saturating_sub(from).div_duration_f64(window);
    f64::from(u32::try_from(arrived).unwrap()) / allowed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_busy_replicas_use_one_quota_up_and_share_it_fairly_and_one_alone_gets_all() {
    let _alone = ALONE.lock().await;
    let server = Server::start().await;
    let upstream = Upstream::new();
    let replicas: Vec<_> = (0..8).map(|_| Replica::start(&server.url())).collect();
    for replica in &replicas {
        replica.saturate(&upstream, 4);
    }
    // The first burst comes out of turn.
    tokio::time::sleep(SECOND * 11).await;
    let from = upstream.elapsed();
    let before: Vec<_> = replicas.iter().map(Replica::served).collect();
    tokio::time::sleep(SECOND * 12).await;
    let share = used(&upstream, from);
    assert!(share >= USED, "{share}");
    let counts: Vec<_> = replicas
        .iter()
        .zip(before)
        .map(|(replica, before)| replica.served() - before)
        .collect();
    let fair = counts.iter().sum::<usize>() / counts.len();
    // At 5 % a replica may be two or three calls off; a test machine that stops for a moment costs as many.
    assert!(counts.iter().all(|n| n.abs_diff(fair) <= fair / 20 + 2), "{counts:?}");

    for replica in &replicas[1..] {
        replica.rest();
    }
    let from = upstream.elapsed();
    tokio::time::sleep(SECOND * 8).await;
    let share = used(&upstream, from);
    assert!(share >= USED, "{share}");
    upstream.assert_within();
}

/// Waits until calls arrive again, and a second more.
async fn resumes(upstream: &Upstream, what: &str) {
    let from = upstream.elapsed();
    while !upstream.arrivals().iter().any(|at| *at > from + SECOND / 20) {
        assert!(
            upstream.elapsed().saturating_sub(from) < SECOND * 14,
            "{what}: no call leaves any more"
        );
        tokio::time::sleep(SECOND / 100).await;
    }
    tokio::time::sleep(SECOND).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_window_is_ever_over_whatever_happens_to_replicas_and_store() {
    let _alone = ALONE.lock().await;
    let mut server = Server::start().await;
    let upstream = Upstream::new();
    let start = || {
        let replica = Replica::start(&server.url());
        replica.saturate(&upstream, 4);
        replica
    };
    let url = server.url();
    let fresh = || {
        let replica = Replica::start(&url);
        replica.saturate(&upstream, 4);
        replica
    };
    let mut replicas: Vec<_> = (0..4).map(|_| start()).collect();
    resumes(&upstream, "start").await;

    replicas.swap_remove(0).kill();
    resumes(&upstream, "a replica is killed").await;
    replicas.push(fresh());
    resumes(&upstream, "a replica joins").await;
    replicas.swap_remove(0).stop().await;
    resumes(&upstream, "a replica stops").await;

    server.command(&["DEBUG", "SLEEP", "1"]).await;
    resumes(&upstream, "the store sleeps").await;
    server.command(&["FLUSHALL"]).await;
    resumes(&upstream, "the store is emptied").await;
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    resumes(&upstream, "connections are cut").await;

    server.kill().await;
    let (turn, took) = replicas[0].ask(SECOND / 2).await;
    assert_eq!(turn.unwrap_err().reason, Reason::StoreLost);
    assert!(took < SECOND * 2, "told after {took:?}");
    assert!(replicas[0].quota.lost().is_some());
    server.restart().await;
    resumes(&upstream, "the store restarts empty").await;
    assert!(replicas[0].quota.lost().is_none());

    // The one that knows most dies with the store, and a new one knows nothing.
    server.kill().await;
    replicas.swap_remove(0).kill();
    replicas.push(fresh());
    server.restart().await;
    resumes(&upstream, "store and replica are killed at once").await;
    upstream.assert_within();
}
