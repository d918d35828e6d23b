//! Who the members are, as each replica knows it, what a new epoch makes of it, and members of
//! different versions, as during a rolling upgrade.

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
pub(super) struct Few {
    pub(super) store: Store,
    config: quota::Config,
    pub(super) sharing: Config,
    pub(super) replicas: Vec<Protocol>,
    pub(super) start: Instant,
    pub(super) now: Duration,
    steps: usize,
}

impl Few {
    /// Replicas that know each other.
    pub(super) fn new(count: usize, mistake: Option<(&str, &str)>) -> Self {
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
        self.join_as(&format!("r{}", self.replicas.len()));
    }

    pub(super) fn join_as(&mut self, name: &str) {
        let now = self.start + self.now;
        self.replicas
            .push(Protocol::new(name.to_owned(), &self.config, &self.sharing, now));
    }

    fn ask(&mut self, n: usize) -> (String, SyncReply) {
        let now = self.start + self.now;
        self.store.set(self.now, 1);
        self.steps += 1;
        let step = self.replicas[n].step(self.steps.to_string(), false, now).unwrap();
        let reply = self.store.run(&step);
        (step, reply)
    }

    pub(super) fn step(&mut self, n: usize) {
        self.now += MS;
        let (_, reply) = self.ask(n);
        let now = self.start + self.now;
        self.replicas[n].on_reply(&reply, now, now);
    }

    /// The last step of a replica that stops.
    pub(super) fn leave(&mut self, n: usize) {
        let now = self.start + self.now;
        self.store.set(self.now, 1);
        let step = self.replicas[n].step("leaves".into(), true, now).unwrap();
        self.store.run(&step);
    }

    /// A step of which nobody hears what came of it. Returns what it said.
    fn lose(&mut self, n: usize) -> String {
        self.now += MS;
        let (step, _) = self.ask(n);
        self.replicas[n].on_error(self.start + self.now);
        step
    }

    /// The epoch that the store is in.
    pub(super) fn epoch(&mut self) -> String {
        let [state, ..] = self.sharing.keys();
        let read = "return cmsgpack.unpack(redis.call('GET', KEYS[1])).epoch";
        self.store.ask(&["EVAL", read, "1", &state])
    }

    fn members(&self, n: usize) -> usize {
        self.replicas[n].copy.members.len()
    }

    /// Whether a replica that asks is granted a slot by its next step.
    pub(super) fn is_granted(&mut self, n: usize) -> bool {
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

/// It hears of all members when it is told that it is one again: who left meanwhile is no longer
/// listed among those that are gone.
#[test]
fn who_is_a_member_again_by_a_step_that_was_not_answered_keeps_no_name_of_those_who_left() {
    let lease = Timing::new(SECOND / 4).lease;
    let mut few = Few::new(4, None);
    (0..4).for_each(|n| few.step(n));
    for _ in 0..4 {
        few.now += lease / 2;
        (0..2).for_each(|n| few.step(n));
    }
    few.lose(2);
    few.step(2);
    assert_eq!(few.members(2), 3, "the fourth is gone");
}

#[test]
fn the_ledger_goes_on_in_a_store_whose_memory_is_full() {
    let mut few = Few::new(2, None);
    let now = few.start + few.now;
    let wanted = waiting(&few.replicas[0].terms.me, 1);
    few.replicas[0].demand(&wanted, now);
    few.store.set(few.now, 1);
    few.store.command(&["CONFIG", "SET", "maxmemory", "1"]);
    // The clock stands still, or setting it would be refused.
    for n in [0, 1, 1] {
        let (_, reply) = few.ask(n);
        few.replicas[n].on_reply(&reply, now, now);
    }
    assert!(few.replicas[0].take(now).is_some());
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

/// A member, and its store.
struct Bench {
    store: Store,
    sharing: Config,
    member: Protocol,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let limit = Limit::try_new(NonZeroU32::new(2).unwrap(), SECOND * 10).unwrap();
        let config = quota::Config::try_new(vec![limit], NonZeroU32::new(2).unwrap(), SECOND).unwrap();
        let config = config.remembering(0, Duration::ZERO);
        let store = crate::store::Config::new(Address::parse("redis://h").unwrap(), SECOND);
        let sharing = Config::new(store, Timing::new(SECOND), "test", "t", "a");
        let now = Instant::now();
        let mut member = Protocol::new("r1".into(), &config, &sharing, now);
        member.demand(&waiting(&member.terms.me, 1), now);
        let mut store = Store::start(sharing.keys(), None);
        store.set(Duration::ZERO, 1);
        Self {
            store,
            sharing,
            member,
            now,
        }
    }

    /// One step, changed on its way by `change`.
    fn step(&mut self, change: impl FnOnce(&mut serde_json::Value)) -> SyncReply {
        let step = self.member.step("nonce".into(), false, self.now).unwrap();
        let mut json = serde_json::from_str(&step).unwrap();
        change(&mut json);
        self.store.run(&json.to_string())
    }

    /// Takes steps until it is a member: the first two begin an epoch and join it. The name of the
    /// ledger's key.
    fn joined(&mut self) -> String {
        let now = self.now;
        for _ in 0..3 {
            let reply = self.step(|_| {});
            self.member.on_reply(&reply, now, now);
        }
        self.sharing.keys()[0].clone()
    }

    fn format(&self) -> String {
        self.sharing.keys()[4].clone()
    }
}

#[test]
fn a_member_of_another_format_is_granted_nothing_and_changes_nothing() {
    let mut bench = Bench::new();
    let format = bench.format();
    bench.store.command(&["SET", &format, "v0"]);
    let reply = bench.step(|_| {});
    assert_eq!((reply.other.as_deref(), reply.granted.len()), (Some("v0"), 0));
    let state = bench.sharing.keys()[0].clone();
    assert_eq!(bench.store.ask::<i64>(&["EXISTS", &state]), 0);

    bench.store.command(&["DEL", &format]);
    assert_eq!(bench.step(|_| {}).other, None);
    // The other version waits until no call of ours can be in a window any more.
    let left: u64 = bench.store.ask(&["PTTL", &format]);
    assert!((11_000..60_000).contains(&left), "{left}");

    // A ledger that everybody has left ends at its time, whoever is refused meanwhile.
    bench.store.command(&["PEXPIRE", &state, "5000000"]);
    bench.store.command(&["SET", &format, "v0"]);
    assert_eq!(bench.step(|_| {}).other.as_deref(), Some("v0"));
    assert!(bench.store.ask::<i64>(&["PTTL", &state]) > 0);
}

#[test]
fn members_of_one_format_share_whatever_more_they_know() {
    let mut bench = Bench::new();
    let key = bench.joined();
    let newer = "local state = cmsgpack.unpack(redis.call('GET', KEYS[1])) state.novel = 'kept' \
                 redis.call('SET', KEYS[1], cmsgpack.pack(state)) return state.epoch";
    let epoch: String = bench.store.ask(&["EVAL", newer, "1", &key]);
    let reply = bench.step(|step| step["novel"] = 1.into());
    assert_eq!(
        (reply.epoch, reply.stale),
        (epoch, false),
        "neither is taken for damage"
    );
    let read = "return cmsgpack.unpack(redis.call('GET', KEYS[1])).novel";
    assert_eq!(bench.store.ask::<String>(&["EVAL", read, "1", &key]), "kept");
}

/// The script of the format before this one, for a replica named `old` that wants so many slots;
/// how many it gets.
fn old_step(bench: &mut Bench, call: u64, want: usize, epoch: &str) -> serde_json::Value {
    let step = serde_json::json!({
        "format": "v1", "quiet": 13_000, "me": "old", "limits": [{"calls": 2, "window": 10_000_000, "hold": 10_100_000}], "burst": 2,
        "attempt": 2_000_000, "keep": 10_100_000, "most": 2, "ttl": 60_000, "lease": 3_000_000, "window": 1_500_000, "claim": 150_000,
        "past": "empty", "longest_pause": 3_600_000_000_u64, "epoch": epoch, "nonce": format!("n{call}"), "call": call, "next": call * 10,
        "want": want, "weight": 1, "promised": [], "gen": 1, "seq": 0, "landing": 100_000,
    });
    let keys = bench.sharing.keys();
    let keys = [&keys[16], &keys[17], &keys[18], &keys[19], &keys[4]];
    let script = Store::moved(include_str!("v1.lua")).replace("'PUBLISH', STATE", "'SADD', 'wakes'");
    let step = step.to_string();
    let mut words = vec!["EVAL", &script, "5"];
    words.extend(keys.map(String::as_str));
    words.push(&step);
    serde_json::from_str(&bench.store.ask::<String>(&words)).unwrap()
}

/// A replica of the format before this one makes so many calls.
fn old_calls(bench: &mut Bench, calls: usize) {
    let epoch = old_step(bench, 1, 0, "")["epoch"].as_str().unwrap().to_owned();
    bench.store.set(SECOND * 3, 1);
    old_step(bench, 2, 0, &epoch);
    let granted = old_step(bench, 3, calls, &epoch);
    assert_eq!(granted["granted"].as_u64(), Some(calls as u64), "{granted}");
}

#[test]
fn the_ledger_of_the_format_before_is_taken_over_and_its_replicas_grant_nothing_more() {
    let mut bench = Bench::new();
    old_calls(&mut bench, 1);
    bench.now += SECOND * 3;
    let now = bench.now;
    let mut granted = 0;
    bench.member.demand(&waiting(&bench.member.terms.me, 2), now);
    for _ in 0..6 {
        let reply = bench.step(|_| {});
        bench.member.on_reply(&reply, now, now);
        granted += std::iter::from_fn(|| bench.member.take(now)).count();
    }
    assert_eq!(granted, 1, "of the two calls one was made before");
    let reply = old_step(&mut bench, 4, 1, "");
    assert_eq!(
        (reply["other"].as_str(), reply["granted"].as_u64()),
        (Some("v2"), None),
        "{reply}"
    );
    let before = bench.sharing.keys()[17].clone();
    assert_eq!(bench.store.ask::<i64>(&["EXISTS", &before]), 0);
}

#[test]
fn a_ledger_of_the_format_before_that_may_have_lost_calls_is_not_taken_over() {
    let mut bench = Bench::new();
    old_calls(&mut bench, 2);
    let pending_calls = bench.sharing.keys()[18].clone();
    bench.store.command(&["DEL", &pending_calls]);
    let reply = bench.step(|_| {});
    assert_eq!((reply.other.as_deref(), reply.granted.len()), (Some("v1"), 0));
}
