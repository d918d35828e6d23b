//! What callers of several replicas are promised, and whether it is kept: in virtual time, with the real script.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use super::store::Store;
use crate::attempt::Demand;
use crate::quota::shared::state::State;
use crate::quota::shared::{Config, Timing};
use crate::quota::{self, Limit};
use crate::store::Address;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const WAIT: Duration = Duration::from_secs(30);

/// How long a call takes.
const TOOK: Duration = Duration::from_millis(200);

/// A replica, and a line of callers who all wait equally long.
struct Replica {
    state: State,
    /// By when each is to be served, ascending.
    line: VecDeque<(Instant, u64)>,
    turns_away: bool,
    flying: VecDeque<(Instant, String)>,
    promised: usize,
    refused: usize,
    served: usize,
    broken: usize,
}

struct Fleet {
    store: Store,
    replicas: Vec<Replica>,
    start: Instant,
    now: Instant,
}

impl Fleet {
    /// Replicas that know each other, and an unused quota.
    fn new(count: usize) -> Self {
        let limit = |calls, window| Limit::try_new(NonZeroU32::new(calls).unwrap(), window).unwrap();
        let limits = vec![limit(100, SECOND * 10), limit(3000, SECOND * 600)];
        let config = quota::Config::try_new(limits, NonZeroU32::new(100).unwrap(), SECOND * 10).unwrap();
        let address = crate::store::Config::new(Address::parse("redis://h").unwrap(), SECOND);
        let sharing = Config::new(address, Timing::new(SECOND / 4), "test", "t", "a");
        let start = Instant::now() + SECOND * 7200;
        let replica = |n| Replica {
            state: State::new(format!("r{n}"), &config, &sharing, start),
            line: VecDeque::new(),
            turns_away: false,
            flying: VecDeque::new(),
            promised: 0,
            refused: 0,
            served: 0,
            broken: 0,
        };
        let mut fleet = Self {
            store: Store::start(sharing.keys(), None),
            replicas: (0..count).map(replica).collect(),
            start,
            now: start,
        };
        fleet.pass(SECOND * 5);
        fleet
    }

    /// So many callers come to a replica at once.
    fn come(&mut self, n: usize, callers: usize) {
        let replica = &mut self.replicas[n];
        for _ in 0..callers {
            let mut slots = VecDeque::new();
            replica.state.forecast(self.now, replica.line.len() + 1, &mut slots);
            let deadline = self.now + WAIT;
            if slots[replica.line.len()] > deadline {
                replica.refused += 1;
                replica.turns_away = !replica.line.is_empty();
                continue;
            }
            replica.promised += 1;
            replica.line.push_back((deadline, 0));
            replica.tell(self.now);
        }
        self.settle_down();
    }

    /// Time passes.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle_down();
            let looks = self.replicas.iter().map(|replica| replica.next(self.now));
            let next = looks.min().unwrap().max(self.now + MS);
            if next > end {
                break;
            }
            self.now = next;
        }
        self.now = end;
        self.settle_down();
    }

    /// Everything that is due now.
    fn settle_down(&mut self) {
        for _ in 0..100 {
            let mut is_quiet = true;
            for n in 0..self.replicas.len() {
                self.replicas[n].answers(self.now);
                if self.replicas[n].state.next_look(self.now) <= self.now {
                    is_quiet = false;
                    self.step(n);
                }
            }
            if is_quiet {
                return;
            }
        }
        panic!("the replicas take steps without an end");
    }

    fn step(&mut self, n: usize) {
        self.store.set(self.now - self.start, 1);
        let now = self.now;
        let step = self.replicas[n].state.step(format!("{n} {:?}", now - self.start), false, now).unwrap();
        let reply = self.store.run(&step);
        self.replicas[n].state.heard(&reply, now, now);
        self.replicas[n].heard(now);
        let woken = self.store.wakes();
        for (n, replica) in self.replicas.iter_mut().enumerate() {
            replica.state.woken |= woken.iter().any(|name| name == "*" || *name == format!("r{n}"));
        }
    }

    fn total(&self, count: impl Fn(&Replica) -> usize) -> usize {
        self.replicas.iter().map(count).sum()
    }
}

impl Replica {
    fn tell(&mut self, now: Instant) {
        self.turns_away &= !self.line.is_empty();
        let demand = Demand {
            waiting: self.line.len(),
            callers: usize::from(!self.line.is_empty()),
            promised: self.line.make_contiguous(),
            turns_away: self.turns_away,
            flows: None,
        };
        self.state.demand(demand, now);
    }

    fn answers(&mut self, now: Instant) {
        while let Some((_, id)) = self.flying.pop_front_if(|(at, _)| *at <= now) {
            self.state.settle(id, now);
        }
    }

    fn next(&self, now: Instant) -> Instant {
        let answer = self.flying.front().map(|(at, _)| *at);
        answer.into_iter().chain([self.state.next_look(now)]).min().unwrap()
    }

    /// Those who cannot be served in time any more are told.
    fn give_up(&mut self, now: Instant) {
        let mut slots = VecDeque::new();
        self.state.forecast(now, self.line.len(), &mut slots);
        let (before, mut kept) = (self.line.len(), 0);
        self.line.retain(|(deadline, _)| {
            let in_time = slots[kept] <= *deadline + SECOND;
            kept += usize::from(in_time);
            in_time
        });
        self.broken += before - kept;
    }

    fn heard(&mut self, now: Instant) {
        while !self.line.is_empty()
            && let Some(id) = self.state.take(now)
        {
            let (deadline, _) = self.line.pop_front().unwrap();
            self.flying.push_back((now + TOOK, id));
            self.served += 1;
            self.broken += usize::from(now > deadline + SECOND);
        }
        self.give_up(now);
        self.tell(now);
    }
}

/// Eight replicas that have used the burst up, and know it.
fn busy() -> Fleet {
    let mut fleet = Fleet::new(8);
    for n in 0..8 {
        fleet.come(n, 13);
        fleet.pass(SECOND);
    }
    assert!(fleet.total(|replica| replica.served) >= 100);
    fleet.pass(SECOND * 2);
    fleet
}

impl Fleet {
    fn table(&self) -> String {
        let row = |replica: &Replica| {
            format!(
                "promised {}, refused {}, served {}, not kept {}\n",
                replica.promised, replica.refused, replica.served, replica.broken
            )
        };
        self.replicas.iter().map(row).collect()
    }

    /// At most so many of a hundred promises were not kept.
    fn assert_kept(&self, all_but: usize) {
        let (broken, promised) = (
            self.total(|replica| replica.broken),
            self.total(|replica| replica.promised),
        );
        assert!(
            broken * 100 <= promised * all_but,
            "{broken} of {promised} promises were not kept"
        );
    }
}

#[test]
fn who_wants_much_is_promised_what_others_who_want_little_leave() {
    let mut fleet = busy();
    for n in 1..8 {
        fleet.come(n, 1);
    }
    fleet.pass(SECOND);
    let before = fleet.replicas[0].promised;
    fleet.come(0, 200);
    let promised = fleet.replicas[0].promised - before;
    // 188 slots come in that time; an eighth of them would be a fair share if all wanted as much.
    assert!(promised >= 180, "{promised}");
    fleet.pass(WAIT * 2);
    fleet.assert_kept(0);
}

#[test]
fn what_was_promised_is_kept_though_others_come_to_want_as_much() {
    let mut fleet = busy();
    fleet.come(0, 140);
    for n in 1..8 {
        fleet.pass(SECOND);
        fleet.come(n, 100);
    }
    fleet.pass(WAIT * 2);
    for replica in &fleet.replicas {
        println!(
            "promised {}, refused {}, broken {}",
            replica.promised, replica.refused, replica.broken
        );
    }
    fleet.assert_kept(1);
}

#[test]
fn a_replica_that_turns_callers_away_is_given_as_much_as_others_that_do() {
    let mut fleet = busy();
    let served = |fleet: &Fleet| -> Vec<usize> { fleet.replicas[..3].iter().map(|replica| replica.served).collect() };
    let mut before = Vec::new();
    for second in 0..120 {
        if second == 45 {
            // What the busiest was promised while the others wanted little is served.
            before = served(&fleet);
        }
        fleet.come(0, 20);
        fleet.come(1, 3);
        fleet.come(2, 3);
        fleet.pass(SECOND);
    }
    println!("{}", fleet.table());
    let counts: Vec<_> = served(&fleet)
        .iter()
        .zip(before)
        .map(|(now, before)| now - before)
        .collect();
    // 75 seconds, 4.83 slots in each.
    assert!(counts.iter().all(|count| (103..140).contains(count)), "{counts:?}");
    // All three want the slots that come next, and hear of each other twice a second: some are promised twice.
    fleet.assert_kept(4);
}

/// How many of fifty callers on four replicas are served within three seconds after the store was emptied.
fn served_after_a_flush(before: usize) -> usize {
    let mut fleet = Fleet::new(4);
    for n in 0..4 {
        fleet.come(n, before / 4);
    }
    fleet.pass(SECOND * 3);
    let served = fleet.total(|replica| replica.served);
    fleet.store.flush();
    for n in 0..4 {
        fleet.come(n, if n < 2 { 13 } else { 12 });
    }
    fleet.pass(SECOND * 3);
    fleet.total(|replica| replica.served) - served
}

#[test]
fn after_the_store_was_emptied_who_waits_is_served_at_once_where_the_windows_have_room() {
    assert_eq!(served_after_a_flush(0), 50);
    assert_eq!(served_after_a_flush(40), 50);
    // What the copies say is used up stays used up.
    assert_eq!(served_after_a_flush(100), 0);
}
