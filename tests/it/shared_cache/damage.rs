//! Arbitrary values in the store.

use std::time::Duration;

use http::StatusCode;

use defender_gateway::testing::scan::Outcome;
use defender_gateway::testing::shared_cache::{Name, StoreTime, StoredResponse};

use super::replica::{Replica, Upstream};
use crate::support::redis::Redis;

/// The keys of the answers in the store.
async fn answers(redis: &Redis) -> Vec<String> {
    redis.ask(&["KEYS", "*:answer"]).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_a_miss_is_counted_and_is_replaced() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let writer = Replica::start(&redis.url(), &upstream);
    writer.served(&["a"]).await;
    writer.until("the answer to be written", |seen| seen.written == 1).await;
    let [key] = &answers(&redis).await[..] else {
        panic!("one answer")
    };
    let good: Vec<u8> = redis.ask(&["GET", key]).await.unwrap();

    // A later version's value, a cut one, an empty one, a text, and a decompression bomb that
    // claims 4 GiB.
    let later = [&[2][..], &good[1..]].concat();
    let cut = good[..good.len() - 1].to_vec();
    let mut bomb = good.clone();
    bomb[17..21].copy_from_slice(&[0xff; 4]);
    let huge = vec![b'x'; 3 << 20];
    let [page, error] = rubbish(key, &good);
    let future = from_the_future(key, &good);
    let mut calls = upstream.calls();
    for value in [&later[..], &cut, b"garbage", &bomb, &huge, &page, &error, &future] {
        let client = redis::Client::open(redis.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let () = redis::cmd("SET")
            .arg(key)
            .arg(value)
            .query_async(&mut connection)
            .await
            .unwrap();
        calls += missed(&redis, &upstream, calls).await;
    }
    redis.command(&["DEL", key]).await;
    redis.command(&["LPUSH", key, "a", "list"]).await;
    missed(&redis, &upstream, calls).await;
}

fn name(key: &str) -> Name {
    Name::new(key.split(['{', '}']).nth(1).unwrap())
}

/// An answer from before the store's clock was set back by an hour.
fn from_the_future(key: &str, good: &[u8]) -> Vec<u8> {
    let name = name(key);
    let mut value = StoredResponse::read(&name, good, StoreTime(u64::MAX)).unwrap();
    value.asked.0 += 3_600_000;
    value.stored.0 += 3_600_000;
    value.write(&name).unwrap()
}

/// Responses that an older version may have written: a page with status 404, and an error with
/// status 200. Both can be decoded, and neither is an answer.
fn rubbish(key: &str, good: &[u8]) -> [Vec<u8>; 2] {
    let name = name(key);
    let value = StoredResponse::read(&name, good, StoreTime(u64::MAX)).unwrap();
    [
        (StatusCode::NOT_FOUND, "<html></html>"),
        (StatusCode::OK, r#"{"error":{"code":"x"}}"#),
    ]
    .map(|(status, body)| {
        let mut value = value.clone();
        value.answer.status = status;
        value.answer.body = body.into();
        value.write(&name).unwrap()
    })
}

/// Asserts that a new replica asks for itself when it cannot read a value, and that the next one
/// can read it. Returns how many calls that took.
async fn missed(redis: &Redis, upstream: &Upstream, calls: usize) -> usize {
    let replica = Replica::start(&redis.url(), upstream);
    assert_eq!(replica.served(&["a"]).await.outcome, Outcome::Forwarded);
    assert_eq!(upstream.calls(), calls + 1);
    assert_eq!(replica.member.snapshot().unreadable, 1);
    replica
        .until("the answer to be written", |seen| seen.written == 1)
        .await;
    let next = Replica::start(&redis.url(), upstream);
    assert_eq!(next.served(&["a"]).await.outcome, Outcome::Hit);
    1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_without_an_end_holds_nobody_up_for_long() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let writer = Replica::start(&redis.url(), &upstream);
    writer.served(&["a"]).await;
    writer.until("the answer to be written", |seen| seen.written == 1).await;
    let key = answers(&redis).await.remove(0);
    redis.command(&["DEL", &key]).await;
    redis
        .command(&["SET", &key.replace(":answer", ":lease"), "whose?"])
        .await;
    let replica = Replica::start(&redis.url(), &upstream);
    assert_eq!(replica.served(&["a"]).await.outcome, Outcome::Forwarded);
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_answer_that_is_late_does_not_replace_a_newer_one() {
    let (redis, upstream) = (Redis::start().await, Upstream::new());
    let replica = Replica::start(&redis.url(), &upstream);
    replica.served(&["a"]).await;
    replica
        .until("the answer to be written", |seen| seen.written == 1)
        .await;
    let key = answers(&redis).await.remove(0);
    // As if it had been asked for later than any answer to come.
    let mut newer: Vec<u8> = redis.ask(&["GET", &key]).await.unwrap();
    newer[1] = 0x7f;
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("SET")
        .arg(&key)
        .arg(&newer)
        .query_async(&mut connection)
        .await
        .unwrap();
    let insists = defender_gateway::testing::caller::CacheDirectives {
        no_cache: true,
        ..Default::default()
    };
    super::replica::good(replica.ask_with(&["a"], insists, Duration::from_mins(1))).await;
    replica.until("it to be offered", |seen| seen.written == 2).await;
    let kept: Vec<u8> = redis.ask(&["GET", &key]).await.unwrap();
    assert_eq!(kept, newer);
}
