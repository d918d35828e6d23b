//! What is expected, and how long.

use std::time::Duration;

use super::history::REMEMBERED;
use super::*;
use crate::queue::Weights;

const SECOND: Duration = Duration::from_secs(1);

fn expected(expectations: &Expectations, caller: &Name) -> Option<Expected> {
    let urgency = usize::from(Urgency::default().level());
    expectations.callers[urgency].get(caller).map(|history| history.told)
}

/// To come then, for a slot that comes some time later.
fn told(due: Instant) -> (Instant, Instant) {
    (due, due + 10 * SECOND)
}

#[test]
fn a_caller_that_asks_again_whenever_it_is_answered_is_expected_until_it_stops() {
    let (mut order, mut expectations) = (FairScheduler::new(Weights::default()), Expectations::default());
    let (caller, urgency) = (Name::new("a"), Urgency::default());
    let mut now = Instant::now();
    for round in 0..6 {
        let arrival = expectations.arrive(&caller, urgency, now, &mut order);
        assert_eq!(order.loops(), usize::from(round > 2), "round {round}");
        expectations.let_in((&caller, urgency), arrival, now, now, &mut order);
        expectations.granted(&caller, urgency, now, &mut order);
        now += SECOND;
        expectations.answered(&caller, urgency, now, &mut order);
        now += SECOND;
    }
    assert_eq!(
        expected(&expectations, &caller).unwrap().rate,
        500,
        "one every two seconds"
    );
    expectations.expire(now + RECENT, &mut order);
    assert_eq!((order.loops(), expected(&expectations, &caller)), (0, None));
}

#[test]
fn requests_that_come_at_once_are_no_loop() {
    let (mut order, mut expectations) = (FairScheduler::new(Weights::default()), Expectations::default());
    let (caller, urgency, now) = (Name::new("a"), Urgency::default(), Instant::now());
    for _ in 0..20 {
        let arrival = expectations.arrive(&caller, urgency, now, &mut order);
        expectations.let_in((&caller, urgency), arrival, now, now, &mut order);
        expectations.granted(&caller, urgency, now, &mut order);
    }
    assert_eq!(order.loops(), 0);
}

#[test]
fn a_refused_request_is_expected_back_when_it_was_told_to_come_and_a_little_longer() {
    let (mut order, mut expectations) = (FairScheduler::new(Weights::default()), Expectations::default());
    let (caller, urgency, now) = (Name::new("a"), Urgency::default(), Instant::now());
    for wait in [10, 20, 30] {
        let arrival = expectations.arrive(&caller, urgency, now, &mut order);
        assert_eq!(arrival, Arrival::Further);
        expectations.refuse((&caller, urgency), arrival, told(now + wait * SECOND), now, &mut order);
    }
    assert_eq!((expectations.returns, order.returning()), (3, 2));
    // It comes when it was told to.
    let at = now + 10 * SECOND;
    let arrival = expectations.arrive(&caller, urgency, at, &mut order);
    assert_eq!(arrival, Arrival::Return);
    expectations.let_in((&caller, urgency), arrival, at, at, &mut order);
    assert_eq!(order.returning(), 2);
    // One that does not obey is one of them, not a further one.
    let arrival = expectations.arrive(&caller, urgency, at, &mut order);
    assert_eq!(arrival, Arrival::Early);
    expectations.refuse((&caller, urgency), arrival, told(now + 25 * SECOND), at, &mut order);
    assert_eq!(order.returning(), 2);
    expectations.expire(now + 60 * SECOND, &mut order);
    assert_eq!((order.returning(), expectations.returns), (0, 0));
}

#[test]
fn a_refusal_that_is_withdrawn_is_as_if_it_had_not_been() {
    let (mut order, mut expectations) = (FairScheduler::new(Weights::default()), Expectations::default());
    let (caller, urgency, now) = (Name::new("a"), Urgency::default(), Instant::now());
    for wait in [10, 20, 30] {
        let arrival = expectations.arrive(&caller, urgency, now, &mut order);
        expectations.refuse((&caller, urgency), arrival, told(now + wait * SECOND), now, &mut order);
    }
    for (wait, left) in [(10, 2), (10, 2), (30, 1), (20, 0)] {
        expectations.withdraw(&caller, urgency, now + wait * SECOND, now, &mut order);
        assert_eq!((expectations.returns, order.returning()), (left, left));
        assert_eq!(expected(&expectations, &caller).unwrap().returning, left);
    }
    let arrival = expectations.arrive(&caller, urgency, now + 10 * SECOND, &mut order);
    assert_eq!(arrival, Arrival::Further);
}

#[test]
fn a_request_that_asks_once_more_is_not_one_of_those_that_are_expected_back() {
    let (mut order, mut expectations) = (FairScheduler::new(Weights::default()), Expectations::default());
    let (caller, urgency, now) = (Name::new("a"), Urgency::default(), Instant::now());
    for wait in [30, 40, 50] {
        let arrival = expectations.arrive(&caller, urgency, now, &mut order);
        expectations.refuse((&caller, urgency), arrival, told(now + wait * SECOND), now, &mut order);
    }
    for at in [5, 15, 30, 31] {
        let at = now + at * SECOND;
        let arrival = expectations.ask_again((&caller, urgency), Asked::Refused, at, &mut order);
        assert_eq!(expectations.returns_before(&caller, urgency, arrival), 0..3);
        expectations.refuse((&caller, urgency), arrival, told(now + 60 * SECOND), at, &mut order);
        expectations.withdraw(&caller, urgency, now + 60 * SECOND, at, &mut order);
        assert_eq!(expectations.returns, 3);
    }
    // Attempts that follow one another are no loop of the caller.
    for n in 0..5 {
        let at = now + (32 + n) * SECOND;
        let arrival = expectations.ask_again((&caller, urgency), Asked::Ended, at, &mut order);
        expectations.let_in((&caller, urgency), arrival, at, at, &mut order);
        expectations.granted(&caller, urgency, at, &mut order);
        expectations.answered(&caller, urgency, at, &mut order);
    }
    assert_eq!((expectations.returns, order.loops()), (3, 0));
}

#[test]
fn one_request_follows_another_however_many_attempts_that_took() {
    let (mut order, mut expectations) = (FairScheduler::new(Weights::default()), Expectations::default());
    let (caller, urgency, now) = (Name::new("a"), Urgency::default(), Instant::now());
    let arrival = expectations.arrive(&caller, urgency, now, &mut order);
    expectations.refuse((&caller, urgency), arrival, told(now + 60 * SECOND), now, &mut order);
    for n in 10..15 {
        let at = now + n * SECOND;
        let arrival = expectations.ask_again((&caller, urgency), Asked::Ended, at, &mut order);
        expectations.let_in((&caller, urgency), arrival, at, at, &mut order);
        expectations.granted(&caller, urgency, at, &mut order);
    }
    let at = now + 16 * SECOND;
    let arrivals = [(); 2].map(|()| expectations.arrive(&caller, urgency, at, &mut order));
    assert_eq!(arrivals, [Arrival::Further, Arrival::Early]);
}

#[test]
fn what_is_expected_is_bounded_whatever_names_are_made_up() {
    let (mut order, mut expectations) = (FairScheduler::new(Weights::default()), Expectations::default());
    let (urgency, now) = (Urgency::default(), Instant::now());
    for n in 0..MOST_RETURNS * 2 {
        let caller = Name::new(&(n / 4).to_string());
        let arrival = expectations.arrive(&caller, urgency, now, &mut order);
        expectations.refuse((&caller, urgency), arrival, told(now + 60 * SECOND), now, &mut order);
        assert!(expectations.looks.len() <= MOST_CALLERS && expectations.returns <= MOST_RETURNS);
        assert!(order.returning() <= expectations.returns);
    }
    let one = Name::new("one");
    for _ in 0..MOST_RETURNS * 2 {
        let arrival = expectations.arrive(&one, urgency, now, &mut order);
        expectations.refuse((&one, urgency), arrival, told(now + 60 * SECOND), now, &mut order);
    }
    assert!(expectations.returns <= MOST_RETURNS);
    expectations.expire(now + 120 * SECOND, &mut order);
    assert_eq!((expectations.returns, order.returning()), (0, 0));
    // Who did not come back is remembered a little longer.
    expectations.expire(now + 120 * SECOND + REMEMBERED, &mut order);
    assert_eq!(expectations.looks.len(), 0);
}

#[test]
fn a_caller_claims_as_many_slots_as_its_returns_have_earned() {
    let (mut order, mut expectations) = (FairScheduler::new(Weights::default()), Expectations::default());
    let (caller, urgency, start) = (Name::new("a"), Urgency::default(), Instant::now());
    for seconds in [10, 20, 60, 70, 80] {
        let arrival = expectations.arrive(&caller, urgency, start, &mut order);
        expectations.refuse(
            (&caller, urgency),
            arrival,
            told(start + seconds * SECOND),
            start,
            &mut order,
        );
    }
    // While one is late, none of them claims a slot; one that does not come halves the trust.
    for (seconds, claims) in [(10, 2), (12, 0), (17, 1), (22, 0), (28, 0)] {
        expectations.expire(start + seconds * SECOND, &mut order);
        assert_eq!(order.returning(), claims, "after {seconds} s");
    }
    assert_eq!(expectations.returns, 3, "the places of the others are kept");
    for (seconds, claims) in [(60, 1), (70, 1)] {
        let now = start + seconds * SECOND;
        let arrival = expectations.arrive(&caller, urgency, now, &mut order);
        assert_eq!(arrival, Arrival::Return);
        expectations.let_in((&caller, urgency), arrival, now, now, &mut order);
        assert_eq!(order.returning(), claims, "after {seconds} s");
    }
    expectations.expire(start + REMEMBERED, &mut order);
    assert_eq!(
        (order.returning(), expectations.returns, expectations.looks.len()),
        (0, 0, 1)
    );
    expectations.expire(start + REMEMBERED * 2, &mut order);
    assert_eq!(expectations.looks.len(), 0);
}

#[test]
fn a_caller_all_of_whose_requests_are_away_does_not_ask_again_before_one_is_back() {
    let (mut order, mut expectations) = (FairScheduler::new(Weights::default()), Expectations::default());
    let (caller, urgency, mut now) = (Name::new("a"), Urgency::default(), Instant::now());
    for _ in 0..6 {
        let arrival = expectations.arrive(&caller, urgency, now, &mut order);
        expectations.let_in((&caller, urgency), arrival, now, now, &mut order);
        expectations.granted(&caller, urgency, now, &mut order);
        expectations.answered(&caller, urgency, now, &mut order);
        now += SECOND;
    }
    assert_eq!(order.loops(), 1);
    let arrival = expectations.arrive(&caller, urgency, now, &mut order);
    expectations.refuse((&caller, urgency), arrival, told(now + 7 * SECOND), now, &mut order);
    assert_eq!((order.loops(), order.returning()), (0, 1));
    now += 7 * SECOND;
    let arrival = expectations.arrive(&caller, urgency, now, &mut order);
    expectations.let_in((&caller, urgency), arrival, now, now, &mut order);
    assert_eq!((order.loops(), order.returning()), (1, 0));
}

#[test]
fn queues_that_are_bounded_together_expect_as_much_as_one_alone() {
    let (mut order, mut expectations) = (FairScheduler::new(Weights::default()), Expectations::beside(63));
    let (urgency, now) = (Urgency::default(), Instant::now());
    for n in 0..1000 {
        let caller = Name::new(&n.to_string());
        for _ in 0..3 {
            let arrival = expectations.arrive(&caller, urgency, now, &mut order);
            expectations.refuse((&caller, urgency), arrival, told(now + 9 * SECOND), now, &mut order);
        }
        assert!(64 * expectations.looks.len() <= MOST_CALLERS && 64 * expectations.returns <= MOST_RETURNS);
    }
    assert_eq!(expectations.looks.len(), 64, "the latest");
}

#[test]
fn a_return_claims_no_slot_once_the_one_has_passed_that_it_was_told_to_come_for() {
    let (mut order, mut expectations) = (FairScheduler::new(Weights::default()), Expectations::default());
    let (caller, urgency, now) = (Name::new("a"), Urgency::default(), Instant::now());
    let arrival = expectations.arrive(&caller, urgency, now, &mut order);
    let (due, slot) = (now + 5 * SECOND, now + 6 * SECOND);
    expectations.refuse((&caller, urgency), arrival, (due, slot), now, &mut order);
    expectations.expire(slot - SECOND / 10, &mut order);
    assert_eq!(order.returning(), 1);
    expectations.expire(slot, &mut order);
    assert_eq!(order.returning(), 0);
    assert_eq!(
        expected(&expectations, &caller).unwrap().returning,
        1,
        "its place is kept"
    );
}

#[test]
fn requests_that_come_within_a_second_are_different_ones_though_one_may_be_back_soon() {
    let (mut order, mut expectations) = (FairScheduler::new(Weights::default()), Expectations::default());
    let (caller, urgency, now) = (Name::new("a"), Urgency::default(), Instant::now());
    for (n, at) in [0, 300, 600, 900].map(Duration::from_millis).into_iter().enumerate() {
        let at = now + at;
        let arrival = expectations.arrive(&caller, urgency, at, &mut order);
        assert_eq!(arrival, Arrival::Further, "{n}");
        expectations.refuse((&caller, urgency), arrival, told(at + SECOND), at, &mut order);
    }
    assert_eq!(expectations.returns, 4);
    let at = now + SECOND;
    assert_eq!(expectations.arrive(&caller, urgency, at, &mut order), Arrival::Return);
}

/// Five requests of one caller, and how many of the other four claim slots once the first is back.
fn claims_after_one_is_back(
    slot_after: Duration,
    come_back: impl FnOnce(&mut Expectations, &Name, Instant, &mut FairScheduler),
) -> usize {
    let (mut order, mut expectations) = (FairScheduler::new(Weights::default()), Expectations::default());
    let (caller, urgency, start) = (Name::new("a"), Urgency::default(), Instant::now());
    for seconds in [10, 40, 50, 60, 70] {
        let arrival = expectations.arrive(&caller, urgency, start, &mut order);
        let due = start + seconds * SECOND;
        expectations.refuse((&caller, urgency), arrival, (due, due + slot_after), start, &mut order);
    }
    come_back(&mut expectations, &caller, start + 10 * SECOND, &mut order);
    assert_eq!(expectations.returns, 4);
    order.returning()
}

#[test]
fn who_comes_back_before_its_slot_is_not_late_however_long_after_it_was_told_to() {
    for (slot_after, late, claims) in [(14, 0, 3), (14, 2, 3), (14, 6, 3), (4, 3, 3), (4, 5, 1), (1, 2, 1)] {
        let claimed = claims_after_one_is_back(slot_after * SECOND, |expectations, caller, due, order| {
            let now = due + late * SECOND;
            let urgency = Urgency::default();
            let arrival = expectations.arrive(caller, urgency, now, order);
            assert_eq!(arrival, Arrival::Return);
            expectations.let_in((caller, urgency), arrival, now, now, order);
        });
        assert_eq!(claimed, claims, "{late} s late for a slot after {slot_after} s");
    }
}

#[test]
fn who_came_back_to_another_queue_was_on_time_whenever_the_news_comes() {
    for news in [0, 500, 1500, 2500, 4500].map(Duration::from_millis) {
        let claimed = claims_after_one_is_back(SECOND / 2, |expectations, caller, due, order| {
            expectations.back_elsewhere(caller, Urgency::default(), due + news, order);
        });
        assert_eq!(claimed, 3, "after {news:?}");
    }
}
