//! Who the members are, as each replica knows it, and what a new epoch makes of it.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use super::store::{Store, waiting};
use crate::quota::shared::messages::SyncReply;
use crate::quota::shared::protocol::Protocol;
use crate::quota::shared::{Config, Timing};
use crate::quota::{self, Limit};
use crate::store::Address;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// Replicas whose steps a test takes one by one.
struct Few {
    store: Store,
    config: quota::Config,
    sharing: Config,
    replicas: Vec<Protocol>,
    start: Instant,
    now: Duration,
    steps: usize,
}

impl Few {
    /// Replicas that know each other.
    fn new(count: usize, mistake: Option<(&str, &str)>) -> Self {
        let limit = Limit::try_new(NonZeroU32::new(100).unwrap(), SECOND * 60).unwrap();
        let config = quota::Config::try_new(vec![limit], NonZeroU32::new(10).unwrap(), SECOND * 10).unwrap();
        let address = crate::store::Config::new(Address::parse("redis://h").unwrap(), SECOND);
        let sharing = Config::new(address, Timing::new(SECOND / 4), "test", "t", "a");
        let mut few = Self {
            store: Store::start(sharing.keys(), mistake),
            config,
            sharing,
            replicas: Vec::new(),
            start: Instant::now() + SECOND * 7200,
            now: Duration::ZERO,
            steps: 0,
        };
        (0..count).for_each(|_| few.join());
        for _ in 0..3 {
            (0..count).for_each(|n| few.step(n));
            few.now += Timing::new(SECOND / 4).merge;
        }
        few
    }

    fn join(&mut self) {
        let name = format!("r{}", self.replicas.len());
        let now = self.start + self.now;
        self.replicas
            .push(Protocol::new(name, &self.config, &self.sharing, now));
    }

    fn ask(&mut self, n: usize) -> (String, SyncReply) {
        let now = self.start + self.now;
        self.store.set(self.now, 1);
        self.steps += 1;
        let step = self.replicas[n].step(self.steps.to_string(), false, now).unwrap();
        let reply = self.store.run(&step);
        (step, reply)
    }

    fn step(&mut self, n: usize) {
        self.now += MS;
        let (_, reply) = self.ask(n);
        let now = self.start + self.now;
        self.replicas[n].on_reply(&reply, now, now);
    }

    /// A step of which nobody hears what came of it. Returns what it said.
    fn lose(&mut self, n: usize) -> String {
        self.now += MS;
        let (step, _) = self.ask(n);
        self.replicas[n].on_error(self.start + self.now);
        step
    }

    fn members(&self, n: usize) -> usize {
        self.replicas[n].copy.members.len()
    }

    /// Whether a replica that asks is granted a slot by its next step.
    fn is_granted(&mut self, n: usize) -> bool {
        let now = self.start + self.now;
        let wanted = waiting(&self.replicas[n].terms.me, 1);
        self.replicas[n].demand(&wanted, now);
        self.step(n);
        let slot = self.replicas[n].take(self.start + self.now);
        slot.is_some()
    }
}

#[test]
fn who_has_left_and_come_back_is_a_member() {
    let lease = Timing::new(SECOND / 4).lease;
    let mut few = Few::new(3, None);
    (0..3).for_each(|n| few.step(n));
    few.now += lease / 5 * 4;
    few.step(0);
    few.step(2);
    // The lease of the second ends, and it comes back, before the first looks.
    few.now += SECOND * 2;
    few.step(2);
    few.step(1);
    few.step(1);
    few.step(0);
    few.step(2);
    assert_eq!([0, 1, 2].map(|n| few.members(n)), [3, 3, 3]);
}

#[test]
fn members_that_know_each_other_need_not_say_so_again_after_a_flush() {
    for count in [3, 20] {
        let mut few = Few::new(count, None);
        few.store.flush();
        // Each finds out, and brings its copy; those that are asked for the whole bring it.
        (0..3).for_each(|_| (0..count).for_each(|n| few.step(n)));
        assert!(few.is_granted(count - 1), "the first step after that");
    }
}

/// One that comes is not known to a replica that has not looked since, so it is granted nothing
/// after a flush before that replica has said that it knows it.
#[test]
fn who_is_not_known_to_all_is_granted_nothing_after_a_flush_before_all_have_said_so() {
    let granted = |mistake: Option<(&str, &str)>| {
        let mut few = Few::new(3, mistake);
        few.join();
        few.step(3);
        few.step(3);
        few.step(0);
        few.step(1);
        assert_eq!([0, 1, 2, 3].map(|n| few.members(n)), [4, 4, 3, 4]);
        few.store.flush();
        // All have brought their copies, and nobody has stepped since.
        (0..2).for_each(|_| (0..4).for_each(|n| few.step(n)));
        few.is_granted(3)
    };
    assert!(!granted(None));
    assert!(
        granted(Some((
            "complete and state.copies == state.same and state.of or nil",
            "state.of"
        ))),
        "a planted mistake"
    );
}

#[test]
fn of_many_replicas_whose_steps_are_lost_few_bring_their_whole_copies() {
    let count = 40;
    let mut few = Few::new(count, None);
    few.store.flush();
    (0..count).for_each(|n| few.step(n));
    let whole = (0..3)
        .flat_map(|_| 0..count)
        .filter(|&n| few.lose(n).contains("\"members\":"))
        .count();
    assert_eq!(
        whole, 0,
        "whoever does not know that it was asked brings its own charges again"
    );
    let mut whole = 0;
    for _ in 0..3 {
        for n in 0..count {
            few.now += MS;
            let (step, reply) = few.ask(n);
            whole += usize::from(step.contains("\"members\":"));
            let now = few.start + few.now;
            few.replicas[n].on_reply(&reply, now, now);
        }
    }
    assert!((1..=4).contains(&whole), "{whole} of {count} brought the whole ledger");
    assert!(few.is_granted(0));
}
