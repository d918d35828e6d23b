//! Who joins another replica's call, depending on where it is.

use std::time::Duration;

use defender_gateway::testing::caller::CacheDirectives;
use defender_gateway::testing::scan::Outcome;

use super::replica::{Bad, LONG_LEASE, Options, Replica, Upstream, good};
use super::share::{MINUTE, looks, replicas, settle};
use crate::support::redis::Redis;
use crate::support::until;

/// What the store has of the only lease.
async fn lease(redis: &Redis) -> Option<String> {
    let keys: Vec<String> = redis.ask(&["KEYS", "*:lease"]).await.unwrap();
    redis.ask(&["GET", keys.first()?]).await.unwrap()
}

/// Waits until the store knows that the call has left.
async fn left(redis: &Redis) -> String {
    let left = async || lease(redis).await.filter(|token| token.ends_with(":left:0"));
    until("the leader to say that its call has left", left).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_urgent_request_does_not_wait_for_another_replicas_patient_one_that_waits() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let [patient, one, other] = replicas(&redis, &upstream, &Options::default()).await;
    upstream.keep_waiting(2);
    upstream.close_gate();
    let mut asked = vec![patient.ask_at(&["a"], 7)];
    upstream.queued(1).await;
    // Who is as patient waits, here and where an urgent one comes after it.
    asked.extend([&one, &other].map(|replica| replica.ask_at(&["a"], 7)));
    settle(&redis, 3).await;
    asked.push(one.ask_at(&["a"], 0));
    upstream.queued(2).await;
    let looks = looks(&redis).await;
    asked.extend([0, 4].map(|urgency| other.ask_at(&["a"], urgency)));
    settle(&redis, looks + 1).await;
    // Who is no more urgent follows.
    upstream.keep_waiting(0);
    upstream.arrived(2).await;
    upstream.open_gate();
    for asked in asked {
        good(asked).await;
    }
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_to_an_urgent_request_serves_another_replicas_patient_one_that_waits() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let [patient, urgent] = replicas(&redis, &upstream, &Options::default()).await;
    upstream.keep_waiting(1);
    let waits = patient.ask_at(&["a"], 7);
    upstream.queued(1).await;
    let served = good(urgent.ask_at(&["a"], 0)).await;
    assert_eq!(served.outcome, Outcome::Forwarded);
    let waited = good(waits).await;
    assert_eq!((waited.outcome, waited.status.collapsed), (Outcome::Collapsed, true));
    assert_eq!(waited.answer.body, served.answer.body);
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_has_left_is_joined_by_who_is_more_urgent_and_by_who_has_no_time() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let options = Options {
        look: Duration::from_secs(1),
        ..Options::default()
    };
    let [leader, follower] = replicas(&redis, &upstream, &options).await;
    upstream.close_gate();
    let lead = leader.ask_at(&["a"], 7);
    left(&redis).await;
    let hasty = follower.ask_with(&["a"], CacheDirectives::default(), Duration::ZERO);
    let urgent = follower.ask_at(&["a"], 0);
    // Longer than a look and than a lease.
    tokio::time::sleep(options.lease * 3 / 2).await;
    assert_eq!(upstream.calls(), 1);
    upstream.open_gate();
    for asked in [lead, hasty, urgent] {
        good(asked).await;
    }
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_time_waits_for_no_call_that_waits() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let [leader] = replicas(&redis, &upstream, &Options::default()).await;
    let options = Options {
        look: Duration::from_millis(100),
        ..Options::default()
    };
    let hasty = Replica::start_with(&redis.url(), &upstream, &options);
    upstream.keep_waiting(1);
    let lead = leader.ask(&["a"]);
    upstream.queued(1).await;
    let hastened = hasty.ask_with(&["a"], CacheDirectives::default(), Duration::ZERO);
    good(hastened).await;
    assert_eq!(upstream.calls(), 1);
    upstream.keep_waiting(0);
    good(lead).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_callers_have_left_is_still_the_call_of_all_replicas() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let options = Options {
        lease: LONG_LEASE,
        ..Options::default()
    };
    let [leader, follower, late] = replicas(&redis, &upstream, &options).await;
    upstream.close_gate();
    let lead = leader.ask(&["a"]);
    let token = left(&redis).await;
    let follow = follower.ask(&["a"]);
    settle(&redis, 2).await;
    lead.abort();
    assert!(lead.await.is_err());
    let late = [late.ask(&["a"]), leader.ask(&["a"])];
    settle(&redis, 3).await;
    assert_eq!(lease(&redis).await, Some(token));
    upstream.open_gate();
    for asked in late.into_iter().chain([follow]) {
        good(asked).await;
    }
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_callers_of_a_call_leave_that_waits_the_lease_is_given_back() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let options = Options {
        lease: LONG_LEASE,
        ..Options::default()
    };
    let [leader, follower] = replicas(&redis, &upstream, &options).await;
    upstream.keep_waiting(1);
    let lead = leader.ask(&["a"]);
    upstream.queued(1).await;
    let follow = follower.ask(&["a"]);
    lead.abort();
    good(follow).await;
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_asked_for_later_is_young_enough() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let [leader, follower] = replicas(&redis, &upstream, &Options::default()).await;
    let young = CacheDirectives {
        max_age: Some(Duration::ZERO),
        ..CacheDirectives::default()
    };
    upstream.close_gate();
    let lead = leader.ask_with(&["a"], young, MINUTE);
    upstream.arrived(1).await;
    let follow = follower.ask_with(&["a"], young, MINUTE);
    settle(&redis, 2).await;
    // An answer's time errs by one exchange with the store, towards a greater age.
    tokio::time::sleep(Duration::from_millis(500)).await;
    upstream.open_gate();
    for asked in [lead, follow] {
        good(asked).await;
    }
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_insists_joins_nobody_and_leads_others() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let [leader, follower, other] = replicas(&redis, &upstream, &Options::default()).await;
    upstream.close_gate();
    let lead = leader.insist(&["a"]);
    let token = left(&redis).await;
    let follow = follower.ask(&["a"]);
    settle(&redis, 2).await;
    assert_eq!((upstream.calls(), lease(&redis).await), (1, Some(token)));
    let insisted = [leader.insist(&["a"]), other.insist(&["a"])];
    upstream.arrived(3).await;
    upstream.open_gate();
    for asked in insisted.into_iter().chain([lead, follow]) {
        good(asked).await;
    }
    assert_eq!(upstream.calls(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_call_that_waits_does_not_hide_one_that_has_left() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let options = Options {
        lease: Duration::from_secs(1),
        ..Options::default()
    };
    let [leader, follower] = replicas(&redis, &upstream, &options).await;
    upstream.close_gate();
    let lead = leader.ask_at(&["a"], 7);
    let token = left(&redis).await;
    upstream.keep_waiting(2);
    let insisted = leader.insist(&["a"]);
    upstream.queued(2).await;
    let urgent = follower.ask_at(&["a"], 0);
    // Longer than a lease and its renewals.
    tokio::time::sleep(options.lease * 3 / 2).await;
    assert_eq!(lease(&redis).await.as_ref(), Some(&token));
    insisted.abort();
    assert!(insisted.await.is_err());
    tokio::time::sleep(options.lease / 2).await;
    assert_eq!((upstream.calls(), lease(&redis).await), (1, Some(token)));
    upstream.open_gate();
    for asked in [lead, urgent] {
        good(asked).await;
    }
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_gets_no_slot_is_no_failed_call_for_the_others() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let options = Options {
        lease: LONG_LEASE,
        ..Options::default()
    };
    let [leader, one, two, three] = replicas(&redis, &upstream, &options).await;
    upstream.close_gate();
    let lead = leader.ask(&["a"]);
    left(&redis).await;
    let looks = looks(&redis).await;
    let asked = [&one, &two, &three].map(|replica| replica.ask(&["a"]));
    settle(&redis, looks + 3).await;
    upstream.misbehave(&[Bad::Status(500), Bad::NoSlot]);
    upstream.open_gate();
    let failed = crate::support::within("an answer", lead).await.unwrap().unwrap();
    assert_eq!(failed.answer.status, 500);
    let mut refused = 0;
    for asked in asked {
        let served = crate::support::within("an answer", asked).await.unwrap();
        refused += usize::from(served.is_err());
    }
    assert_eq!((refused, upstream.calls()), (1, 2));
}
