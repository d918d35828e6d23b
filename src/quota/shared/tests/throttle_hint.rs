//! After a 429, and beside a neighbour, with two replicas: in virtual time, with the real script.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use super::store::{Store, waiting};
use crate::quota::shared::protocol::{Protocol, Slot};
use crate::quota::shared::{Config, Timing};
use crate::quota::tests::Rng;
use crate::quota::{self, Limit, Pacing, ThrottleHint};
use crate::store::Address;

pub(super) const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
pub(super) const TOOK: Duration = Duration::from_millis(200);
/// What the refusal says that probes follow.
pub(super) const PAUSE: Duration = Duration::from_secs(8);

/// True sliding windows over everybody's accepted calls; in storms ours are refused for no reason.
#[derive(Default)]
pub(super) struct Upstream {
    accepted: VecDeque<Instant>,
    pub(super) storms: Vec<(Instant, Instant, Option<u64>, usize)>,
    /// What share of ours is refused for no reason, and until when.
    random: Option<(f64, Instant, Rng)>,
}

impl Upstream {
    fn ours(&mut self, now: Instant) -> Result<(), ThrottleHint> {
        for (from, to, wait, left) in &mut self.storms {
            if *from <= now && now < *to && *left > 0 {
                *left -= 1;
                let wait = wait.map(Duration::from_secs);
                return Err(ThrottleHint { window: None, wait });
            }
        }
        if let Some((share, until, rng)) = &mut self.random
            && now < *until
            && rng.chance(*share)
        {
            return Err(ThrottleHint::default());
        }
        self.arrive(now)
    }

    fn arrive(&mut self, now: Instant) -> Result<(), ThrottleHint> {
        let mut refusal = ThrottleHint::default();
        for (calls, window) in [(100, MINUTE), (1500, HOUR)] {
            let oldest = self.accepted.len().checked_sub(calls).map(|index| self.accepted[index]);
            if let Some(at) = oldest.filter(|at| *at + window > now) {
                let wait = Duration::from_secs((at + window - now).as_secs() + 1);
                refusal = ThrottleHint {
                    window: Some(window),
                    wait: Some(wait),
                };
            }
        }
        if refusal.wait.is_some() {
            return Err(refusal);
        }
        self.accepted.push_back(now);
        Ok(())
    }
}

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallEnd {
    Accepted,
    Refused(ThrottleHint),
    /// It left, and nothing is heard of it.
    Lost,
    /// It did not leave.
    NotSent,
    /// Its replica dies with it.
    Killed,
}

pub(super) struct World {
    store: Store,
    replicas: Vec<Protocol>,
    pending_calls: VecDeque<(Instant, usize, String, CallEnd)>,
    /// How the first calls end after a refusal's [`PAUSE`]; later ones reach the upstream.
    pub(super) ends: VecDeque<CallEnd>,
    /// When those calls left.
    pub(super) unanswered: Vec<Instant>,
    /// The replica that takes no steps any more.
    dead: Option<usize>,
    pub(super) upstream: Upstream,
    start: Instant,
    now: Instant,
    pub(super) ours: Vec<Instant>,
    pub(super) refused: Vec<Instant>,
    /// Requests that wait at each replica.
    waiting: usize,
}

impl World {
    /// Two replicas for whom callers always wait.
    pub(super) fn new() -> Self {
        Self::paced(Pacing::Spread)
    }

    fn paced(pacing: Pacing) -> Self {
        let limit = |calls, window| Limit::try_new(NonZeroU32::new(calls).unwrap(), window).unwrap();
        let limits = vec![limit(100, MINUTE), limit(1500, HOUR)];
        let config = quota::Config::try_new(limits, NonZeroU32::new(100).unwrap(), MINUTE).unwrap();
        let config = config.pacing(pacing);
        let address = crate::store::Config::new(Address::parse("redis://h").unwrap(), SECOND);
        let sharing = Config::new(address, Timing::new(SECOND), "test", "t", "a");
        let start = Instant::now() + HOUR * 2;
        let replica = |n| Protocol::new(format!("r{n}"), &config, &sharing, start);
        let mut world = Self {
            store: Store::start(sharing.keys(), None),
            replicas: (0..2).map(replica).collect(),
            pending_calls: VecDeque::new(),
            ends: VecDeque::new(),
            unanswered: Vec::new(),
            dead: None,
            upstream: Upstream::default(),
            start,
            now: start,
            ours: Vec::new(),
            refused: Vec::new(),
            waiting: 4,
        };
        world.ask(4);
        world
    }

    /// So many requests wait at each replica from now on.
    fn ask(&mut self, requests: usize) {
        self.waiting = requests;
        for replica in &mut self.replicas {
            replica.demand(&waiting(&replica.terms.me, requests), self.now);
        }
    }

    /// A neighbour of 750 calls an hour until then; returns when they were accepted.
    fn pass_beside_neighbour(&mut self, end: Instant, rng: &mut Rng) -> Vec<Instant> {
        let (mut theirs, mut next) = (Vec::new(), self.now);
        loop {
            next += Duration::from_secs_f64(-4.8 * (1.0 - rng.roll()).max(1e-9).ln());
            if next >= end {
                return theirs;
            }
            self.pass_until(next);
            if self.upstream.arrive(next).is_ok() {
                theirs.push(next);
            }
        }
    }

    fn hours<'a>(&self, of: &'a [Instant], hour: u32) -> impl Iterator<Item = &'a Instant> {
        let hours = self.start + HOUR * hour..self.start + HOUR * (hour + 1);
        of.iter().filter(move |at| hours.contains(at))
    }

    pub(super) fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    pub(super) fn pass_until(&mut self, end: Instant) {
        loop {
            self.settle_down();
            let alive = (0..2).filter(|n| self.dead != Some(*n));
            let looks = alive.map(|n| self.replicas[n].next_look(self.now));
            let answer = self.pending_calls.front().map(|(at, ..)| *at);
            let next = looks
                .chain(answer)
                .min()
                .unwrap()
                .max(self.now + Duration::from_millis(1));
            if next > end {
                self.now = end;
                return;
            }
            self.now = next;
        }
    }

    fn settle_down(&mut self) {
        for _ in 0..100 {
            while let Some((_, n, id, answer)) = self.pending_calls.pop_front_if(|(at, ..)| *at <= self.now) {
                match answer {
                    _ if self.dead == Some(n) => {}
                    CallEnd::Accepted => self.replicas[n].settle(id, self.now),
                    CallEnd::Refused(told) => self.replicas[n].throttle(id, told, self.now),
                    CallEnd::Lost => self.replicas[n].lose(id, self.now),
                    CallEnd::NotSent => self.replicas[n].refund(Slot { id, flow: None }, self.now),
                    CallEnd::Killed => self.dead = Some(n),
                }
            }
            let due = (0..2).find(|n| self.dead != Some(*n) && self.replicas[*n].next_look(self.now) <= self.now);
            let Some(n) = due else { return };
            self.step(n);
        }
        panic!("the replicas take steps without an end");
    }

    fn step(&mut self, n: usize) {
        self.store.set(self.now - self.start, 1);
        let now = self.now;
        let step = self.replicas[n].step(format!("{n}"), false, now).unwrap();
        let reply = self.store.run(&step);
        self.replicas[n].on_reply(&reply, now, now);
        while let Some(slot) = self.replicas[n].take(now) {
            let end = self.call_end(now);
            self.pending_calls.push_back((now + TOOK, n, slot.id, end));
        }
        let wanted = waiting(&self.replicas[n].terms.me, self.waiting);
        self.replicas[n].demand(&wanted, now);
        for (name, at) in self.store.wakes() {
            for (n, replica) in self.replicas.iter_mut().enumerate() {
                if name == "*" {
                    replica.wake_all(now);
                } else if name == format!("r{n}") {
                    replica.wake(at, now);
                }
            }
        }
    }

    /// What becomes of a call that leaves now.
    fn call_end(&mut self, now: Instant) -> CallEnd {
        if self.refused.first().is_some_and(|at| *at + PAUSE <= now)
            && let Some(end) = self.ends.pop_front()
        {
            self.unanswered.push(now);
            return end;
        }
        match self.upstream.ours(now) {
            Ok(()) => {
                self.ours.push(now);
                CallEnd::Accepted
            }
            Err(told) => {
                self.refused.push(now);
                CallEnd::Refused(told)
            }
        }
    }

    fn between(&self, from: Instant, to: Instant) -> usize {
        self.ours.iter().filter(|at| from <= **at && **at < to).count()
    }

    fn fives(&self, from: u64, count: u32) -> Vec<usize> {
        let five = MINUTE * 5;
        let from = self.at(from);
        (0..count)
            .map(|n| self.between(from + five * n, from + five * (n + 1)))
            .collect()
    }

    /// The longest time without an accepted call of ours that began in that hour.
    fn gap(&self, hour: u32) -> Duration {
        let hours = self.start + HOUR * hour..self.start + HOUR * (hour + 1);
        let pairs = self.ours.windows(2).filter(|pair| hours.contains(&pair[0]));
        pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or(HOUR)
    }

    /// What both replicas are told of others.
    fn estimate(&self) -> u64 {
        let told: Vec<u64> = self
            .replicas
            .iter()
            .map(|replica| replica.quota_state(self.now).foreign(self.now))
            .collect();
        assert!(
            told[0].abs_diff(told[1]) <= 30,
            "one estimate, told in the last seconds: {told:?}"
        );
        told[0]
    }
}

#[test]
fn one_bare_refusal_in_saturation_costs_all_replicas_seconds() {
    let mut world = World::new();
    world.upstream.storms = vec![(world.at(5000), world.at(5060), None, 1)];
    world.pass_until(world.at(7200));
    assert_eq!(world.refused.len(), 1);
    let probe = world.ours.iter().find(|at| **at > world.refused[0]).unwrap();
    assert!(*probe - world.refused[0] <= SECOND * 10);
    let fives = world.fives(5300, 6);
    println!("{fives:?}");
    assert!(fives.iter().all(|calls| *calls >= 119), "{fives:?}");
    assert!(world.estimate() <= 30);
}

#[test]
fn after_a_storm_all_replicas_are_back_in_minutes() {
    let mut world = World::new();
    world.upstream.storms = vec![
        (world.at(900), world.at(1200), Some(5), 9999),
        (world.at(1500), world.at(1530), Some(0), 9999),
    ];
    world.pass_until(world.at(3600));
    let fives = world.fives(1200, 8);
    println!("{fives:?}, {} refused", world.refused.len());
    // One probe at a time, of all replicas.
    assert!(world.refused.len() <= 60, "{}", world.refused.len());
    assert!(fives[2..].iter().all(|calls| *calls >= 110), "{fives:?}");
    assert_eq!(world.estimate(), 0);
}

#[test]
fn replicas_beside_a_greedy_neighbour_share_one_estimate() {
    let mut world = World::new();
    let end = world.at(4 * 3600);
    let theirs = world.pass_beside_neighbour(end, &mut Rng::new(5));
    let count = |of: &[Instant], hour| world.hours(of, hour).count();
    for hour in 0..4 {
        println!(
            "{} + {}, {} refused, gap {:?}",
            count(&world.ours, hour),
            count(&theirs, hour),
            count(&world.refused, hour),
            world.gap(hour)
        );
    }
    let estimate = world.estimate();
    println!("estimate {estimate}");
    // Since the latest refusal it has been shrinking, to find out.
    assert!((350..=900).contains(&estimate), "{estimate}");
    let mut total = 0;
    for hour in 1..4 {
        // The neighbour's calls are random, 27 more or less in an hour, and those that it does not
        // make nobody can know of before the hour is over. Of 18 hours of other random neighbours
        // all but one had more than 97 % of what was to be had; here the last one has 96.4.
        let all = count(&world.ours, hour) + count(&theirs, hour);
        let had = 1500 - 750_usize.saturating_sub(count(&theirs, hour));
        assert!(all * 100 >= had * 96, "{all} calls of {had} in hour {hour}");
        total += all;
    }
    assert!(total >= 3 * 1455, "{total} calls in three hours");
    assert!(world.gap(3) <= MINUTE * 2);
    assert!(world.refused.len() * 100 <= world.ours.len(), "{}", world.refused.len());
}

#[test]
fn an_estimate_of_replicas_ends_with_time_though_nobody_calls() {
    let mut world = World::new();
    world.upstream.accepted = vec![world.now; 1500].into();
    world.pass_until(world.at(60));
    world.ask(0);
    world.pass_until(world.at(3500));
    assert_eq!(world.estimate(), 1350);
    world.pass_until(world.at(3 * 3600));
    assert_eq!(world.estimate(), 0, "who filled the hour has not come again");
}

#[test]
fn refusals_at_random_do_not_lower_the_pace_of_replicas() {
    let mut world = World::new();
    world.upstream.random = Some((0.02, world.at(3 * 3600), Rng::new(11)));
    world.pass_until(world.at(3 * 3600 + 1800));
    let hours: Vec<_> = (0..3).map(|hour| world.hours(&world.ours, hour).count()).collect();
    let fives = world.fives(3 * 3600, 6);
    println!("{hours:?}, {fives:?}, {} refused", world.refused.len());
    assert!(hours.iter().all(|calls| *calls >= 1410), "{hours:?}");
    assert!(fives[1..].iter().all(|calls| *calls >= 115), "{fives:?}");
    assert_eq!(world.estimate(), 0);
}

/// An export that comes an hour after a neighbour: see the test of one process. Here there is no
/// end of requests, so that every slot is used at once, however many calls are in flight.
#[test]
fn without_pacing_the_estimate_still_restrains_replicas() {
    let mut world = World::paced(Pacing::None);
    world.ask(0);
    let mut rng = Rng::new(6);
    let mut theirs = world.pass_beside_neighbour(world.at(3600), &mut rng);
    assert!(world.ours.is_empty());
    world.ask(4);
    theirs.extend(world.pass_beside_neighbour(world.at(3 * 3600), &mut rng));
    let first = world.fives(3600, 1)[0];
    // The neighbour has its part of each minute; spread out it would be 190.
    assert!(first >= 330, "{first} calls in the first five minutes");
    for hour in 1..3 {
        let count = |of: &[Instant]| world.hours(of, hour).count();
        let (ours, theirs, refused) = (count(&world.ours), count(&theirs), count(&world.refused));
        println!("{ours} + {theirs}, {refused} refused, gap {:?}", world.gap(hour));
        assert!(ours + theirs >= 1425, "{ours} + {theirs} in hour {hour}");
        assert!(refused <= 120, "{refused} refused in hour {hour}");
        assert!(world.gap(hour) <= MINUTE * 5, "{:?}", world.gap(hour));
    }
}
