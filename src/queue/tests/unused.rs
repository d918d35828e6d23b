//! A slot that goes back has cost nobody anything: whoever had it stands where it stood before.

use std::num::NonZeroU32;

use super::*;
use crate::attempt::{Admitted, Delivery, Failure, RetryHint};
use crate::middleware::{Middleware as _, Next};
use crate::scan::UpstreamResponse;

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
        let not_sent = Next::new(tower::service_fn(|admitted: Admitted<Slot>| async move {
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
