//! After a 429, with a store: what finds out whether the pause is over may break.

use std::time::Duration;

use defender_gateway::testing::sim::{Fault, Often, Plan};
use http::StatusCode;

use crate::support::redis::Redis;
use crate::support::{Controls, Setup, id, until};

/// A call can take 20 seconds, and so long a charge is kept of which nothing is heard: longer than
/// the request can wait.
#[tokio::test]
async fn a_probe_whose_connection_breaks_is_followed_by_another_at_once() {
    let store = Redis::start().await;
    let running = Setup::new()
        .set("store.url", &store.url())
        .set("defender.timeout", "20s")
        .start()
        .await;
    let set = |fault| {
        let plan = Plan::of(fault, Often::Times(1));
        running.simulator.set_faults("eu", &plan).unwrap();
    };
    set(Fault::Throttle(Duration::from_secs(5)));
    let broken = async {
        let refused = async || (running.upstream_statuses() == [Some(429)]).then_some(());
        until("the call to be refused", refused).await;
        set(Fault::Cut);
    };
    let ids = [id(1)];
    let asked = running.caller.ask_with(&ids, &[("prefer", "wait=15")]);
    let (answer, ()) = tokio::join!(asked, broken);
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(running.upstream_statuses(), [Some(429), None, Some(200)]);
    running.finish().await;
}
