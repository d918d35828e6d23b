//! The order played forward: who would be served too late?

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, btree_set};
use std::time::Duration;

use tokio::time::Instant;

use super::class::Class;
use super::competitors::{Expected, of_class};
use super::position::Standing;
use super::{FairScheduler, class_stride};
use crate::attempt::FlowDemand;
use crate::caller::Urgency;

/// Most slots that are played, for each request that waits and besides: further on everything will
/// be another way.
const STEPS_EACH: usize = 4;
const STEPS: usize = 1024;

/// What a play comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Played {
    /// The tickets whose turn comes too late.
    pub late: Vec<Late>,
    /// So many more requests may go before everybody else without making anybody late.
    pub spare: usize,
}

/// How many slots come in time for a deadline.
#[derive(Clone, Copy, Debug)]
pub struct InTime {
    /// Until the deadline.
    pub wanted: usize,
    /// Until it is too late.
    pub tolerated: usize,
}

/// A ticket whose turn comes too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    /// The ticket.
    pub id: u64,
    /// The number of the slot at which its turn would come, from 0.
    pub rank: usize,
}

/// The tickets of a caller that does not wait.
static NONE: BTreeSet<(Instant, u64)> = BTreeSet::new();

/// A caller in the play.
struct Player<'a> {
    stride: u64,
    tickets: btree_set::Iter<'a, (Instant, u64)>,
    next: Option<(Instant, u64)>,
    /// Requests of the same caller that wait at other queues, by deadlines that are not known.
    elsewhere: usize,
    expected: Expected,
    /// Requests that it has made since its last that waits.
    asked: usize,
}

/// A class in the play.
struct Stage<'a> {
    tag: u64,
    stride: u64,
    players: Vec<Player<'a>>,
    /// By who is next: tag, turn, and which player it is.
    next: BinaryHeap<Reverse<(u64, u64, usize)>>,
    turns: u64,
}

/// What a turn comes to.
enum Turn {
    /// With so many slots to spare.
    Served(usize),
    /// To a request that waits at another queue, or to one that is only expected.
    Taken,
    Late(u64),
    Gone,
}

impl<'a> Stage<'a> {
    fn of(class: &'a Class, level: u8, now: u64, others: &[FlowDemand]) -> Self {
        let mut stage = Self {
            tag: class.start(now),
            stride: class_stride(level),
            players: Vec::with_capacity(class.flows.len()),
            next: BinaryHeap::with_capacity(class.flows.len()),
            turns: u64::MAX / 2,
        };
        for (name, flow) in &class.flows {
            let of_caller = of_class(others, level).filter(|other| other.caller == *name);
            let elsewhere = of_caller.map(|other| other.waiting).sum();
            stage.enter(flow.standing(), &flow.tickets, elsewhere, flow.expected);
        }
        for idle in class.idle.values().filter(|idle| idle.expected.loops > 0) {
            stage.enter(class.standing_of_idle(idle), &NONE, 0, idle.expected);
        }
        for other in of_class(others, level).filter(|other| !class.flows.contains_key(&other.caller)) {
            stage.enter(
                class.standing_of_other(other),
                &NONE,
                other.waiting,
                Expected::of(other),
            );
        }
        stage
    }

    fn enter(
        &mut self,
        standing: Standing,
        tickets: &'a BTreeSet<(Instant, u64)>,
        elsewhere: usize,
        expected: Expected,
    ) {
        let mut tickets = tickets.iter();
        let next = tickets.next().copied();
        self.next
            .push(Reverse((standing.tag, standing.turn, self.players.len())));
        self.players.push(Player {
            stride: standing.stride,
            tickets,
            next,
            elsewhere,
            expected,
            asked: 0,
        });
    }

    /// The next turn, with a slot that comes in so long; `spare` says how many slots a deadline has
    /// to spare, if it is met.
    fn turn(&mut self, elapsed: Duration, spare: impl Fn(Instant) -> Option<usize>) -> Turn {
        let Some(Reverse((tag, turn, index))) = self.next.pop() else {
            return Turn::Gone;
        };
        let player = &mut self.players[index];
        // Of a caller's requests here and elsewhere, in turn, those of which there are more.
        let is_elsewhere = player.elsewhere > player.tickets.len() + usize::from(player.next.is_some());
        let outcome = if is_elsewhere {
            player.elsewhere -= 1;
            Turn::Taken
        } else if let Some((deadline, id)) = player.next {
            player.next = player.tickets.next().copied();
            let Some(spare) = spare(deadline) else {
                self.next.push(Reverse((tag, turn, index)));
                return Turn::Late(id);
            };
            Turn::Served(spare)
        } else {
            let can_ask = player.expected.loops > 0 && player.asked < player.expected.asks_within(elapsed);
            if !can_ask {
                return Turn::Gone;
            }
            player.asked += 1;
            Turn::Taken
        };
        self.turns += 1;
        self.next.push(Reverse((tag + player.stride, self.turns, index)));
        self.tag += self.stride;
        outcome
    }
}

impl FairScheduler {
    /// Lets those take their turns who wait now, here and at other queues, and those who ask again
    /// whenever they are answered. `after` says how long from now a slot comes, by its number, and
    /// `in_time` how many come in time for a deadline. Who is late does not use up a slot.
    pub fn play(
        &self,
        others: &[FlowDemand],
        after: impl Fn(usize) -> Duration,
        in_time: impl Fn(Instant) -> InTime,
    ) -> Played {
        let mut stages: Vec<_> = (0_u8..)
            .zip(&self.classes)
            .map(|(level, class)| Stage::of(class, level, self.now, others))
            .collect();
        let (mut left, mut late, mut smallest) = (self.len(), Vec::new(), usize::MAX);
        let (mut rank, end) = (0, self.len().saturating_mul(STEPS_EACH) + STEPS);
        while left > 0 && rank < end {
            let playing = stages.iter_mut().filter(|stage| !stage.next.is_empty());
            let Some(stage) = playing.min_by_key(|stage| (stage.tag, stage.stride)) else {
                break;
            };
            let spare = |deadline| {
                let InTime { wanted, tolerated } = in_time(deadline);
                (tolerated > rank).then(|| wanted.saturating_sub(rank + 1))
            };
            match stage.turn(after(rank), spare) {
                Turn::Served(spare) => {
                    smallest = smallest.min(spare);
                    left -= 1;
                    rank += 1;
                }
                Turn::Taken => rank += 1,
                Turn::Late(id) => {
                    left -= 1;
                    late.push(Late { id, rank });
                }
                Turn::Gone => {}
            }
        }
        // Nothing is known of those who were not come to.
        let spare = if left > 0 { 0 } else { smallest };
        Played { late, spare }
    }

    /// The ticket that is served last if nobody else comes, or nearly so: the last of the class
    /// whose last turn is furthest.
    pub fn last(&self) -> Option<u64> {
        let waiting = (0_u8..).zip(&self.classes).filter(|(_, class)| class.waiting > 0);
        let last_turn = |(level, class): &(u8, &Class)| class.tag + class_stride(*level) * (class.waiting as u64 - 1);
        let (level, _) = waiting.max_by_key(|class| (last_turn(class), class.0))?;
        let class = self.class(Urgency::new(level)?);
        let flows = class.flows.values();
        let last = flows.max_by_key(|flow| (flow.tag + flow.stride * (flow.tickets.len() as u64 - 1), flow.turn))?;
        last.tickets.last().map(|(_, id)| *id)
    }
}
