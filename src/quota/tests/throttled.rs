//! What a 429 does.

use tokio::time::Instant;

use super::*;
use crate::quota::forecast::Forecast;
use crate::quota::state::QuotaState;
use crate::quota::throttle_hint::ThrottleHint;

#[test]
fn everybody_pauses_then_one_probe_finds_out() {
    let (start, mut quota_state) = refused(said(MINUTE, 8));
    assert_eq!(quota_state.take(start), Err(Some(after(start, 8))));
    let probe = quota_state.take(after(start, 8)).unwrap();
    assert_eq!(quota_state.take(after(start, 8)), Err(None), "one probe at a time");
    quota_state.settle(probe, after(start, 9));
    assert!(quota_state.take(after(start, 9)).is_ok());
    assert!(quota_state.take(after(start, 9)).is_ok());
}

#[test]
fn a_small_limit_is_shown_and_used_again_after_a_429_in_a_quiet_hour() {
    let (window, start) = (HOUR, Instant::now());
    let config = Config::try_new(vec![limit(7, window)], NonZeroU32::MIN, TIMEOUT).unwrap();
    let mut quota_state = QuotaState::new(&config, start);
    let charge = quota_state.take(start).unwrap();
    quota_state.throttled(charge, said(window, 900), after(start, 1));
    let mut taken = 0;
    for second in (0..4 * 3600).step_by(20) {
        let now = after(start, second);
        let shown = quota_state.pace_state(now).unwrap();
        assert!(shown.per_minute >= 0.0, "{second} s: {shown:?}");
        if second > 3600
            && let Ok(charge) = quota_state.take(now)
        {
            quota_state.settle(charge, now);
            taken += 1;
        }
    }
    assert!(taken >= 7, "{taken} in three hours");
}

#[test]
fn a_pause_is_only_ever_extended() {
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&documented(), start);
    let (first, second, third) = (
        quota_state.take(start).unwrap(),
        quota_state.take(start).unwrap(),
        quota_state.take(start).unwrap(),
    );
    quota_state.throttled(first, said(MINUTE, 30), start);
    quota_state.throttled(second, said(MINUTE, 5), start);
    assert_eq!(quota_state.paused_until(), Some(after(start, 30)));
    quota_state.throttled(third, said(MINUTE, 40), start);
    assert_eq!(quota_state.paused_until(), Some(after(start, 40)));
}

/// Of calls that had left before.
#[test]
fn further_refusals_without_a_word_neither_lengthen_a_pause_nor_let_another_probe_go() {
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&documented(), start);
    let [first, second, third] = [(); 3].map(|()| quota_state.take(start).unwrap());
    let over = quota_state.throttled(first, ThrottleHint::default(), start);
    quota_state.throttled(second, ThrottleHint::default(), after(start, 3));
    assert_eq!(quota_state.paused_until(), Some(over));
    quota_state.take(over).unwrap();
    quota_state.throttled(third, ThrottleHint::default(), over);
    assert_eq!(quota_state.take(over), Err(None));
}

#[test]
fn a_refused_probe_pauses_again_and_a_lost_one_ends_the_pause() {
    let (start, mut quota_state) = refused(said(MINUTE, 8));
    let probe = quota_state.take(after(start, 8)).unwrap();
    quota_state.throttled(probe, said(MINUTE, 20), after(start, 9));
    quota_state.take(after(start, 29)).unwrap();
    assert_eq!(quota_state.take(after(start, 60)), Err(None));
    assert!(
        quota_state
            .take(after(start, 29) + TIMEOUT + Duration::from_secs(1))
            .is_ok()
    );
}

#[test]
fn a_probe_that_brings_no_answer_is_followed_by_another_at_once() {
    let (start, mut quota_state) = refused(said(MINUTE, 8));
    let unsent = quota_state.take(after(start, 8)).unwrap();
    quota_state.refund(unsent, after(start, 9));
    let lost = quota_state.take(after(start, 9)).unwrap();
    assert_eq!(quota_state.take(after(start, 9)), Err(None), "still one at a time");
    quota_state.lose(lost, after(start, 10));
    quota_state.lose(lost, after(start, 10));
    let probe = quota_state.take(after(start, 10)).unwrap();
    assert_eq!(quota_state.take(after(start, 10)), Err(None));
    quota_state.settle(probe, after(start, 11));
    assert!(quota_state.take(after(start, 11)).is_ok());
}

/// After a refusal few calls are in flight at once; one that was not made is not in flight.
#[test]
fn a_slot_that_goes_back_does_not_slow_down_the_calls_after_a_refusal() {
    let (start, mut quota_state) = refused(said(MINUTE, 8));
    let probe = quota_state.take(after(start, 8)).unwrap();
    quota_state.settle(probe, after(start, 9));
    for _ in 0..20 {
        let unsent = quota_state.take(after(start, 9)).unwrap();
        quota_state.refund(unsent, after(start, 9));
    }
    assert!(quota_state.take(after(start, 9)).is_ok());
    assert!(quota_state.take(after(start, 9)).is_ok());
    assert!(quota_state.take(after(start, 9)).is_err(), "still few at once");
}

/// Calls from before the pause were never among those that are let go since.
#[test]
fn calls_of_before_a_pause_that_are_lost_after_it_let_no_more_go() {
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&documented(), start);
    let before: Vec<_> = (0..20).map(|_| quota_state.take(start).unwrap()).collect();
    quota_state.throttled(before[0], said(MINUTE, 8), start);
    let probe = quota_state.take(after(start, 8)).unwrap();
    quota_state.settle(probe, after(start, 9));
    let go = |quota_state: &mut QuotaState| std::iter::from_fn(|| quota_state.take(after(start, 9)).ok()).count();
    assert_eq!(go(&mut quota_state), 2);
    for call in &before[1..] {
        quota_state.lose(*call, after(start, 9));
    }
    assert_eq!(go(&mut quota_state), 0);
}

/// A reset connection loses many calls at once. They may have arrived, so they count; but it is
/// known from then on until when.
#[test]
fn after_lost_calls_it_is_known_when_the_next_may_go() {
    let start = Instant::now();
    let limit = limit(5, Duration::from_secs(10));
    let config = Config::try_new(vec![limit.clone()], NonZeroU32::new(5).unwrap(), TIMEOUT).unwrap();
    let mut quota_state = QuotaState::new(&config, start);
    let calls: Vec<_> = (0..5).map(|_| quota_state.take(start).unwrap()).collect();
    assert_eq!(
        quota_state.take(after(start, 1)),
        Err(None),
        "any of them may be answered"
    );
    for call in calls {
        quota_state.lose(call, after(start, 2));
    }
    let latest = start + TIMEOUT + QuotaState::LANDING + limit.hold();
    assert_eq!(quota_state.take(after(start, 2)), Err(Some(latest)));
    let mut forecast = Forecast::new(&quota_state, after(start, 2));
    assert_eq!(forecast.next_slot(), latest, "and callers are told");
    let just_before = latest - Duration::from_millis(1);
    assert!(quota_state.take(just_before).is_err());
    assert!(quota_state.take(latest).is_ok());
}

#[test]
fn calls_of_others_are_not_charged() {
    let (start, quota_state) = refused(said(MINUTE, 8));
    let used: Vec<usize> = quota_state.windows(start).iter().map(|window| window.used).collect();
    assert_eq!(used, [1, 1], "our own call, and nothing else");
    assert_eq!(quota_state.foreign(start), 0, "the minute says nothing about the hour");
}

#[test]
fn a_full_hour_is_an_estimate_of_others_that_success_refutes() {
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&documented(), start);
    let first = quota_state.take(start).unwrap();
    quota_state.settle(first, start);
    let refused = quota_state.take(after(start, 900)).unwrap();
    let until = quota_state.throttled(refused, said(HOUR, 1800), after(start, 900));
    assert_eq!(until, after(start, 2700));
    // 1,499 calls of others in 1,800 s are more than an hour has, so it is the most that is
    // estimated.
    assert_eq!(quota_state.foreign(until), 1350);
    assert_eq!(quota_state.windows(start)[1].used, 2);
    // Nobody else calls any more: each call that is accepted says so.
    let (mut now, mut calls) = (after(start, 2700), 0);
    while now < after(start, 2700 + 3 * 3600) {
        match quota_state.take(now) {
            Ok(charge) => {
                quota_state.settle(charge, now);
                calls += 1;
            }
            Err(at) => now = at.unwrap().max(now + Duration::from_millis(1)),
        }
    }
    assert_eq!(quota_state.foreign(now), 0, "after {calls} calls");
    assert!(calls > 1500, "{calls} calls in three hours");
}

/// A burst that the shortest window ends says nothing of the longest, however often it is refused
/// without a word.
#[test]
fn a_refusal_without_a_word_is_that_of_the_window_which_is_fullest() {
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&documented().pacing(crate::quota::Pacing::None), start);
    let mut now = start;
    for _ in 0..5 {
        for _ in 0..80 {
            let charge = quota_state.take(now).unwrap();
            quota_state.settle(charge, now);
        }
        for _ in 0..4 {
            let refused = quota_state.take(now).unwrap();
            now = quota_state.throttled(refused, ThrottleHint::default(), now);
        }
        let probe = quota_state.take(now).unwrap();
        quota_state.settle(probe, now);
        assert_eq!(quota_state.foreign(now), 0);
        now += MINUTE;
    }
}

#[test]
fn without_a_word_probes_come_ever_later_up_to_a_minute() {
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&documented(), start);
    let (mut now, mut waits) = (start, Vec::new());
    for _ in 0..8 {
        let probe = quota_state.take(now).unwrap();
        assert_eq!(quota_state.take(now).is_ok(), waits.is_empty(), "one at a time");
        let until = quota_state.throttled(probe, ThrottleHint::default(), now);
        waits.push((until - now).as_secs());
        now = until;
    }
    assert_eq!(waits, [5, 5, 10, 20, 40, 60, 60, 60]);
    let probe = quota_state.take(now).unwrap();
    quota_state.settle(probe, now);
    let next = quota_state.take(now).unwrap();
    assert_eq!(
        quota_state.throttled(next, ThrottleHint::default(), now),
        now + Duration::from_secs(5)
    );
}

#[test]
fn named_waits_that_are_too_short_are_stretched_and_never_shortened() {
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&documented(), start);
    let zero = ThrottleHint {
        window: None,
        wait: Some(Duration::ZERO),
    };
    let (mut now, mut probes) = (start, 0);
    while now < after(start, 600) {
        let probe = quota_state.take(now).unwrap();
        let until = quota_state.throttled(probe, zero, now);
        assert!(until >= now + Duration::from_secs(1), "no call without end");
        assert!(until <= now + MINUTE);
        (now, probes) = (until, probes + 1);
    }
    assert!(probes < 60, "{probes} probes in ten minutes");
    let probe = quota_state.take(now).unwrap();
    let until = quota_state.throttled(probe, said(MINUTE, 300), now);
    assert_eq!(until, now + Duration::from_mins(5));
}

#[test]
fn a_full_unknown_past_waits_until_it_is_provably_over() {
    let start = Instant::now();
    let config = documented().unknown_past(crate::quota::UnknownPast::Full);
    let mut quota_state = QuotaState::new(&config, start);
    let Err(Some(mut at)) = quota_state.take(start) else {
        panic!("nothing may go")
    };
    while let Err(next) = quota_state.take(at) {
        at = next.unwrap();
    }
    assert!(at - start >= HOUR + TIMEOUT, "{:?}", at - start);
    assert!(
        at - start < HOUR + TIMEOUT + Duration::from_secs(10),
        "{:?}",
        at - start
    );
}

#[test]
fn a_paced_unknown_past_starts_with_a_tenth() {
    let start = Instant::now();
    let config = documented().unknown_past(crate::quota::UnknownPast::Paced);
    let mut quota_state = QuotaState::new(&config, start);
    assert_eq!(std::iter::from_fn(|| quota_state.take(start).ok()).count(), 10);
}

/// Each time in which nothing was accepted leaves a hole in the window of others' calls; of many
/// the latest matter, because they leave the window last.
#[test]
fn of_many_refused_times_the_latest_are_remembered() {
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&documented(), start);
    let mut ends = Vec::new();
    for n in 0..10 {
        let mut now = after(start, n * 300);
        for _ in 0..3 {
            let refused = quota_state.take(now).unwrap();
            now = quota_state.throttled(refused, said(MINUTE, 40), now);
        }
        let accepted = quota_state.take(now).unwrap();
        quota_state.settle(accepted, now);
        ends.push(now + limit(1500, HOUR).hold());
    }
    let remembered: Vec<Instant> = quota_state.foreign.holes().iter().map(|(_, to)| *to).collect();
    assert_eq!(remembered, ends[2..]);
}
