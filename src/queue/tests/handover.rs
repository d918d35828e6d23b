//! Every interleaving of coming, leaving, slots coming free, and the clock task's turns: no wake-up
//! is lost.

use std::pin::Pin;

use super::*;
use crate::queue::Refused;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A request comes.
    Enter,
    /// The first request in line leaves, perhaps with a slot just put into its hand.
    Leave,
    /// Time passes until the next slot is due.
    Pass,
    /// A slot comes free earlier than last said.
    Free,
    /// The first slot held goes back unused.
    Return,
    /// The first slot held is used.
    Use,
    /// Those in line look whether their turn has come.
    Look,
    /// The clock task gets to run.
    Run,
}

const STEPS: [Step; 8] = [
    Step::Enter,
    Step::Leave,
    Step::Pass,
    Step::Free,
    Step::Return,
    Step::Use,
    Step::Look,
    Step::Run,
];

/// Between two slots.
const EVERY: Duration = Duration::from_secs(2);

type Turn = Pin<Box<dyn Future<Output = Result<Slot, Refused>>>>;

struct World {
    queue: Queue<Clockwork>,
    clockwork: Clockwork,
    line: Vec<Turn>,
    held: Vec<Slot>,
}

impl World {
    async fn step(&mut self, step: Step) {
        match step {
            Step::Enter => {
                let queue = self.queue.clone();
                let name = ["a", "b"][self.line.len() % 2];
                let turn = async move { queue.turn(&attempt(name, 3, 30 * SECOND)).await };
                self.line.push(Box::pin(turn));
                self.look_from(self.line.len() - 1).await;
            }
            Step::Leave if !self.line.is_empty() => drop(self.line.remove(0)),
            Step::Pass => tokio::time::advance(EVERY).await,
            Step::Free => self.clockwork.pause_until(Instant::now()),
            Step::Return if !self.held.is_empty() => drop(self.held.remove(0)),
            Step::Use if !self.held.is_empty() => self.held.remove(0).used(),
            Step::Look => self.look_from(0).await,
            Step::Run => tokio::task::yield_now().await,
            Step::Leave | Step::Return | Step::Use => {}
        }
    }

    async fn look_from(&mut self, first: usize) {
        let mut index = first;
        while index < self.line.len() {
            match futures_util::poll!(&mut self.line[index]) {
                std::task::Poll::Ready(turn) => {
                    self.held.extend(turn);
                    drop(self.line.remove(index));
                }
                std::task::Poll::Pending => index += 1,
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_wake_up_is_lost_in_any_interleaving() {
    const LENGTH: u32 = 5;
    for number in 0..STEPS.len().pow(LENGTH) {
        let steps: Vec<Step> = (0..LENGTH)
            .map(|place| STEPS[number / STEPS.len().pow(place) % STEPS.len()])
            .collect();
        // Fresh tasks: the clocks of finished worlds must not pile up.
        let own = Tasks::new();
        let (queue, clockwork) = queue(EVERY, &own);
        let mut world = World {
            queue,
            clockwork,
            line: Vec::new(),
            held: Vec::new(),
        };
        // The first slot is gone: whoever comes now waits.
        world.step(Step::Enter).await;
        world.step(Step::Use).await;
        world.step(Step::Enter).await;
        for step in &steps {
            world.step(*step).await;
        }
        for _ in 0..3 {
            tokio::task::yield_now().await;
            world.look_from(0).await;
        }
        let free = PermitSource::take(&world.clockwork, Instant::now()).is_ok();
        assert!(
            !free || world.line.is_empty(),
            "a slot is free and somebody waits: {steps:?}"
        );
        assert_eq!(world.queue.snapshot().waiting, world.line.len(), "{steps:?}");
        drop(world);
        own.finish(SECOND).await;
    }
}
