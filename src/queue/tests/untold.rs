//! Refusals that another layer may keep to itself.

use std::sync::{Arc, Mutex};

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tower::service_fn;

use super::*;
use crate::attempt::{Admitted, Failure, LateBoundRequest, Refusal, RetryHint};
use crate::middleware::{Middleware as _, Next};
use crate::scan::{Payer, UpstreamResponse};

/// A request that keeps its refusal.
#[derive(Debug, Default)]
struct Keeps(Mutex<Option<Box<dyn Refusal>>>);

impl LateBoundRequest for Keeps {
    fn bind(&self) -> Option<Arc<Request>> {
        None
    }

    fn refused(&self, refusal: Box<dyn Refusal>) {
        *self.0.lock().unwrap() = Some(refusal);
    }

    fn payer(&self) -> Payer {
        Request::plain(Endpoint::HISTORY, ["a"]).unwrap().payer()
    }
}

/// Nothing gets this far.
fn below() -> Next<Admitted<Slot>> {
    Next::new(service_fn(async |_| -> Result<UpstreamResponse, Failure> {
        unreachable!("it has no slot")
    }))
}

#[tokio::test(start_paused = true)]
async fn a_refusal_counts_once_it_is_told_and_not_when_it_is_withdrawn() {
    let (tasks, mut registry) = (Tasks::new(), Registry::default());
    let metrics = Metrics::register(&mut registry);
    let config = Config {
        max_requests: 10,
        max_requests_per_caller: 10,
        longest_wait: Duration::from_hours(10),
        weights: Weights::default(),
    };
    let queue = Queue::start(config, Clockwork::new(10 * SECOND), &tasks, metrics);
    queue.turn(&attempt("a", 3, SECOND)).await.unwrap().used();
    let counted = || {
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("queue_refused_total{reason=\"late\"}"));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
    };
    let expected = || queue.0.lock().order.returning();
    let refuse = async || {
        let request = Arc::<Keeps>::default();
        let attempt = Attempt {
            request: Arc::clone(&request) as Arc<dyn LateBoundRequest>,
            ..attempt("b", 3, SECOND)
        };
        let failure = queue.call(attempt, &below()).await.unwrap_err();
        assert_eq!(failure.again, RetryHint::InBatch);
        request.0.lock().unwrap().take().unwrap()
    };
    let refusal = refuse().await;
    assert_eq!((counted(), expected()), (0, 1));
    refusal.withdraw();
    assert_eq!((counted(), expected()), (0, 0));
    drop(refuse().await);
    assert_eq!((counted(), expected()), (1, 1));
    let failure = queue.call(attempt("b", 3, SECOND), &below()).await.unwrap_err();
    assert_eq!(failure.again, RetryHint::InBatch);
    assert_eq!(counted(), 2, "who keeps no refusals tells them");
}

#[tokio::test(start_paused = true)]
async fn who_loses_its_slot_to_a_pause_may_join_another_call() {
    let tasks = Tasks::new();
    let (queue, clockwork) = queue(SECOND, &tasks);
    queue.turn(&attempt("a", 3, SECOND)).await.unwrap().used();
    let waiting = {
        let (queue, attempt) = (queue.clone(), attempt("a", 3, 10 * SECOND));
        tasks.spawn("caller", async move { queue.call(attempt, &below()).await })
    };
    tokio::task::yield_now().await;
    clockwork.pause_until(Instant::now() + 50 * SECOND);
    let failure = waiting.await.unwrap().unwrap_err();
    assert_eq!(failure.again, RetryHint::InBatch, "{failure:?}");
}
