//! Callers that ask on and on, with deadlines of seconds: nobody is served late, everybody has its
//! share, and no slot is lost to those who leave or are told to come back.

use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::queue::Reason;

const EVERY: Duration = Duration::from_millis(2400);

/// Slots that are counted.
const SLOTS: u32 = 250;

/// A caller that asks again as soon as it is answered, and comes back when it is told to.
#[derive(Clone, Copy, Debug)]
struct Asking {
    urgency: u8,
    wait_s: u32,
    in_flight: u8,
    weight: u32,
    /// Leaves every so many requests, after a second.
    leaves: Option<u8>,
    /// How long its calls take.
    call_ms: u64,
    /// How much later than told it comes back.
    late_ms: u64,
}

/// Half of them may wait little longer than a slot takes. A time in which a request may come that
/// waits for three seconds holds two whole seconds, so it may be up to a second late. A call takes
/// less than a slot: a caller that asks one by one could not use every slot otherwise.
fn asking() -> impl Strategy<Value = Asking> {
    let leaves = prop_oneof![2 => Just(None), 1 => (2_u8..5).prop_map(Some)];
    let wait_s = prop_oneof![3_u32..6, 3_u32..30];
    let times = (100_u64..2000, prop_oneof![Just(0), 0_u64..1000]);
    (0_u8..8, wait_s, 1_u8..5, 1_u32..4, leaves, times).prop_map(
        |(urgency, wait_s, in_flight, weight, leaves, (call_ms, late_ms))| Asking {
            urgency,
            wait_s,
            in_flight,
            weight,
            leaves,
            call_ms,
            late_ms,
        },
    )
}

/// What became of a caller's requests.
#[derive(Clone, Copy, Debug, Default)]
struct Book {
    served: u32,
    late: u32,
    wrong_reason: Option<Reason>,
}

async fn ask_on(queue: Queue<Clockwork>, name: String, asking: Asking, book: Arc<Mutex<Book>>) {
    for n in 1_u32.. {
        let attempt = attempt(&name, asking.urgency, SECOND * asking.wait_s);
        let leaves = asking.leaves.is_some_and(|every| n.is_multiple_of(u32::from(every)));
        let turn = queue.turn(&attempt);
        let patience = if leaves { SECOND } else { SECOND * 1000 };
        let Ok(turn) = tokio::time::timeout(patience, turn).await else {
            continue;
        };
        match turn {
            Ok(slot) => {
                slot.used();
                {
                    let mut book = book.lock().unwrap();
                    book.served += 1;
                    let latest = attempt.caller.deadline + Duration::from_millis(50);
                    book.late += u32::from(Instant::now() > latest);
                }
                tokio::time::sleep(Duration::from_millis(asking.call_ms)).await;
                queue.answered(&attempt);
            }
            Err(refused) => {
                if !matches!(refused.reason, Reason::Late | Reason::Promised | Reason::Displaced) {
                    book.lock().unwrap().wrong_reason = Some(refused.reason);
                }
                let after = u32::try_from(refused.retry_after_s()).unwrap();
                tokio::time::sleep(SECOND * after + Duration::from_millis(asking.late_ms)).await;
            }
        }
    }
}

/// Sends so many requests at once every so often, and never comes back when told to.
async fn burst_on(queue: Queue<Clockwork>, tasks: Tasks, burst: Burst, served: Arc<Mutex<u32>>) {
    loop {
        for _ in 0..burst.requests {
            let (queue, served) = (queue.clone(), Arc::clone(&served));
            let attempt = attempt("bursts", burst.urgency, 3 * SECOND);
            tasks.spawn("request", async move {
                if let Ok(slot) = queue.turn(&attempt).await {
                    slot.used();
                    *served.lock().unwrap() += 1;
                    queue.answered(&attempt);
                }
            });
        }
        tokio::time::sleep(burst.every).await;
    }
}

/// See [`burst_on`].
#[derive(Clone, Copy, Debug)]
struct Burst {
    urgency: u8,
    requests: u8,
    every: Duration,
}

/// Lets them ask for as long as [`SLOTS`] take.
fn live(callers: &[Asking]) -> Vec<Book> {
    live_beside(callers, None).0
}

/// The same beside one that does not obey. Also says how many slots that one had.
fn live_beside(callers: &[Asking], burst: Option<Burst>) -> (Vec<Book>, u32) {
    in_paused_time(async {
        let tasks = Tasks::new();
        let name = |n: usize| format!("caller {n}");
        let weight = |(n, asking): (usize, &Asking)| (Name::new(&name(n)), NonZeroU32::new(asking.weight).unwrap());
        let config = Config {
            weights: callers.iter().enumerate().map(weight).collect(),
            ..Config::default()
        };
        let queue = Queue::start(config, Clockwork::new(EVERY), &tasks, Metrics::default());
        let books: Vec<_> = callers.iter().map(|_| Arc::<Mutex<Book>>::default()).collect();
        for (n, asking) in callers.iter().enumerate() {
            for _ in 0..asking.in_flight {
                let asks = ask_on(queue.clone(), name(n), *asking, Arc::clone(&books[n]));
                tasks.spawn("caller", asks);
            }
        }
        let served = Arc::<Mutex<u32>>::default();
        if let Some(burst) = burst {
            let bursts = burst_on(queue.clone(), tasks.clone(), burst, Arc::clone(&served));
            tasks.spawn("bursts", bursts);
        }
        tokio::time::sleep(EVERY * SLOTS).await;
        let served = *served.lock().unwrap();
        (books.iter().map(|book| *book.lock().unwrap()).collect(), served)
    })
}

/// The part of the slots that a caller has a right to, if all others always want more.
fn share(callers: &[Asking], n: usize) -> f64 {
    let own = callers[n];
    let of_class = |urgency: u8| 2_f64.powi(7 - i32::from(urgency));
    let mut classes: Vec<_> = callers.iter().map(|asking| asking.urgency).collect();
    classes.sort_unstable();
    classes.dedup();
    let classes: f64 = classes.into_iter().map(of_class).sum();
    let beside = callers.iter().filter(|asking| asking.urgency == own.urgency);
    let beside: u32 = beside.map(|asking| asking.weight).sum();
    of_class(own.urgency) / classes * f64::from(own.weight) / f64::from(beside)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn under_overload_nobody_is_late_everybody_has_its_share_and_no_slot_is_lost(
        callers in prop::collection::vec(asking(), 2..8),
    ) {
        let books = live(&callers);
        for (n, (asking, book)) in callers.iter().zip(&books).enumerate() {
            prop_assert_eq!(book.late, 0, "caller {}", n);
            prop_assert_eq!(book.wrong_reason, None, "caller {}", n);
            // Who leaves is not always there. The others begin and end with a turn less.
            let due = share(&callers, n) * f64::from(SLOTS);
            let least = if asking.leaves.is_none() { (due / 2.0 - 1.0).max(due * 0.7 - 3.0) } else { 0.0 };
            prop_assert!(f64::from(book.served) >= least, "caller {} had {} of {}", n, book.served, due);
        }
        let in_flight: u8 =
            callers.iter().filter(|asking| asking.leaves.is_none()).map(|asking| asking.in_flight).sum();
        // As long as somebody always wants something, hardly a slot goes by.
        if in_flight >= 2 {
            let served: u32 = books.iter().map(|book| book.served).sum();
            prop_assert!(served >= SLOTS * 95 / 100, "{} of {}", served, SLOTS);
        }
    }
}

fn patient_for(wait_s: u32, urgency: u8, in_flight: u8) -> Asking {
    Asking {
        urgency,
        wait_s,
        in_flight,
        weight: 1,
        leaves: None,
        call_ms: 350,
        late_ms: 100,
    }
}

/// The inputs with which slots went by, and callers had too little, because turns were foretold as
/// if everybody who is told to come back were here already.
#[test]
fn short_waits_lose_no_slot_and_no_share() {
    let runs = [
        vec![patient_for(3, 2, 3), patient_for(3, 4, 4)],
        vec![
            patient_for(3, 3, 2),
            patient_for(3, 5, 2),
            patient_for(3, 0, 1),
            patient_for(3, 3, 1),
        ],
        vec![
            patient_for(3, 0, 4),
            patient_for(3, 4, 2),
            patient_for(3, 2, 2),
            patient_for(3, 0, 2),
            patient_for(3, 7, 4),
            patient_for(3, 3, 3),
        ],
    ];
    for callers in runs {
        let books = live(&callers);
        let served: u32 = books.iter().map(|book| book.served).sum();
        assert!(served >= SLOTS - 1, "{served} of {SLOTS}: {callers:?}");
        for (n, book) in books.iter().enumerate() {
            let due = share(&callers, n) * f64::from(SLOTS);
            assert!(
                f64::from(book.served) >= due - 3.0,
                "caller {n} had {} of {due}",
                book.served
            );
        }
    }
}

#[test]
fn a_caller_that_never_comes_back_costs_the_others_two_slots_at_most() {
    let crowds = [
        vec![patient_for(3, 2, 3), patient_for(3, 4, 3), patient_for(10, 3, 2)],
        vec![patient_for(3, 3, 3), patient_for(3, 3, 3)],
        vec![patient_for(20, 3, 10)],
    ];
    for callers in crowds {
        for urgency in [0, 3, 7] {
            // A hundred requests that are refused, once and ten times, every minute. Some of the
            // latter come when earlier ones are due, and count as these.
            for (every, most) in [(EVERY * SLOTS, 2), (60 * SECOND, 20)] {
                let burst = Burst {
                    urgency,
                    requests: 100,
                    every,
                };
                let (books, theirs) = live_beside(&callers, Some(burst));
                let used = books.iter().map(|book| book.served).sum::<u32>() + theirs;
                assert!(
                    used >= SLOTS - most,
                    "{used} of {SLOTS}: urgency {urgency}, {every:?}, {callers:?}"
                );
            }
        }
    }
}
