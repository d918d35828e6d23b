//! Answers, and calls under way.

use std::time::Duration;

use http::StatusCode;

use defender_gateway::testing::caller::CacheDirectives;
use defender_gateway::testing::scan::{CallerToken, Outcome};

use super::replica::{Bad, LONG_LEASE, Options, Replica, Upstream, good, history_request};
use crate::support::redis::Redis;

pub(super) const MINUTE: Duration = Duration::from_mins(1);

/// Several replicas that have subscribed, so that no event is missed.
pub(super) async fn replicas<const N: usize>(redis: &Redis, upstream: &Upstream, options: &Options) -> [Replica; N] {
    let replicas = std::array::from_fn(|_| Replica::start_with(&redis.url(), upstream, options));
    let all_listen = async || {
        let channels: Vec<String> = redis.ask(&["PUBSUB", "CHANNELS"]).await.unwrap();
        let [channel] = &channels[..] else { return None };
        let (_, listeners): (String, usize) = redis.ask(&["PUBSUB", "NUMSUB", channel]).await.unwrap();
        (listeners == N).then_some(())
    };
    crate::support::until("all replicas to listen", all_listen).await;
    replicas
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_replica_was_told_another_need_not_ask() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let [one, other] = replicas(&redis, &upstream, &Options::default()).await;
    let asked = one.served(&["a", "b"]).await;
    assert_eq!(asked.outcome, Outcome::Forwarded);
    one.until("the answer to be written", |seen| seen.written == 1).await;

    let found = other.served(&["b", "a"]).await;
    assert_eq!(found.outcome, Outcome::Hit);
    assert_eq!(found.answer.body, asked.answer.body);
    assert_eq!(found.answer.headers, asked.answer.headers);
    assert_eq!((found.status.detail, found.status.forward), (Some("shared"), None));
    let (age, ttl) = (found.age.unwrap(), found.status.ttl.unwrap());
    assert!((50..60).contains(&ttl), "{ttl}");

    // From now on it is in memory, with the same age.
    let hit = other.served(&["a", "b"]).await;
    assert_eq!((hit.outcome, hit.status.detail), (Outcome::Hit, None));
    assert!(hit.age.unwrap() >= age && hit.status.ttl.unwrap() <= ttl, "{hit:?}");
    // And by id: it has learned from the answer what it needs to know for that.
    assert_eq!(other.served(&["a"]).await.status.detail, Some("assembled"));
    assert_eq!(upstream.calls(), 1);
    assert_eq!((other.member.snapshot().hits, one.member.snapshot().led), (1, 1));
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_what_another_replica_is_asking_waits_for_its_answer() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let [leader, one, other] = replicas(&redis, &upstream, &Options::default()).await;
    upstream.close_gate();
    let lead = leader.ask(&["a"]);
    upstream.arrived(1).await;
    let follow: Vec<_> = [&one, &other]
        .iter()
        .flat_map(|replica| [replica.ask(&["a"]), replica.ask(&["a"])])
        .collect();
    // Longer than a lease, which has to be renewed.
    tokio::time::sleep(Options::default().lease * 3 / 2).await;
    assert_eq!(upstream.calls(), 1);
    upstream.open_gate();
    assert_eq!(good(lead).await.outcome, Outcome::Forwarded);
    for follow in follow {
        let served = good(follow).await;
        assert_eq!((served.outcome, served.status.collapsed), (Outcome::Collapsed, true));
    }
    assert_eq!(upstream.calls(), 1);
}

/// The queue, which is asked then, tells them that the gateway stops.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_another_replica_when_the_gateway_closes_asks_alone() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let options = Options {
        look: Duration::from_secs(1),
        ..Options::default()
    };
    let [leader, follower] = replicas(&redis, &upstream, &options).await;
    upstream.close_gate();
    let lead = leader.ask(&["a"]);
    upstream.arrived(1).await;
    let follow = follower.ask(&["a"]);
    settle(&redis, 2).await;
    let now = tokio::time::Instant::now();
    follower.closing.send_replace(Some(now));
    upstream.arrived(2).await;
    let late = follower.ask(&["b"]);
    upstream.arrived(3).await;
    upstream.open_gate();
    for asked in [lead, follow, late] {
        good(asked).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_call_fails_one_follower_asks_and_after_two_each_for_itself() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let replicas: [Replica; 4] = replicas(&redis, &upstream, &Options::default()).await;
    upstream.misbehave(&[Bad::Status(503)]);
    upstream.close_gate();
    let lead = replicas[0].ask(&["a"]);
    upstream.arrived(1).await;
    let follow: Vec<_> = replicas[1..].iter().map(|replica| replica.ask(&["a"])).collect();
    settle(&redis, 4).await;
    upstream.open_gate();
    assert_eq!(
        lead.await.unwrap().unwrap().answer.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    for follow in follow {
        good(follow).await;
    }
    assert_eq!(upstream.calls(), 2, "one of them took over");

    upstream.misbehave(&[Bad::Status(503); 9]);
    upstream.close_gate();
    let asked: Vec<_> = replicas.iter().map(|replica| replica.ask(&["b"])).collect();
    settle(&redis, 8).await;
    upstream.open_gate();
    for asked in asked {
        assert_eq!(
            asked.await.unwrap().unwrap().answer.status,
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
    assert_eq!(upstream.calls(), 6, "everybody has tried");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_goes_on_for_those_with_time_stays_one_call_of_all_replicas() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let [leader, follower] = replicas(&redis, &upstream, &Options::default()).await;
    upstream.misbehave(&[Bad::OutOfTime]);
    upstream.close_gate();
    let hasty = leader.ask_with(&["a"], CacheDirectives::default(), Duration::ZERO);
    upstream.arrived(1).await;
    let patient = leader.ask(&["a"]);
    let follow = follower.ask(&["a"]);
    settle(&redis, 2).await;
    upstream.open_gate();
    assert_eq!(
        hasty.await.unwrap().unwrap().answer.status,
        StatusCode::TOO_MANY_REQUESTS
    );
    upstream.arrived(2).await;
    // Longer than a lease, which has to be renewed.
    tokio::time::sleep(Options::default().lease * 3 / 2).await;
    assert_eq!(upstream.calls(), 2);
    upstream.open_gate();
    for asked in [patient, follow] {
        good(asked).await;
    }
    assert_eq!(upstream.calls(), 2);
}

/// Waits until the store has been looked into so many times more than it has leases.
pub(super) async fn settle(redis: &Redis, looks: u64) {
    let looked = async || (self::looks(redis).await >= looks).then_some(());
    crate::support::until("everybody to have looked", looked).await;
}

/// How often the store was looked into: each look for a request tries for the lease.
pub(super) async fn looks(redis: &Redis) -> u64 {
    let stats: String = redis.ask(&["INFO", "commandstats"]).await.unwrap();
    let mut lines = stats.lines();
    let count = lines.find_map(|line| line.strip_prefix("cmdstat_set:calls=")?.split(',').next());
    count.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_of_an_answer_that_cannot_be_shared_ask_at_once() {
    for bad in [Bad::NoStore, Bad::Large] {
        let (redis, upstream) = (Redis::start().await, Upstream::new());
        let options = Options {
            // Nobody is saved by a lease that runs out.
            lease: LONG_LEASE,
            ..Options::default()
        };
        let [leader, one, other] = replicas(&redis, &upstream, &options).await;
        upstream.misbehave(&[bad; 3]);
        upstream.close_gate();
        let lead = leader.ask(&["a"]);
        upstream.arrived(1).await;
        let follow = [one.ask(&["a"]), other.ask(&["a"])];
        settle(&redis, 3).await;
        upstream.open_gate();
        good(lead).await;
        for follow in follow {
            good(follow).await;
        }
        assert_eq!(upstream.calls(), 3, "{bad:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_callers_directives_are_obeyed() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let [one, other] = replicas(&redis, &upstream, &Options::default()).await;
    let no_store = CacheDirectives {
        no_store: true,
        ..CacheDirectives::default()
    };
    good(one.ask_with(&["a"], no_store, MINUTE)).await;
    other.served(&["a"]).await;
    assert_eq!(upstream.calls(), 2, "the first answer was not kept");
    other.until("the second was", |seen| seen.written == 1).await;
    // What is there may be had by who wants nothing stored.
    assert_eq!(good(one.ask_with(&["a"], no_store, MINUTE)).await.outcome, Outcome::Hit);
    assert_eq!(upstream.calls(), 2);

    let renewed = CacheDirectives {
        no_cache: true,
        ..CacheDirectives::default()
    };
    good(other.ask_with(&["a"], renewed, MINUTE)).await;
    assert_eq!(upstream.calls(), 3);
    other.until("the third, too", |seen| seen.written == 2).await;

    let young = CacheDirectives {
        max_age: Some(Duration::ZERO),
        ..CacheDirectives::default()
    };
    good(one.ask_with(&["a"], young, MINUTE)).await;
    let long = CacheDirectives {
        min_fresh: Some(MINUTE),
        ..CacheDirectives::default()
    };
    good(one.ask_with(&["a"], long, MINUTE)).await;
    assert_eq!(upstream.calls(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_to_callers_own_tokens_are_shared_with_nobody() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let [one, other] = replicas(&redis, &upstream, &Options::default()).await;
    for replica in [&one, &other] {
        let request = history_request(&["a"]).with_token(CallerToken::new("token").unwrap());
        good(replica.ask_for(request, CacheDirectives::default(), MINUTE)).await;
    }
    assert_eq!(upstream.calls(), 2);
    one.stop().await;
    other.stop().await;
    let keys: Vec<String> = redis.ask(&["KEYS", "*"]).await.unwrap();
    assert!(keys.is_empty(), "{keys:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_became_one_call_are_shared_one_by_one() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let options = Options {
        merge: true,
        ..Options::default()
    };
    let [one, other] = replicas(&redis, &upstream, &options).await;
    // Who asks alone for a while does not wait for company.
    good(one.ask(&["z"])).await;
    upstream.close_gate();
    let lead = [one.ask(&["a", "b"]), one.ask(&["b", "c"])];
    upstream.arrived(2).await;
    let follow = [other.ask(&["a", "b"]), other.ask(&["b", "c"])];
    settle(&redis, 5).await;
    upstream.open_gate();
    for (lead, follow) in lead.into_iter().zip(follow) {
        let (lead, follow) = (good(lead).await, good(follow).await);
        assert_eq!(lead.outcome, Outcome::Merged);
        assert_eq!(lead.answer.body, follow.answer.body);
    }
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_forgets_an_answer_when_it_is_stale() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let options = Options {
        ttl: Duration::from_secs(1),
        ..Options::default()
    };
    let [one, other] = replicas(&redis, &upstream, &options).await;
    one.served(&["a"]).await;
    one.until("the answer to be written", |seen| seen.written == 1).await;
    let gone = async || {
        let keys: Vec<String> = redis.ask(&["KEYS", "*"]).await.unwrap();
        keys.is_empty().then_some(())
    };
    crate::support::until("the store to be empty", gone).await;
    assert_eq!(other.served(&["a"]).await.outcome, Outcome::Forwarded);
}
