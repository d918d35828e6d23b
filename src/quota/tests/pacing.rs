//! The bucket that is shown, and its absence.

use tokio::time::Instant;

use super::*;
use crate::quota::throttle_hint::ThrottleHint;
use crate::quota::{Pacing, QuotaState, UnknownPast};

fn take_all(quota_state: &mut QuotaState, now: Instant) -> usize {
    let charges: Vec<_> = std::iter::from_fn(|| quota_state.take(now).ok()).collect();
    for charge in &charges {
        quota_state.settle(*charge, now);
    }
    charges.len()
}

#[test]
fn the_bucket_is_shown_as_it_is_felt() {
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&documented(), start);
    let full = quota_state.pace_state(start).unwrap();
    assert_eq!((full.capacity, full.whole_tokens()), (100, 100));
    assert_eq!((full.next_token, full.refill), (Duration::ZERO, Duration::from_mins(4)));
    assert_eq!(take_all(&mut quota_state, start), 100);
    let empty = quota_state.pace_state(start).unwrap();
    assert_eq!(empty.whole_tokens(), 0);
    // 1,400 calls are left for an hour in which the hundred return at its end.
    assert!((23.0..24.0).contains(&empty.per_minute), "{empty:?}");
    // It promises no more than it keeps: the next token is there when it says, and it is one.
    let later = start + MINUTE + Duration::from_secs(1);
    let before = quota_state.pace_state(later).unwrap();
    let next = quota_state.pace_state(later + before.next_token).unwrap();
    assert_eq!(next.whole_tokens(), before.whole_tokens() + 1, "{before:?} {next:?}");
    assert_eq!(take_all(&mut quota_state, later), before.whole_tokens());
}

#[test]
fn without_pacing_all_that_the_windows_allow_leaves_at_once_and_no_more() {
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&documented().pacing(Pacing::None), start);
    assert_eq!(quota_state.pace_state(start), None);
    let step = MINUTE + Duration::from_secs(1);
    let taken: Vec<_> = (0..61).map(|n| take_all(&mut quota_state, start + step * n)).collect();
    assert_eq!(taken[..15], [100; 15], "the hour is gone after a quarter of it");
    assert_eq!(
        taken[15..].iter().sum::<usize>(),
        100,
        "until the first calls leave the window"
    );
}

#[test]
fn without_pacing_a_slow_start_is_still_slow_until_nothing_unknown_counts_any_more() {
    let start = Instant::now();
    let config = documented().pacing(Pacing::None).unknown_past(UnknownPast::Paced);
    let mut quota_state = QuotaState::new(&config, start);
    assert_eq!(take_all(&mut quota_state, start), 10);
    assert!(quota_state.pace_state(start).is_some());
    let watched = start + HOUR + TIMEOUT + Duration::from_secs(10);
    assert_eq!(quota_state.pace_state(watched), None);
    assert_eq!(take_all(&mut quota_state, watched), 100);
}

#[test]
fn pacing_can_be_changed_while_calls_are_made() {
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&documented(), start);
    let step = MINUTE + Duration::from_secs(1);
    assert_eq!(take_all(&mut quota_state, start), 100);
    assert!(take_all(&mut quota_state, start + step) < 40);
    quota_state.reconfigure(&documented().pacing(Pacing::None), start + step);
    assert_eq!(take_all(&mut quota_state, start + step * 2), 100);
    quota_state.reconfigure(&documented(), start + step * 2);
    assert!(take_all(&mut quota_state, start + step * 3) < 40);
}

#[test]
fn a_pause_shows_no_room_in_any_window() {
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&documented(), start);
    let refused = quota_state.take(start).unwrap();
    let said = ThrottleHint {
        window: None,
        wait: Some(Duration::from_secs(8)),
    };
    let _ = quota_state.throttled(refused, said, start);
    let room = |quota_state: &mut QuotaState, now| {
        let windows = quota_state.windows(now);
        (
            windows[0].remaining,
            windows[1].remaining,
            quota_state.pace_state(now).unwrap().whole_tokens(),
        )
    };
    assert_eq!(room(&mut quota_state, start).0, 0);
    assert_eq!(room(&mut quota_state, start).1, 0);
    assert_eq!(quota_state.pause(start), Some(Duration::from_secs(8)));
    // The pause is over: one call may find out.
    let over = start + Duration::from_secs(9);
    assert_eq!(
        (quota_state.pause(over), room(&mut quota_state, over)),
        (None, (1, 1, 1))
    );
    let probe = quota_state.take(over).unwrap();
    // Until it is answered nothing may go, and that is soon.
    assert_eq!(room(&mut quota_state, over).0, 0);
    assert!(
        quota_state
            .pause(over)
            .is_some_and(|pause| pause <= Duration::from_secs(2))
    );
    quota_state.settle(probe, over + Duration::from_secs(1));
    // Meanwhile the bucket has become full again.
    assert_eq!(room(&mut quota_state, over + Duration::from_secs(1)), (98, 1498, 99));
}
