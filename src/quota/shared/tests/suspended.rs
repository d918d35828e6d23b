//! The machine of a replica is suspended: its stopwatch stands still, and the store's clock does not.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::members::Few;
use super::store::waiting;
use crate::attempt::{Delivery, Failure, RetryHint};
use crate::clock;
use crate::middleware::Middleware as _;
use crate::quota::shared::Replica;
use crate::quota::tests::layer::{admitted_with, below, charging};
use crate::quota::{Permit, ThrottleHint};

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

/// When a charge counts, and what time it is at the store.
fn counts_at(few: &mut Few, id: &str) -> (Option<f64>, f64) {
    let [_, past, ..] = few.sharing.keys();
    (few.store.ask(&["ZSCORE", &past, id]), few.store.ask(&["GET", "clock"]))
}

/// Steps say it again until one is answered. It would otherwise count from then on.
#[test]
fn a_call_that_was_answered_before_it_counts_from_its_answer_on() {
    for is_refused in [false, true] {
        let mut few = Few::new(1, None);
        let now = few.start + few.now;
        few.replicas[0].demand(&waiting("A", 1), now);
        step(&mut few, "asks", Duration::ZERO);
        let slot = few.replicas[0].take(now).unwrap();
        few.replicas[0].demand(&waiting("A", 0), now);
        if is_refused {
            few.replicas[0].throttle(slot.id.clone(), ThrottleHint::default(), now);
        } else {
            few.replicas[0].settle(slot.id.clone(), now);
        }
        let (_, answered) = counts_at(&mut few, &slot.id);
        clock::suspend(SECOND * 5);
        step(&mut few, "tells", SECOND * 5);
        assert_eq!(counts_at(&mut few, &slot.id).0, Some(answered), "{is_refused}");
    }
}

/// A replica whose charges end as they do in the gateway, and its slot, at the time of the test.
async fn with_permit(few: &mut Few) -> (Arc<Replica>, Permit, String) {
    let now = few.start + few.now;
    tokio::time::advance(now - Instant::now()).await;
    few.replicas[0].demand(&waiting("A", 1), now);
    step(few, "asks", Duration::ZERO);
    let (slot, _) = few.replicas[0].granted.front().cloned().unwrap();
    let replica = Replica::without_task(few.replicas[0].clone(), SECOND * 10);
    let permit = Replica::take(&replica, now).unwrap();
    (replica, permit, slot.id)
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_lost_after_it_may_have_arrived_then() {
    for asleep in [0, 5, 60] {
        let mut few = Few::new(1, None);
        let (replica, mut permit, id) = with_permit(&mut few).await;
        permit.leave();
        clock::suspend(SECOND * asleep);
        drop(permit);
        few.replicas[0] = replica.state.look().clone();
        few.replicas[0].demand(&waiting("A", 0), few.start + few.now);
        for nonce in ["is a member again", "tells", "tells again"] {
            step(&mut few, nonce, SECOND * asleep);
        }
        let (at, now) = counts_at(&mut few, &id);
        assert_eq!(at, (asleep > 0).then_some(now), "after {asleep} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_it_came_between_is_given_back_and_asked_for_again() {
    for by in [Duration::ZERO, SECOND] {
        let mut few = Few::new(1, None);
        let (_replica, permit, _) = with_permit(&mut few).await;
        clock::suspend(by);
        let below = below(|| {
            Err(Failure {
                delivery: Delivery::Unknown,
                again: RetryHint::Never,
                answer: None,
                source: "left".into(),
            })
        });
        let failure = charging().call(admitted_with(permit), &below).await.unwrap_err();
        let expected = if by.is_zero() {
            Delivery::Unknown
        } else {
            Delivery::NotSent
        };
        assert_eq!(failure.delivery, expected);
        assert_eq!(failure.again == RetryHint::WhenAllowed, !by.is_zero());
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
