//! Members of different versions, as during a rolling upgrade.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use super::store::{Store, waiting};
use crate::quota::shared::state::State;
use crate::quota::shared::step::Reply;
use crate::quota::shared::{Config, Timing};
use crate::quota::{self, Limit};
use crate::store::Address;

const SECOND: Duration = Duration::from_secs(1);

struct Bench {
    store: Store,
    sharing: Config,
    member: State,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let limit = Limit::try_new(NonZeroU32::new(2).unwrap(), SECOND * 10).unwrap();
        let config = quota::Config::try_new(vec![limit], NonZeroU32::new(2).unwrap(), SECOND).unwrap();
        let store = crate::store::Config::new(Address::parse("redis://h").unwrap(), SECOND);
        let sharing = Config::new(store, Timing::new(SECOND), "test", "t", "a");
        let now = Instant::now();
        let mut member = State::new("r1".into(), &config, &sharing, now);
        member.demand(waiting(1), now);
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
    fn step(&mut self, change: impl FnOnce(&mut serde_json::Value)) -> Reply {
        let step = self.member.step("nonce".into(), false, self.now).unwrap();
        let mut json = serde_json::from_str(&step).unwrap();
        change(&mut json);
        self.store.run(&json.to_string())
    }

    /// Takes steps until it is a member: the first two begin an epoch and join it. The name of the ledger's key.
    fn joined(&mut self) -> String {
        let now = self.now;
        for _ in 0..3 {
            let reply = self.step(|_| {});
            self.member.heard(&reply, now, now);
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
    assert_eq!((reply.other.as_deref(), reply.granted), (Some("v0"), 0));
    let state = bench.sharing.keys()[0].clone();
    assert_eq!(bench.store.ask::<i64>(&["EXISTS", &state]), 0);

    bench.store.command(&["DEL", &format]);
    assert_eq!(bench.step(|_| {}).other, None);
    // The other version waits until no call of ours can be in a window any more.
    let left: u64 = bench.store.ask(&["PTTL", &format]);
    assert!((11_000..60_000).contains(&left), "{left}");
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

#[test]
fn a_member_that_does_not_tell_what_it_promises_is_taken_to_want_all_it_can_get() {
    let mut bench = Bench::new();
    let key = bench.joined();
    let older = "local state = cmsgpack.unpack(redis.call('GET', KEYS[1])) state.members.r0 = { joined = 0, call = 1, pass = 0, \
                 want = 1, weight = 3, seen = 99, lease = state.last + 9000000 } \
                 redis.call('SET', KEYS[1], cmsgpack.pack(state)) return 1";
    bench.store.command(&["EVAL", older, "1", &key]);
    let reply = bench.step(|_| {});
    assert_eq!(reply.wants, [(-1.0, 3.0)]);
    assert!(reply.promised.is_empty());
}
