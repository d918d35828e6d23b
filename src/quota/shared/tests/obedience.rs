//! Callers of several replicas that all come back when they are told to: none of the slots stays
//! unused while they are away, and nobody is refused for ever.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::queue_fixture::{Fleet, SECOND, ask, asking, fleet};
use crate::queue::Weights;
use crate::task::Tasks;

/// What callers do that ask one after another, each once and by a name of its own.
#[derive(Clone, Copy, Debug)]
struct World {
    replicas: usize,
    /// Between two of them.
    gap: Duration,
    callers: usize,
    /// How long they may wait, in turn.
    waits: &'static [u32],
    /// How many replicas further they come back.
    moves: usize,
}

/// What became of them.
#[derive(Debug, Default)]
struct Outcome {
    /// When each was served, counted from when the first asked.
    served: Vec<Duration>,
    /// How often each was refused.
    refusals: Vec<usize>,
}

/// Nobody is refused more often.
const MOST_REFUSALS: usize = 1;

/// Ten calls in ten seconds, and from the first on two seconds apart.
const LIMITS: [(u32, Duration); 2] = [(10, Duration::from_secs(10)), (150, Duration::from_mins(5))];

async fn obey(world: World) -> Outcome {
    let tasks = Tasks::new();
    let Fleet { queues, .. } = fleet(world.replicas, &LIMITS, &Weights::default(), &tasks).await;
    // The burst is used up.
    let first = join_all((0..10).map(|n| ask_once(&queues[0], n, &tasks))).await;
    assert!(first.into_iter().all(|is_served| is_served));
    let start = Instant::now();
    let callers = (0..world.callers).map(|n| {
        let (queues, tasks) = (&queues, &tasks);
        async move {
            tokio::time::sleep(world.gap * u32::try_from(n).unwrap()).await;
            let me = asking(format!("caller {n}"), 3, world.waits[n % world.waits.len()], &[]);
            let mut refusals = 0;
            while start.elapsed() < SECOND * 300 {
                let queue = &queues[(n + refusals * world.moves) % queues.len()];
                match ask(queue, &me, tasks).await {
                    Ok(()) => return (start.elapsed(), refusals),
                    Err(refused) => {
                        refusals += 1;
                        tokio::time::sleep(SECOND * u32::try_from(refused.retry_after_s()).unwrap() + SECOND / 50)
                            .await;
                    }
                }
            }
            (SECOND * 999, refusals)
        }
    });
    let (mut served, refusals): (Vec<_>, Vec<_>) = join_all(callers).await.into_iter().unzip();
    served.sort();
    tasks.finish(Duration::ZERO).await;
    Outcome { served, refusals }
}

/// Each slot is used as soon as it comes, wherever those are told to come back who are refused, and
/// one replica alone would have used no more.
#[test]
fn no_slot_stays_unused_while_those_are_away_who_were_told_to_come_back() {
    let waits: [&'static [u32]; 5] = [&[0], &[2], &[10], &[60], &[0, 2, 10, 60]];
    let places = [(2, 0), (3, 0), (2, 1), (3, 1)];
    for (waits, gap) in waits
        .into_iter()
        .zip([1100, 1100, 1300, 900, 1700].map(Duration::from_millis))
    {
        let world = |(replicas, moves)| World {
            replicas,
            gap,
            callers: 36,
            waits,
            moves,
        };
        let alone = run(world((1, 0)));
        for place in places {
            let world = world(place);
            let outcome = run(world);
            let last = |outcome: &Outcome| outcome.served.last().copied().unwrap();
            let most = outcome.refusals.iter().max().unwrap();
            let again = outcome.refusals.iter().filter(|refusals| **refusals > 1).count();
            println!(
                "{world:?}: {:?} of {:?}, {again} again, {most} most",
                last(&outcome),
                last(&alone)
            );
            assert!(last(&outcome) <= last(&alone).mul_f64(1.05), "{world:?}: {outcome:?}");
            assert!(*most <= MOST_REFUSALS, "{world:?}: {outcome:?}");
        }
    }
}

fn run(world: World) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(obey(world))
}

async fn ask_once(queue: &crate::queue::Queue<super::queue_fixture::Part>, n: usize, tasks: &Tasks) -> bool {
    ask(queue, &asking(format!("first {n}"), 3, 5, &[]), tasks)
        .await
        .is_ok()
}
