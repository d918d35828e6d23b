//! The health of a host over time.

use super::*;

fn fresh() -> Health {
    let backoff = |first, longest| Backoff {
        first: s(first),
        longest: s(longest),
    };
    Health::new(backoff(1, 60), backoff(30, 600))
}

fn s(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[tokio::test(start_paused = true)]
async fn a_refused_connection_leaves_at_once_and_a_probe_after_the_backoff_brings_back() {
    let now = Instant::now();
    let mut health = fresh();
    health.connection_failed(now, now);
    assert_eq!(health.standing(now), HealthState::Down);
    health.connected(now + s(1) / 2);
    assert_eq!(health.standing(now + s(1) / 2), HealthState::Down, "too early");
    assert_eq!(
        health.standing(now + s(600)),
        HealthState::Down,
        "time alone is not enough"
    );
    health.connected(now + s(1));
    assert_eq!(health.standing(now + s(1)), HealthState::Good);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_from_before_it_came_back_says_nothing() {
    let now = Instant::now();
    let mut health = fresh();
    health.connection_failed(now, now);
    let back = now + s(4);
    health.connected(back);
    health.connection_failed(back - s(2), back + s(1));
    assert_eq!(health.standing(back + s(1)), HealthState::Good);
    health.connection_failed(back, back + s(3));
    assert_eq!(health.standing(back + s(3)), HealthState::Down);
    health.answered(back + s(4), back + s(4));
    health.connection_failed(back + s(3), back + s(6));
    assert_eq!(health.standing(back + s(6)), HealthState::Good, "an answer too");
}

#[tokio::test(start_paused = true)]
async fn the_backoff_doubles_to_a_minute_and_is_forgiven() {
    let mut now = Instant::now();
    let mut health = fresh();
    let mut waits = Vec::new();
    for _ in 0..8 {
        health.connection_failed(now, now);
        health.connection_failed(now, now);
        let until = health.until().unwrap();
        waits.push((until - now).as_secs());
        now = until;
        health.connected(now);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    now += FORGET_AFTER;
    health.connection_failed(now, now);
    assert_eq!(health.until(), Some(now + s(1)));
}

#[tokio::test(start_paused = true)]
async fn one_bad_answer_is_avoided_for_a_moment_and_three_are_left() {
    let now = Instant::now();
    let mut health = fresh();
    health.bad_answer(now);
    assert_eq!(health.standing(now), HealthState::Avoided);
    assert_eq!(health.standing(now + AVOID_TIME), HealthState::Good);
    health.bad_answer(now + s(10));
    health.answered(now + s(15), now + s(15));
    health.bad_answer(now + s(20));
    assert_eq!(health.standing(now + s(20)), HealthState::Ejected);
    health.connected(now + s(25));
    assert_eq!(
        health.standing(now + s(49)),
        HealthState::Ejected,
        "a connection is no good answer"
    );
    assert_eq!(health.standing(now + s(50)), HealthState::Good);
}

#[tokio::test(start_paused = true)]
async fn a_host_back_on_trial_is_left_again_at_the_first_bad_answer_for_twice_as_long() {
    let now = Instant::now();
    let mut health = fresh();
    for n in 0..3 {
        health.bad_answer(now + s(n));
    }
    let back = health.until().unwrap();
    health.answered(back, back);
    health.bad_answer(back + s(1));
    assert_eq!(health.standing(back + s(60)), HealthState::Ejected);
    assert_eq!(health.standing(back + s(61)), HealthState::Good);
}

#[tokio::test(start_paused = true)]
async fn few_bad_answers_among_many_good_ones_are_borne() {
    let now = Instant::now();
    let mut health = fresh();
    for n in 0..1000 {
        let at = now + s(n);
        if n % 8 == 0 {
            health.bad_answer(at);
        } else {
            health.answered(at, at);
        }
        assert!(health.standing(at).is_usable(), "after {n} s");
    }
    assert!(health.outcomes.len() <= MAX_OUTCOMES);
}

#[tokio::test(start_paused = true)]
async fn an_answer_brings_an_unreachable_host_back() {
    let now = Instant::now();
    let mut health = fresh();
    health.connection_failed(now, now);
    health.answered(now, now);
    assert_eq!(health.standing(now), HealthState::Good);
}

#[tokio::test(start_paused = true)]
async fn a_good_answer_to_a_call_sent_after_the_ejection_ends_it_and_a_late_one_does_not() {
    let now = Instant::now();
    let mut health = fresh();
    health.eject(now);
    health.answered(now - s(1), now + s(1));
    assert_eq!(health.standing(now + s(1)), HealthState::Ejected);
    health.answered(now + s(2), now + s(3));
    assert_eq!(health.standing(now + s(3)), HealthState::Good);
}

#[tokio::test(start_paused = true)]
async fn an_ejection_is_forgiven_from_its_end() {
    let now = Instant::now();
    let mut health = fresh();
    let mut at = now;
    for _ in 0..5 {
        health.eject(at);
        at = health.until().unwrap();
    }
    // The last one took eight minutes.
    health.answered(at, at);
    health.bad_answer(at + s(1));
    assert_eq!(health.standing(at + s(1)), HealthState::Ejected);
    let until = health.until().unwrap();
    health.answered(until, until);
    health.bad_answer(until + FORGET_AFTER);
    assert_eq!(health.standing(until + FORGET_AFTER), HealthState::Avoided);
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_does_not_show_that_an_ejected_host_works() {
    let now = Instant::now();
    let mut health = fresh();
    health.eject(now);
    health.answered(now - s(1), now + s(1));
    let back = health.until().unwrap();
    assert!(!health.has_recovered(back), "nothing has tried it");
    health.answered(back, back);
    assert!(health.has_recovered(back));
}
