//! Fifty whole gateways in one process: sign-in, shared quota, real sockets.

use futures_util::future::join_all;

use crate::support::redis::Redis;
use crate::support::{Answer, Caller, Setup, body, id, within};

const REPLICAS: usize = 50;
const REQUESTS: usize = 20;

/// Asks once more whenever the connection was closed: a thousand of them, opened at once on a busy
/// machine, may bring their first bytes later than a server waits for them.
async fn ask(caller: &Caller, n: usize) -> Answer {
    loop {
        let request = caller.history_request().body(body(&[id(n)])).unwrap();
        if let Ok(answer) = caller.try_send(request).await {
            return answer;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_replicas_that_ask_the_same_twenty_requests_at_once_make_twenty_calls() {
    let redis = Redis::start().await;
    let setup = || {
        Setup::new()
            .set("store.url", &redis.url())
            // So many gateways on few cores are slow.
            .set("store.timeout", "5s")
            .set("store.answer_timeout", "10s")
            // Each gateway has to expect that the others want as many slots.
            .set("queue.max_wait", "10m")
            .set("cache.ttl", "10m")
    };
    let first = setup().start().await;
    let toml = first.simulator.config_toml();
    let others = join_all((1..REPLICAS).map(|_| setup().start_at(&toml))).await;
    let callers = std::iter::once(&first.caller).chain(others.iter().map(|other| &other.caller));
    let asked = callers.flat_map(|caller| (0..REQUESTS).map(move |n| async move { (n, ask(caller, n).await) }));
    let answers = within("all answers", join_all(asked)).await;
    assert_eq!(answers.len(), REPLICAS * REQUESTS);
    for (n, answer) in &answers {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.row_ids(), [id(*n)]);
    }
    assert_eq!(first.simulator.calls().len(), REQUESTS);
    for other in others {
        other.leave().await;
    }
    first.finish().await;
}
