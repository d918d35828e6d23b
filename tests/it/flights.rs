//! Callers who ask the same share one call.

use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;

use crate::support::{Answer, Caller, Controls, Setup, id, ids};

#[tokio::test]
async fn a_thousand_callers_with_the_same_ids_cost_one_call() {
    // Far enough away that all of them are there before the answer.
    let running = Setup::new().region("eu", 2_000).start().await;
    // A connection carries 100 at a time.
    let callers = [(); 10].map(|()| Caller::http2(running.caller.base()));
    let orders = [[1, 2, 3], [3, 2, 1], [2, 3, 1], [1, 3, 2]].map(ids);
    let asked = (0..1_000).map(|n| callers[n % 10].ask(&orders[n % orders.len()]));
    let answers = join_all(asked).await;
    for answer in &answers {
        assert_eq!((answer.status, &answer.body), (StatusCode::OK, &answers[0].body));
    }
    let collapsed = |answer: &&Answer| answer.field("cache-status").contains("; collapsed");
    assert_eq!(
        answers.iter().filter(collapsed).count(),
        999,
        "{:?}",
        answers[999].headers
    );
    assert_eq!(running.simulator.calls().len(), 1);
    let saved = &running.status().await["saved"];
    assert_eq!(
        (&saved["requests"], &saved["upstream_calls"]),
        (&1_000.into(), &1.into())
    );
    drop(callers);
    running.finish().await;
}

#[tokio::test]
async fn a_caller_who_hangs_up_takes_nobody_along() {
    let running = Setup::new().region("eu", 600).start().await;
    let first = Caller::http1(running.caller.base());
    let request = [id(1)];
    // Gives up as soon as the call is under way.
    let hasty = async {
        tokio::select! {
            answer = first.ask(&request) => panic!("too early: {answer:?}"),
            call = running.simulator.wait_for_calls(1) => { call.unwrap(); }
        }
    };
    hasty.await;
    drop(first);
    let patient = running.caller.ask(&request).await;
    assert_eq!(patient.row_ids(), request);
    assert_eq!(
        running.simulator.calls().len(),
        1,
        "the flight went on without its first caller"
    );
    running.finish().await;
}

#[tokio::test]
async fn waiting_ends_with_the_callers_own_patience() {
    let running = Setup::new().limits(sim::Shape::SlidingLog, &["1/1h"]).start().await;
    assert_eq!(running.caller.ask(&[id(1)]).await.status, StatusCode::OK);
    let before = tokio::time::Instant::now();
    let refused = running.caller.ask_with(&[id(2)], &[("prefer", "wait=0")]).await;
    assert_eq!(
        (refused.status.as_u16(), &*refused.error_code()),
        (429, "TooManyRequests")
    );
    assert!(
        before.elapsed() < Duration::from_mins(1),
        "bounded at all: a slot comes in an hour"
    );
    running.finish().await;
}
