//! What a 429 does.

use tokio::time::Instant;

use super::*;
use crate::quota::account::Account;
use crate::quota::feedback::Throttled;

fn said(window: Duration, seconds: u64) -> Throttled {
    Throttled {
        window: Some(window),
        wait: Some(Duration::from_secs(seconds)),
    }
}

fn after(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

#[test]
fn everybody_pauses_then_one_probe_finds_out() {
    let start = Instant::now();
    let mut account = Account::new(&documented(), start);
    let refused = account.take(start).unwrap();
    account.throttled(refused, said(MINUTE, 8), start);
    assert_eq!(account.take(start), Err(Some(after(start, 8))));
    let probe = account.take(after(start, 8)).unwrap();
    assert_eq!(account.take(after(start, 8)), Err(None), "one probe at a time");
    account.settle(probe, after(start, 9));
    assert!(account.take(after(start, 9)).is_ok());
    assert!(account.take(after(start, 9)).is_ok());
}

#[test]
fn a_pause_is_only_ever_extended() {
    let start = Instant::now();
    let mut account = Account::new(&documented(), start);
    let (first, second, third) = (
        account.take(start).unwrap(),
        account.take(start).unwrap(),
        account.take(start).unwrap(),
    );
    account.throttled(first, said(MINUTE, 30), start);
    account.throttled(second, said(MINUTE, 5), start);
    assert_eq!(account.paused_until(), Some(after(start, 30)));
    account.throttled(third, said(MINUTE, 40), start);
    assert_eq!(account.paused_until(), Some(after(start, 40)));
}

#[test]
fn a_refused_probe_pauses_again_and_a_lost_one_ends_the_pause() {
    let start = Instant::now();
    let mut account = Account::new(&documented(), start);
    let refused = account.take(start).unwrap();
    account.throttled(refused, said(MINUTE, 8), start);
    let probe = account.take(after(start, 8)).unwrap();
    account.throttled(probe, said(MINUTE, 20), after(start, 9));
    account.take(after(start, 29)).unwrap();
    assert_eq!(account.take(after(start, 60)), Err(None));
    assert!(
        account
            .take(after(start, 29) + TIMEOUT + Duration::from_secs(1))
            .is_ok()
    );
}

#[test]
fn a_probe_that_brings_no_answer_is_followed_by_another_at_once() {
    let start = Instant::now();
    let mut account = Account::new(&documented(), start);
    let refused = account.take(start).unwrap();
    account.throttled(refused, said(MINUTE, 8), start);
    let unsent = account.take(after(start, 8)).unwrap();
    account.refund(unsent, after(start, 9));
    let lost = account.take(after(start, 9)).unwrap();
    assert_eq!(account.take(after(start, 9)), Err(None), "still one at a time");
    assert!(account.lose(lost, after(start, 10)));
    assert!(!account.lose(lost, after(start, 10)));
    let probe = account.take(after(start, 10)).unwrap();
    assert_eq!(account.take(after(start, 10)), Err(None));
    account.settle(probe, after(start, 11));
    assert!(account.take(after(start, 11)).is_ok());
}

#[test]
fn calls_of_others_are_charged_and_return_when_the_upstream_said() {
    let start = Instant::now();
    let mut account = Account::new(&documented(), start);
    let refused = account.take(start).unwrap();
    assert_eq!(account.throttled(refused, said(MINUTE, 8), start), 99);
    assert_eq!(account.foreign(), 99);
    let windows = account.windows(start);
    assert_eq!((windows[0].used, windows[0].remaining), (100, 0));
    assert_eq!(windows[1].used, 100, "they count in the hour as well");
    assert_eq!(account.windows(after(start, 9))[0].used, 1);
}

#[test]
fn without_a_word_the_window_that_is_full_decides() {
    let start = Instant::now();
    let mut account = Account::new(&documented(), start);
    let charges: Vec<_> = (0..100).map(|_| account.take(start).unwrap()).collect();
    for charge in &charges[1..] {
        account.settle(*charge, start);
    }
    assert_eq!(account.throttled(charges[0], Throttled::default(), start), 0);
    let pause = account.paused_until().unwrap() - start;
    assert!(pause >= MINUTE && pause < MINUTE + Duration::from_secs(1), "{pause:?}");
}

#[test]
fn a_full_unknown_past_waits_until_it_is_provably_over() {
    let start = Instant::now();
    let config = documented().unknown_past(crate::quota::UnknownPast::Full);
    let mut account = Account::new(&config, start);
    let Err(Some(mut at)) = account.take(start) else {
        panic!("nothing may go")
    };
    while let Err(next) = account.take(at) {
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
    let mut account = Account::new(&config, start);
    assert_eq!(std::iter::from_fn(|| account.take(start).ok()).count(), 10);
}
