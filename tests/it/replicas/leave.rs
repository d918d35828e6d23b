//! A gateway with a store stops.

use crate::replicas::ALONE;
use crate::support::redis::Redis;
use crate::support::{Controls as _, Setup, id};

/// It would count as in flight for as long as a call can take, while all the others wait for it.
#[tokio::test]
async fn how_the_last_call_ended_is_told_before_the_replica_leaves() {
    let _alone = ALONE.lock().await;
    let store = Redis::start().await;
    let running = Setup::new()
        .region("eu", 900)
        .set("store.url", &store.url())
        .start()
        .await;
    // The caller hangs up when the call has left.
    let request = [id(1)];
    tokio::select! {
        answer = running.caller.ask(&request) => panic!("{answer:?}"),
        call = running.simulator.wait_for_calls(1) => drop(call.unwrap()),
    }
    running.finish().await;
    let mut calls = Vec::new();
    for part in ["past", "flying"] {
        let keys: Vec<String> = store.ask(&["KEYS", &format!("*:v2:{part}")]).await.unwrap();
        for key in keys {
            calls.push((part, store.ask::<u64>(&["ZCARD", &key]).await.unwrap()));
        }
    }
    assert_eq!(calls, [("past", 1)]);
}
