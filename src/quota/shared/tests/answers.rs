//! Answers that a replica does not hear, and answers that the script would never give.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use super::store::{Store, waiting};
use crate::attempt::FlowDemand;
use crate::quota::shared::protocol::{Protocol, Slot};
use crate::quota::shared::{Config, SyncReply, Timing};
use crate::quota::{self, Limit, ThrottleHint};
use crate::store::Address;

const SECOND: Duration = Duration::from_secs(1);

/// Two replicas that know each other, and an unused quota.
pub(super) struct Pair {
    store: Store,
    /// That of the ledger.
    key: String,
    replicas: Vec<Protocol>,
    start: Instant,
    now: Instant,
}

impl Pair {
    /// With this mistake in the script, if any.
    pub(super) fn new(mistake: Option<(&str, &str)>) -> Self {
        let limit = Limit::try_new(NonZeroU32::new(50).unwrap(), SECOND * 60).unwrap();
        let config = quota::Config::try_new(vec![limit], NonZeroU32::new(50).unwrap(), SECOND * 10).unwrap();
        let address = crate::store::Config::new(Address::parse("redis://h").unwrap(), SECOND);
        let sharing = Config::new(address, Timing::new(SECOND), "test", "t", "a");
        let start = Instant::now() + SECOND * 7200;
        let replica = |n| Protocol::new(format!("r{n}"), &config, &sharing, start);
        let mut pair = Self {
            store: Store::start(sharing.keys(), mistake),
            key: sharing.ledger_key(),
            replicas: (0..2).map(replica).collect(),
            start,
            now: start,
        };
        pair.pass(60, [true, true]);
        pair
    }

    fn step(&mut self, n: usize, is_heard: bool) {
        let now = self.now;
        self.store.set(now - self.start, 1);
        let step = self.replicas[n].step(format!("{n} {now:?}"), false, now).unwrap();
        let reply = self.store.run(&step);
        if is_heard {
            self.replicas[n].on_reply(&reply, now, now);
        } else {
            self.replicas[n].on_error(now);
        }
    }

    /// So many seconds, in each of which both take steps and hear the answers, or do not.
    fn pass(&mut self, seconds: usize, are_heard: [bool; 2]) {
        for _ in 0..seconds {
            self.now += SECOND;
            for n in [0, 1] {
                self.step(n, are_heard[n]);
                self.step(n, are_heard[n]);
            }
        }
    }

    /// The slots that a replica has at once when this waits there.
    pub(super) fn slots(&mut self, n: usize, wanted: &Vec<FlowDemand>) -> Vec<Slot> {
        let now = self.now;
        self.replicas[n].demand(wanted, now);
        self.step(n, true);
        std::iter::from_fn(|| self.replicas[n].take(now)).collect()
    }

    /// A replica has not used this slot, and says so twice, because it does not hear the first
    /// answer.
    pub(super) fn give_back(&mut self, n: usize, slot: Slot) {
        self.replicas[n].refund(slot, self.now);
        // It asks for no slot until it has heard an answer.
        self.replicas[n].on_error(self.now);
        for is_heard in [false, true] {
            self.step(n, is_heard);
        }
    }

    /// The first replica makes a call, which is answered with a 429. The store is not told yet.
    fn refuse_one(&mut self) {
        let refused = self.slots(0, &waiting("a", 1)).pop().unwrap();
        let now = self.now;
        self.slots(0, &Vec::new());
        self.replicas[0].throttle(refused.id, ThrottleHint::default(), now);
    }
}

#[test]
fn a_refusal_that_is_told_again_is_no_second_one() {
    let mut pair = Pair::new(None);
    pair.refuse_one();
    pair.pass(6, [false, true]);
    // Meanwhile the other replica has found out that the pause is over.
    let probe = pair.slots(1, &waiting("b", 9));
    assert_eq!(probe.len(), 1, "one call finds out");
    let now = pair.now;
    pair.replicas[1].settle(probe[0].id.clone(), now);
    pair.step(1, true);
    // The one that was refused is heard again.
    pair.step(0, true);
    assert_eq!(pair.replicas[0].quota_state(now).paused_until(), None);
    assert_eq!(pair.slots(1, &waiting("b", 9)).len(), 2, "the slow start goes on");
}

/// The probe's call is never heard of again, and nobody makes another.
#[test]
fn refusals_whose_end_nobody_tells_are_forgotten() {
    const LEFT: &str = "local state = cmsgpack.unpack(redis.call('GET', KEYS[1])) \
                        return (state.foreign and 1 or 0) + (state.told and 1 or 0) + (state.gate and 1 or 0)";
    let mut pair = Pair::new(None);
    pair.refuse_one();
    pair.pass(6, [true, true]);
    assert_eq!(pair.slots(1, &waiting("b", 9)).len(), 1);
    pair.slots(1, &Vec::new());
    let key = pair.key.clone();
    for (seconds, left) in [(0, 3), (20, 2), (60, 0)] {
        pair.pass(seconds, [true, true]);
        assert_eq!(pair.store.ask::<u64>(&["EVAL", LEFT, "1", &key]), left, "{seconds}");
    }
}

/// What one caller wants: so many requests wait, and one is expected back at `due`.
fn flow(waiting: usize, due: Option<Instant>) -> FlowDemand {
    FlowDemand {
        waiting,
        returning: usize::from(due.is_some()),
        dues: due.into_iter().collect(),
        ..self::waiting("a", 1).remove(0)
    }
}

/// A replica that did not come for its slot in time tells anew what waits there. That its caller is
/// expected back at the other one is as true as before.
#[test]
fn who_is_told_of_anew_has_not_come_back() {
    let mut pair = Pair::new(None);
    let unused = pair.slots(0, &waiting("first", 50)).pop().unwrap();
    let due = pair.now + SECOND * 3 / 2;
    pair.slots(0, &vec![flow(0, Some(due))]);
    assert!(pair.slots(1, &vec![flow(1, None)]).is_empty(), "all is used up");
    pair.replicas[0].refund(unused, pair.now);
    pair.step(0, true);
    pair.now += SECOND;
    pair.step(0, true);
    pair.step(1, true);
    assert_eq!(pair.slots(1, &vec![flow(1, None)]).len(), 1);
    pair.step(0, true);
    let back = &pair.replicas[0].order.back;
    assert!(back.is_empty(), "{back:?}");
    // But a further one is taken for the one that was told to come.
    pair.slots(1, &vec![flow(2, None)]);
    pair.step(0, true);
    assert_eq!(pair.replicas[0].order.back.len(), 1);
}

/// One is expected here and comes to the other replica. The first answer that says so is lost.
#[test]
fn who_came_back_elsewhere_is_told_until_that_is_heard_and_no_longer() {
    let mut pair = Pair::new(None);
    assert_eq!(pair.slots(0, &waiting("first", 50)).len(), 50, "all is used up");
    let due = pair.now + SECOND / 2;
    pair.slots(0, &vec![flow(0, Some(due))]);
    assert!(pair.slots(1, &vec![flow(1, None)]).is_empty());
    for (is_heard, told) in [(false, 0), (false, 0), (true, 1), (true, 1), (false, 1), (true, 1)] {
        pair.step(0, is_heard);
        assert_eq!(pair.replicas[0].order.back.len(), told);
    }
}

fn replica(now: Instant) -> Protocol {
    let minute = Duration::from_mins(1);
    let limit = Limit::try_new(NonZeroU32::new(100).unwrap(), minute).unwrap();
    let config = quota::Config::try_new(vec![limit], NonZeroU32::MIN, minute).unwrap();
    let store = crate::store::Config::new(Address::parse("redis://h").unwrap(), minute);
    let sharing = Config::new(store, Timing::new(minute), "p", "t", "a");
    Protocol::new("me".into(), &config, &sharing, now)
}

#[tokio::test(start_paused = true)]
async fn no_more_slots_are_taken_than_were_asked_for_whatever_the_store_grants() {
    let now = Instant::now();
    let mut state = replica(now);
    let hear = |state: &mut Protocol, reply: &str| {
        state.demand(&waiting("me", 3), now);
        state.step("n".into(), false, now).unwrap();
        let reply: SyncReply = serde_json::from_str(reply).unwrap();
        let _ = state.on_reply(&reply, now, now);
        std::iter::from_fn(|| state.take(now))
            .map(|slot| slot.id)
            .collect::<Vec<_>>()
    };
    hear(&mut state, r#"{"epoch":"e","stale":true}"#);
    let lie = r#"{"epoch":"e","granted":["a","b","c","d","e"],"foreign":18446744073709551615}"#;
    let mut names = hear(&mut state, lie);
    assert_eq!(names.len(), 3);
    names.extend(hear(&mut state, lie));
    assert_eq!(names.len(), 6);
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 6, "each has a name of its own");
}

#[tokio::test(start_paused = true)]
async fn a_forecast_ends_whatever_the_store_says_of_others() {
    let now = Instant::now();
    let mut state = replica(now);
    let hear = |state: &mut Protocol, reply: &str| {
        state.step("n".into(), false, now).unwrap();
        let reply: SyncReply = serde_json::from_str(reply).unwrap();
        let _ = state.on_reply(&reply, now, now);
    };
    hear(&mut state, r#"{"epoch":"e","stale":true}"#);
    let others =
        vec![r#"["3a",-1,1e300,1e300,1,-1e300],["7",1e300,-1e300,1,0,1e300],["x",1,1,1,1,0],["",1,1,1,1,0]"#; 1000]
            .join(",");
    let classes = vec!["[1e300,1,1],[-1,1e300,1],[3,-1e300,1e300]"; 100].join(",");
    hear(
        &mut state,
        &format!(r#"{{"epoch":"e","others":[{others}],"classes":[{classes}],"positions":[1e300,-1e300]}}"#),
    );
    assert!(state.order.others.len() <= 128 && state.order.classes.len() <= 8);
    assert!(
        state
            .order
            .others
            .iter()
            .all(|flow| flow.waiting <= 1_000_000 && flow.weight >= 1)
    );
    let mut slots = std::collections::VecDeque::new();
    state.forecast(now, 1000, &mut slots);
    assert_eq!(slots.len(), 1000);
    assert!(slots.iter().is_sorted());
}

/// The store fills the bucket when the epoch opens; until then it tells of no tokens.
#[tokio::test(start_paused = true)]
async fn while_an_epoch_is_opened_what_the_bucket_holds_then_is_foretold() {
    let now = Instant::now();
    let mut state = replica(now);
    let mut foretold = |reply: &str, count: usize| {
        state.step("n".into(), false, now).unwrap();
        let reply: SyncReply = serde_json::from_str(reply).unwrap();
        let _ = state.on_reply(&reply, now, now);
        let mut slots = std::collections::VecDeque::new();
        state.forecast(now, count, &mut slots);
        slots
    };
    let burst = replica(now).quota_state(now).pace.burst();
    let slots = foretold(r#"{"epoch":"e","stale":true}"#, burst + 1);
    assert_eq!(slots.partition_point(|slot| *slot == now), burst, "it may be open");
    // Late enough for who is sent away to be told of these slots.
    let opening = now + Duration::from_millis(1500 + 1300);
    let slots = foretold(r#"{"epoch":"e","merging":1500000}"#, burst + 1);
    assert_eq!(slots.front(), Some(&opening));
    assert_eq!(slots.partition_point(|slot| *slot == opening), burst);
    let slots = foretold(r#"{"epoch":"e","level":0,"rate":0,"plan":0}"#, 1);
    assert!(slots[0] > now, "what the store says counts");
}

/// More refusals than the script used to remember: told again, all of them would be new again.
#[test]
fn as_many_refusals_as_a_burst_holds_are_known_when_they_are_told_again() {
    let mut pair = Pair::new(None);
    let refused = pair.slots(0, &waiting("a", 40));
    assert_eq!(refused.len(), 40);
    let now = pair.now;
    pair.slots(0, &Vec::new());
    for slot in refused {
        pair.replicas[0].throttle(slot.id, ThrottleHint::default(), now);
    }
    pair.pass(6, [false, true]);
    let probe = pair.slots(1, &waiting("b", 9));
    assert_eq!(probe.len(), 1, "one call finds out");
    let now = pair.now;
    pair.replicas[1].settle(probe[0].id.clone(), now);
    pair.step(1, true);
    pair.step(0, true);
    assert_eq!(pair.slots(1, &waiting("b", 9)).len(), 2, "the slow start goes on");
}

#[test]
fn a_slot_that_goes_back_is_no_call() {
    let mut pair = Pair::new(None);
    let taken = pair.slots(0, &waiting("a", 3));
    assert_eq!(taken.len(), 3);
    let now = pair.now;
    pair.replicas[0].refund(taken[0].clone(), now);
    assert_eq!(pair.replicas[0].snapshot(now).calls, 2);
    // Slots that nobody took were never calls.
    pair.replicas[0].demand(&waiting("a", 2), now);
    pair.step(0, true);
    pair.replicas[0].demand(&Vec::<FlowDemand>::new(), now);
    assert_eq!(pair.replicas[0].snapshot(now).calls, 2);
}

#[test]
fn lost_calls_do_not_slow_down_those_after_a_refusal() {
    let mut pair = Pair::new(None);
    pair.refuse_one();
    pair.pass(6, [true, true]);
    let probe = pair.slots(1, &waiting("b", 9)).pop().unwrap();
    let now = pair.now;
    pair.replicas[1].settle(probe.id, now);
    for _ in 0..5 {
        let lost = pair.slots(1, &waiting("b", 9));
        assert_eq!(lost.len(), 2, "few at once, and at once");
        let now = pair.now;
        for slot in lost {
            pair.replicas[1].lose(slot.id, now);
        }
    }
}

/// A loss counts once, however often it is told, and not at all when the call is from before the
/// refusal.
#[test]
fn no_more_calls_leave_after_a_refusal_than_were_lost_since() {
    let mut pair = Pair::new(None);
    let mut earlier = pair.slots(0, &waiting("a", 9));
    let refused = earlier.pop().unwrap();
    let now = pair.now;
    pair.slots(0, &Vec::new());
    pair.replicas[0].throttle(refused.id, ThrottleHint::default(), now);
    pair.pass(6, [true, true]);
    let probe = pair.slots(1, &waiting("b", 9)).pop().unwrap();
    let now = pair.now;
    pair.replicas[1].settle(probe.id, now);
    let mut later = pair.slots(1, &waiting("b", 9));
    assert_eq!(later.len(), 2);
    for slot in earlier {
        pair.replicas[0].lose(slot.id, now);
    }
    pair.step(0, true);
    assert!(pair.slots(1, &waiting("b", 9)).is_empty(), "those were from before");
    pair.replicas[1].lose(later.remove(0).id, now);
    pair.step(1, false);
    pair.step(1, true);
    assert_eq!(pair.slots(1, &waiting("b", 9)).len(), 1, "one was lost");
}

/// The store begins an epoch in the middle of a slow start.
#[test]
fn an_epoch_does_not_end_a_slow_start() {
    let mut pair = Pair::new(None);
    pair.refuse_one();
    pair.pass(6, [true, true]);
    let probe = pair.slots(1, &waiting("b", 9));
    assert_eq!(probe.len(), 1);
    let now = pair.now;
    pair.replicas[1].settle(probe[0].id.clone(), now);
    pair.slots(1, &Vec::new());
    pair.store.evict(6);
    pair.pass(4, [true, true]);
    assert_eq!(pair.slots(1, &waiting("b", 9)).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_copy_of_a_ledger_without_an_end_is_bounded() {
    let now = Instant::now() + Duration::from_hours(2);
    let mut state = replica(now);
    let mut hear = |from: usize, name: &str| {
        let many = || (from..from + 20_000).map(|n| format!("{name}{n}"));
        let news: Vec<_> = many().map(|id| (id, 2, 0)).collect();
        let joined: Vec<_> = many().collect();
        state.step("n".into(), false, now).unwrap();
        let reply = serde_json::json!({"epoch": "e", "news": news, "joined": joined});
        let _ = state.on_reply(&serde_json::from_value(reply).unwrap(), now, now);
        state.copy.size()
    };
    hear(0, "an epoch begins");
    hear(0, "a");
    let full = hear(20_000, "b");
    assert_eq!(hear(40_000, "c"), full, "nothing grows");
    assert_eq!(hear(60_000, &"long".repeat(1000)), full);
}
