//! The machine of a replica is suspended: its stopwatch stands still, and the store's clock does not.

use std::time::Duration;

use super::members::Few;
use super::store::waiting;
use crate::clock;

const SECOND: Duration = Duration::from_secs(1);

/// A step of the only replica while the store's clock is ahead by so much.
fn step(few: &mut Few, nonce: &str, ahead: Duration) {
    let now = few.start + few.now;
    few.store.set(few.now + ahead, 1);
    let step = few.replicas[0].step(nonce.into(), false, now).unwrap();
    let reply = few.store.run(&step);
    few.replicas[0].on_reply(&reply, now, now);
}

#[test]
fn a_slot_in_hand_does_not_outlast_it() {
    for by in [Duration::ZERO, SECOND * 2] {
        let mut few = Few::new(1, None);
        let now = few.start + few.now;
        let wanted = waiting("A", 1);
        few.replicas[0].demand(&wanted, now);
        step(&mut few, "asks", Duration::ZERO);
        clock::suspend(by);
        assert_eq!(few.replicas[0].take(now).is_some(), by.is_zero(), "{by:?}");
    }
}

#[test]
fn a_slot_whose_grant_is_heard_of_after_it_is_not_used() {
    for has_looked in [false, true] {
        let mut few = Few::new(1, None);
        let now = few.start + few.now;
        few.replicas[0].demand(&waiting("A", 1), now);
        let step = few.replicas[0].step("asks".into(), false, now).unwrap();
        let reply = few.store.run(&step);
        assert_eq!(reply.granted.len(), 1);
        clock::suspend(SECOND * 2);
        if has_looked {
            assert!(few.replicas[0].take(now).is_none());
        }
        few.replicas[0].on_reply(&reply, now, now);
        assert!(few.replicas[0].take(now).is_none(), "{has_looked}");
    }
}

/// It is no slow store: slots are not kept for longer because of that.
#[test]
fn it_does_not_count_as_the_time_that_the_store_takes() {
    let mut few = Few::new(1, None);
    let now = few.start + few.now;
    let claim = |step: &str| serde_json::from_str::<serde_json::Value>(step).unwrap()["claim"].clone();
    let before = few.replicas[0].step("asks".into(), false, now).unwrap();
    let reply = few.store.run(&before);
    clock::suspend(SECOND * 3600);
    few.replicas[0].on_reply(&reply, now, now);
    let after = few.replicas[0].step("asks again".into(), false, now).unwrap();
    assert_eq!(claim(&after), claim(&before));
}

#[test]
fn the_stores_clock_is_not_taken_for_one_that_has_jumped() {
    for is_suspended in [true, false] {
        let mut few = Few::new(1, None);
        let epoch = few.epoch();
        let by = SECOND * 3;
        clock::suspend(if is_suspended { by } else { Duration::ZERO });
        for nonce in ["looks", "looks again"] {
            step(&mut few, nonce, by);
        }
        assert_eq!(few.epoch() == epoch, is_suspended);
    }
}

/// The store has ended its charge by itself long before, and has even forgotten it.
#[test]
fn a_call_that_is_made_after_it_counts_from_then_on() {
    for asleep in [60, 7200] {
        let mut few = Few::new(1, None);
        let now = few.start + few.now;
        few.replicas[0].demand(&waiting("A", 1), now);
        step(&mut few, "asks", Duration::ZERO);
        let slot = few.replicas[0].take(now).unwrap();
        few.replicas[0].demand(&waiting("A", 0), now);
        clock::suspend(SECOND * asleep);
        step(&mut few, "is a member again", SECOND * asleep);
        few.replicas[0].settle(slot.id.clone(), now);
        for nonce in ["tells", "tells again"] {
            step(&mut few, nonce, SECOND * asleep);
        }
        let [_, past, ..] = few.sharing.keys();
        let at: Option<f64> = few.store.ask(&["ZSCORE", &past, &slot.id]);
        let time: f64 = few.store.ask(&["GET", "clock"]);
        assert_eq!(at, Some(time), "after {asleep} s");
    }
}

/// The copy would otherwise be taken for one in which nothing is missing.
#[test]
fn the_copy_that_is_brought_back_is_as_old_as_it_is() {
    let mut few = Few::new(1, None);
    step(&mut few, "calls", Duration::ZERO);
    few.store.flush();
    clock::suspend(SECOND * 3600);
    step(&mut few, "finds nothing", SECOND * 3600);
    let now = few.start + few.now;
    let step = few.replicas[0].step("brings".into(), false, now).unwrap();
    let step: serde_json::Value = serde_json::from_str(&step).unwrap();
    assert_eq!(step["copy"]["age"], 3_600_000_000_u64, "{step}");
}
