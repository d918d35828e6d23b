//! What was not used has cost nobody anything: a slot that goes back, and a refusal that another
//! layer keeps to itself.

use std::num::NonZeroU32;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tower::service_fn;

use super::*;
use crate::attempt::{Admitted, Delivery, Failure, LateBoundRequest, Refusal, RetryHint};
use crate::middleware::{Middleware as _, Next};
use crate::scan::{Payer, UpstreamResponse};

const EVERY: Duration = Duration::from_secs(2);

/// Two callers of one class, and of two classes: the first one is ahead until it has paid.
const AHEAD: [[(&str, u8); 2]; 2] = [[("heavy", 3), ("light", 3)], [("urgent", 2), ("other", 3)]];

/// Slots from the clockwork, of which a store decides whose they are.
#[derive(Clone, Debug)]
struct Decided {
    clockwork: Clockwork,
    whose: Arc<Mutex<Option<(Urgency, Name)>>>,
}

impl PermitSource for Decided {
    type Permit = Slot;

    fn take(&self, now: Instant) -> Result<Slot, Option<Instant>> {
        self.clockwork.take(now)
    }

    fn forecast(&self, now: Instant, count: usize, slots: &mut VecDeque<Instant>) {
        self.clockwork.forecast(now, count, slots);
    }

    fn version(&self) -> u64 {
        self.clockwork.version()
    }

    fn changed(&self) -> impl Future<Output = ()> + Send {
        self.clockwork.changed()
    }

    fn granted_to(&self, _: &Slot) -> Option<(Urgency, Name)> {
        self.whose.lock().unwrap().clone()
    }

    fn next_timeout(&self) -> Option<Instant> {
        None
    }
}

impl Decided {
    /// The store decides that slots are for this caller.
    fn decide(&self, caller: Option<(&str, u8)>) {
        *self.whose.lock().unwrap() = caller.map(|(name, urgency)| (Urgency::new(urgency).unwrap(), Name::new(name)));
    }
}

/// A queue whose first slot comes in two seconds.
fn decided(tasks: &Tasks) -> (Queue<Decided>, Decided) {
    let clockwork = Clockwork::new(EVERY);
    clockwork.pause_until(Instant::now() + EVERY);
    let source = Decided {
        clockwork,
        whose: Arc::default(),
    };
    let config = Config {
        max_requests: 100,
        max_requests_per_caller: 100,
        longest_wait: Duration::from_hours(1),
        weights: [(Name::new("heavy"), NonZeroU32::new(2).unwrap())]
            .into_iter()
            .collect(),
    };
    (Queue::start(config, source.clone(), tasks, Metrics::default()), source)
}

fn waits((name, urgency): (&str, u8)) -> Attempt {
    attempt(name, urgency, 30 * SECOND)
}

/// The next slot is due, and the clock task has handed it out.
async fn slot_comes() {
    tokio::time::advance(EVERY).await;
    tokio::task::yield_now().await;
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_was_granted_and_never_looked_at_costs_nobody() {
    for [ahead, behind] in AHEAD {
        let tasks = Tasks::new();
        let (queue, _) = decided(&tasks);
        let start = Instant::now();
        let [leaves, next] = [(); 2].map(|()| queue.enter(&waits(ahead)).unwrap());
        let waiting = queue.enter(&waits(behind)).unwrap();
        slot_comes().await;
        drop(leaves);
        next.turn().await.unwrap().used();
        assert_eq!(
            start.elapsed(),
            EVERY,
            "{ahead:?} had not been served, so it is still next"
        );
        waiting.turn().await.unwrap().used();
        assert_eq!(start.elapsed(), EVERY * 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_a_store_decided_is_not_paid_back_here() {
    for [ahead, behind] in AHEAD {
        let tasks = Tasks::new();
        let (queue, source) = decided(&tasks);
        let start = Instant::now();
        let next = queue.enter(&waits(ahead)).unwrap();
        let [leaves, waiting] = [(); 2].map(|()| queue.enter(&waits(behind)).unwrap());
        source.decide(Some(behind));
        slot_comes().await;
        drop(leaves);
        source.decide(None);
        next.turn().await.unwrap().used();
        assert_eq!(start.elapsed(), EVERY, "{behind:?} has nothing to its credit");
        waiting.turn().await.unwrap().used();
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_not_sent_costs_nobody() {
    for [ahead, behind] in AHEAD {
        let tasks = Tasks::new();
        let (queue, _) = decided(&tasks);
        let start = Instant::now();
        let not_sent = Next::new(service_fn(|admitted: Admitted<Slot>| async move {
            drop(admitted.permit);
            Err::<UpstreamResponse, _>(Failure {
                delivery: Delivery::NotSent,
                again: RetryHint::WhenAllowed,
                answer: None,
                source: "no token".into(),
            })
        }));
        let fails = queue.call(waits(ahead), &not_sent);
        tokio::pin!(fails);
        assert!(futures_util::poll!(&mut fails).is_pending());
        let next = queue.enter(&waits(ahead)).unwrap();
        let waiting = queue.enter(&waits(behind)).unwrap();
        slot_comes().await;
        assert!(futures_util::poll!(&mut fails).is_ready());
        next.turn().await.unwrap().used();
        assert_eq!(
            start.elapsed(),
            EVERY,
            "{ahead:?} had not been served, so it is still next"
        );
        waiting.turn().await.unwrap().used();
    }
}

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
        ..Config::default()
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
