//! The loss of the store or of a replica, at any moment.

use std::time::Duration;

use defender_gateway::testing::scan::Outcome;
use defender_gateway::testing::sim::{Fault, Often, Plan};

use super::proxy::Proxy;
use super::replica::{LONG_LEASE, Options, Replica, Upstream, good};
use super::share::settle;
use crate::support::redis::Redis;
use crate::support::{Controls, Setup, id, until, within};

fn hasty() -> Options {
    Options {
        look: Duration::from_millis(100),
        ..Options::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_stalls_delays_no_hit_and_holds_no_miss() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let proxy = Proxy::start(&redis.url()).await;
    let replica = Replica::start_with(&proxy.url(), &upstream, &hasty());
    replica.served(&["a"]).await;
    proxy.block();
    assert_eq!(replica.served(&["a"]).await.outcome, Outcome::Hit);
    // The first request fails and opens the breaker; the others profit from that.
    for ids in [["b"], ["c"], ["d"]] {
        assert_eq!(replica.served(&ids).await.outcome, Outcome::Forwarded);
    }
    assert!(proxy.is_blocked(), "none of them waited for the end of that");
    assert!(!replica.member.snapshot().up);
    proxy.unblock();
    // The store is tried again without a request.
    let shared = async || {
        let asked = replica.served(&[&format!("{}", rand::random::<u64>())]).await;
        assert_eq!(asked.outcome, Outcome::Forwarded);
        replica.member.snapshot().up.then_some(())
    };
    until("sharing to begin again", shared).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_sleeps_delays_nobody() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let replica = Replica::start_with(&redis.url(), &upstream, &hasty());
    replica.served(&["a"]).await;
    let asleep = redis.command(&["DEBUG", "SLEEP", "3"]);
    let answered = async {
        // The breaker opens once a lookup fails.
        let sleeps = async || {
            replica.served(&[&format!("{}", rand::random::<u64>())]).await;
            (!replica.member.snapshot().up).then_some(())
        };
        until("the store to sleep", sleeps).await;
        assert_eq!(replica.served(&["a"]).await.outcome, Outcome::Hit);
        assert_eq!(replica.served(&["b"]).await.outcome, Outcome::Forwarded);
    };
    tokio::select! {
        biased;
        () = asleep => panic!("it was awake before they were answered"),
        () = answered => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_store_dies_followers_ask_for_themselves() {
    let (mut redis, upstream) = (Redis::start().await, Upstream::new());
    let replicas: Vec<_> = (0..4).map(|_| Replica::start(&redis.url(), &upstream)).collect();
    upstream.close_gate();
    let lead = replicas[0].ask(&["a"]);
    upstream.arrived(1).await;
    let follow: Vec<_> = replicas[1..].iter().map(|replica| replica.ask(&["a"])).collect();
    redis.kill().await;
    upstream.arrived(4).await;
    upstream.open_gate();
    good(lead).await;
    for follow in follow {
        good(follow).await;
    }
    assert_eq!(upstream.calls(), 4);
    // Requests that come now are answered, too.
    for replica in &replicas {
        replica.served(&["b"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_store_is_full_nobody_waits_for_an_answer_that_it_does_not_take() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let options = Options {
        lease: LONG_LEASE,
        ..Options::default()
    };
    let [leader, follower] = std::array::from_fn(|_| Replica::start_with(&redis.url(), &upstream, &options));
    upstream.close_gate();
    let lead = leader.ask(&["a"]);
    upstream.arrived(1).await;
    let follow = follower.ask(&["a"]);
    settle(&redis, 2).await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    upstream.open_gate();
    good(lead).await;
    good(follow).await;
    assert_eq!(upstream.calls(), 2);
    assert_eq!(leader.member.snapshot().written, 0);
    leader.until("operators to be told", |seen| !seen.up).await;
    let keys: Vec<String> = redis.ask(&["KEYS", "*"]).await.unwrap();
    assert!(keys.is_empty(), "{keys:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_leader_dies_one_follower_asks_for_all() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let mut replicas: Vec<_> = (0..4).map(|_| Replica::start(&redis.url(), &upstream)).collect();
    upstream.close_gate();
    let lead = replicas[0].ask(&["a"]);
    upstream.arrived(1).await;
    let follow: Vec<_> = replicas[1..].iter().map(|replica| replica.ask(&["a"])).collect();
    replicas.remove(0).kill();
    assert!(lead.await.is_err());
    upstream.arrived(2).await;
    upstream.open_gate();
    for follow in follow {
        good(follow).await;
    }
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_whole_gateway_is_killed_that_asked_for_all_another_asks() {
    let redis = Redis::start().await;
    let setup = || {
        Setup::new()
            .set("store.url", &redis.url())
            .set("store.timeout", "2s")
            .set("store.answer_timeout", "10s")
    };
    let leader = setup().spawn().await;
    let toml = leader.simulator.config_toml();
    let followers = [setup().start_at(&toml).await, setup().start_at(&toml).await];
    let slow = Plan::of(Fault::SlowHead(Duration::from_secs(3)), Often::Always);
    leader.simulator.set_faults_everywhere(&slow);
    let (caller, ids) = (leader.caller(), [id(1)]);
    let request = caller.history_request().body(crate::support::body(&ids)).unwrap();
    let lead = caller.try_send(request);
    let others = async {
        leader.simulator.wait_for_calls(1).await.unwrap();
        let follow = followers.iter().map(|follower| follower.caller.ask(&ids));
        let killed = async {
            for follower in &followers {
                follower
                    .until_status("it to look", |status| status["cache"]["misses"] == 1)
                    .await;
            }
            leader.gateway.signal("KILL").await;
        };
        let (answers, ()) = tokio::join!(futures_util::future::join_all(follow), killed);
        answers
    };
    let (lead, answers) = within("all answers", async { tokio::join!(lead, others) }).await;
    assert!(lead.is_err(), "it was killed too late: {lead:?}");
    for answer in &answers {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.row_ids(), ids);
    }
    assert_eq!(leader.simulator.calls().len(), 2);
    for follower in followers {
        follower.leave().await;
    }
}

/// The quota's steps find the store lost and back, without any lookup.
#[tokio::test]
async fn the_gauge_says_the_same_as_the_status_while_nobody_asks() {
    let mut store = Redis::start().await;
    let spawned = Setup::new().set("store.url", &store.url()).spawn().await;
    spawned.caller().ask(&[id(1)]).await;
    let shown = async || {
        let metrics = spawned.admin().fetch("/metrics").await;
        metrics.text().contains("defender_gateway_shared_answers_up 1\n")
    };
    assert!(shown().await);
    store.kill().await;
    let lost = async || (!shown().await).then_some(());
    until("the gauge to say that the store is lost", lost).await;
    let status = spawned.admin().fetch("/status").await.json();
    assert_eq!(status["shared_answers"]["up"], false, "{status}");
}
