//! Sign-in is down, slow, or rejects requests.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::{numbered, secs, soon, token, token_source};
use crate::task::Tasks;
use crate::token::testing::{Reply, Service};
use crate::token::{Error, Reason};

#[tokio::test(start_paused = true)]
async fn an_outage_shorter_than_the_life_is_not_felt() {
    let (service, tasks) = (numbered(), Tasks::new());
    let token_source = token_source(&service, &tasks);
    token(&token_source).await.unwrap();
    service.now(|_, _| Reply::outage());
    for _ in 0..3500 {
        assert_eq!(token(&token_source).await.unwrap(), "t1");
        sleep(secs(1)).await;
    }
    let error = token_source.snapshot().last_error.unwrap();
    assert_eq!(error.code, "Unreachable");
    // At most one attempt a minute in the long run.
    assert!(service.count() < 60, "{}", service.count());
    service.now(|_, _| Reply::token("back"));
    sleep(secs(121)).await;
    assert_eq!(token(&token_source).await.unwrap(), "back");
    assert_eq!(token_source.snapshot().last_error, None);
}

#[tokio::test(start_paused = true)]
async fn an_outage_longer_than_the_life_ends_the_token_at_its_expiry_and_no_later() {
    let (service, tasks, begin) = (numbered(), Tasks::new(), Instant::now());
    let token_source = token_source(&service, &tasks);
    token(&token_source).await.unwrap();
    service.now(|_, _| Reply::outage());
    sleep_until(begin + secs(3589)).await;
    assert_eq!(token(&token_source).await.unwrap(), "t1");
    sleep_until(begin + secs(3591)).await;
    assert!(token_source.current().is_none());
    let before = Instant::now();
    let error = token(&token_source).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Unavailable {
                reason: Reason::Unreachable(_),
                ..
            }
        ),
        "{error:?}"
    );
    // A caller waits as long as it can, unless the next attempt would come after that.
    assert!(
        (25..=30).contains(&before.elapsed().as_secs()),
        "{:?}",
        before.elapsed()
    );
    assert!(error.retry_after().unwrap() <= secs(5));
    sleep(secs(3600)).await;
    assert_eq!(token_source.snapshot().expires_in, None);
    service.now(|_, _| Reply::token("back"));
    sleep(secs(121)).await;
    assert_eq!(token(&token_source).await.unwrap(), "back");
}

#[tokio::test(start_paused = true)]
async fn a_connection_lost_once_costs_no_caller_an_error() {
    let service = Service::new(|number, _| {
        if number == 1 {
            Reply::outage()
        } else {
            Reply::token("t")
        }
    });
    let tasks = Tasks::new();
    let token_source = token_source(&service, &tasks);
    let before = Instant::now();
    assert_eq!(token(&token_source).await.unwrap(), "t");
    assert!(before.elapsed() < secs(2), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_first_callers_wait_for_a_network_that_opens_late() {
    for open_s in [1, 8, 25] {
        let (service, tasks, begin) = (Service::new(|_, _| Reply::outage()), Tasks::new(), Instant::now());
        let token_source = token_source(&service, &tasks);
        sleep_until(begin + Duration::from_millis(100)).await;
        assert_eq!(token_source.snapshot().last_error.unwrap().code, "Unreachable");
        let waiting = {
            let token_source = token_source.clone();
            tasks.spawn("caller", async move { token(&token_source).await })
        };
        sleep_until(begin + secs(open_s)).await;
        service.now(|_, _| Reply::token("t"));
        assert_eq!(waiting.await.unwrap().unwrap(), "t");
        let late = begin.elapsed().saturating_sub(secs(open_s));
        assert!(late <= secs(5) + Duration::from_millis(100), "{late:?} late");
    }
}

/// However long the outage was, sign-in is asked again within five seconds for waiting requests,
/// and not more often than the backoff allows.
#[tokio::test(start_paused = true)]
async fn after_an_outage_of_any_length_callers_have_a_token_within_five_seconds() {
    for outage_s in [3, 20, 56, 200, 3000] {
        let (service, tasks, begin) = (Service::new(|_, _| Reply::outage()), Tasks::new(), Instant::now());
        let token_source = token_source(&service, &tasks);
        let callers = {
            let token_source = token_source.clone();
            tasks.spawn("callers", async move {
                loop {
                    if token(&token_source).await.is_ok() {
                        return Instant::now();
                    }
                }
            })
        };
        sleep_until(begin + secs(outage_s)).await;
        let asked = service.count() as u64;
        assert!(asked <= 4 + outage_s / 3, "{asked} requests in {outage_s} s");
        assert!(asked >= outage_s / 5, "{asked} requests in {outage_s} s");
        service.now(|_, _| Reply::token("t"));
        let back = callers.await.unwrap() - begin;
        assert!(
            back <= secs(outage_s + 5) + Duration::from_millis(100),
            "{outage_s}: {back:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_caller_after_an_outage_waits_for_an_attempt_not_for_the_backoff() {
    let (service, tasks, begin) = (Service::new(|_, _| Reply::outage()), Tasks::new(), Instant::now());
    let token_source = token_source(&service, &tasks);
    sleep_until(begin + secs(1000)).await;
    // No request waited: a minute or more between two attempts.
    assert!(service.count() < 25, "{}", service.count());
    service.now(|_, _| Reply::token("t"));
    let before = Instant::now();
    assert_eq!(token(&token_source).await.unwrap(), "t");
    assert!(
        before.elapsed() <= secs(5) + Duration::from_millis(100),
        "{:?}",
        before.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_cannot_wait_for_the_next_attempt_fails_at_once() {
    let service = Service::new(|_, _| Reply::new(503, &[("retry-after", "40")], "busy"));
    let tasks = Tasks::new();
    let token_source = token_source(&service, &tasks);
    sleep(secs(1)).await;
    let before = Instant::now();
    let error = token(&token_source).await.unwrap_err();
    assert_eq!(
        (before.elapsed(), error.retry_after().unwrap().as_secs()),
        (Duration::ZERO, 39)
    );
    // With a minute to wait, the delay that sign-in asked for is obeyed and waited for.
    service.now(|_, _| Reply::token("t"));
    token_source.bearer(before + secs(60)).await.unwrap();
    assert_eq!((service.count(), before.elapsed().as_secs()), (2, 39));
}

#[tokio::test(start_paused = true)]
async fn a_rejection_is_remembered() {
    let service = Service::new(|_, _| Reply::refusal(7_000_222));
    let (tasks, begin) = (Tasks::new(), Instant::now());
    let token_source = token_source(&service, &tasks);
    for second in 1..600 {
        sleep_until(begin + secs(second)).await;
        let error = token(&token_source).await.unwrap_err();
        assert_eq!(error.code(), "AADSTS7000222");
        assert!(error.retry_after().unwrap() <= secs(66), "{error:?}");
    }
    assert!(
        (9..=11).contains(&service.count()),
        "{} requests in ten minutes",
        service.count()
    );
    let last = token_source.snapshot().last_error.unwrap();
    assert_eq!(last.code, "AADSTS7000222");
    assert!(
        last.advice.starts_with("the client secret has expired"),
        "{}",
        last.advice
    );
    assert!(last.retry_in <= secs(66));
}

#[tokio::test(start_paused = true)]
async fn a_new_secret_that_has_not_reached_all_of_sign_in_costs_seconds() {
    let service = Service::new(|number, _| match number {
        1 | 2 => Reply::refusal(7_000_215),
        _ => Reply::token("t"),
    });
    let (tasks, begin) = (Tasks::new(), Instant::now());
    let token_source = token_source(&service, &tasks);
    sleep(secs(1)).await;
    let error = token(&token_source).await.unwrap_err();
    assert!(error.retry_after().unwrap() <= secs(6), "{error:?}");
    sleep_until(begin + secs(18)).await;
    assert_eq!(token(&token_source).await.unwrap(), "t");
}

#[tokio::test(start_paused = true)]
async fn sign_ins_wish_to_wait_is_obeyed_and_told() {
    let service = Service::new(|number, _| match number {
        1 => Reply::new(429, &[("retry-after", "90")], "Too Many Requests"),
        _ => Reply::token("t"),
    });
    let (tasks, begin) = (Tasks::new(), Instant::now());
    let token_source = token_source(&service, &tasks);
    sleep(secs(30)).await;
    let error = token(&token_source).await.unwrap_err();
    assert_eq!(begin.elapsed(), secs(30), "a known failure is told at once");
    assert_eq!(error.retry_after().unwrap().as_secs(), 60);
    sleep_until(begin + Duration::from_millis(89_500)).await;
    assert_eq!(service.count(), 1);
    assert_eq!(token(&token_source).await.unwrap(), "t", "a second is waited out");
    assert_eq!(service.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_callers_own_time_bounds_its_wait() {
    let service = Service::new(|_, _| Reply::silence());
    let tasks = Tasks::new();
    let token_source = token_source(&service, &tasks);
    let before = Instant::now();
    let error = token_source.bearer(before + secs(3)).await.unwrap_err();
    assert_eq!(before.elapsed(), secs(3));
    assert!(
        matches!(
            error,
            Error::Unavailable {
                reason: Reason::NotInTime,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_spent_on_its_way_is_no_token_and_no_loop() {
    let service = Service::new(|number, _| Reply::token_for(&format!("t{number}"), 2).after(secs(4)));
    let tasks = Tasks::new();
    let token_source = token_source(&service, &tasks);
    sleep(secs(600)).await;
    assert!(token_source.current().is_none());
    assert!(service.count() < 25, "{}", service.count());
}

#[tokio::test(start_paused = true)]
async fn tokens_of_seconds_are_kept_fresh_too() {
    let service = Service::new(|number, _| Reply::token_for(&format!("t{number}"), 10));
    let tasks = Tasks::new();
    let token_source = token_source(&service, &tasks);
    token(&token_source).await.unwrap();
    for _ in 0..600 {
        let before = Instant::now();
        token(&token_source).await.unwrap();
        assert_eq!(before.elapsed(), Duration::ZERO);
        sleep(Duration::from_millis(100)).await;
    }
    assert!((7..=14).contains(&service.count()), "{}", service.count());
}

#[tokio::test(start_paused = true)]
async fn after_the_drain_no_caller_hangs() {
    let service = Service::new(|_, _| Reply::silence());
    let tasks = Tasks::new();
    let token_source = token_source(&service, &tasks);
    assert_eq!(tasks.finish(secs(1)).await, 0);
    let before = Instant::now();
    let error = token(&token_source).await.unwrap_err();
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert!(
        matches!(
            error,
            Error::Unavailable {
                reason: Reason::Stopped,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_401_forces_nothing_while_sign_in_is_known_to_fail() {
    let (service, tasks) = (numbered(), Tasks::new());
    let token_source = token_source(&service, &tasks);
    token(&token_source).await.unwrap();
    service.now(|_, _| Reply::new(429, &[("retry-after", "600")], "Too Many Requests"));
    sleep(secs(2890)).await;
    let bearer = token_source.current().unwrap();
    let asked = service.count();
    assert!(!token_source.rejected(&bearer, false, Instant::now()));
    sleep(secs(1)).await;
    assert_eq!(service.count(), asked);
    assert_eq!(token(&token_source).await.unwrap(), "t1", "the old token serves on");
}

#[tokio::test(start_paused = true)]
async fn a_401_soon_after_another_waits_for_a_renewal_that_is_under_way_anyway() {
    let service = Service::new(|number, _| Reply::token_for(&format!("t{number}"), 40).after(secs(1)));
    let tasks = Tasks::new();
    let token_source = token_source(&service, &tasks);
    let first = token_source.bearer(soon()).await.unwrap();
    assert!(token_source.rejected(&first, false, Instant::now()));
    let second = token_source.bearer(soon()).await.unwrap();
    // Within the minute after a forced renewal a 401 forces nothing.
    assert!(!token_source.rejected(&second, false, Instant::now()));
    while service.count() < 3 {
        sleep(Duration::from_millis(100)).await;
    }
    // The scheduled renewal is under way.
    assert!(token_source.rejected(&second, false, Instant::now()));
    assert_eq!(token(&token_source).await.unwrap(), "t3");
    assert_eq!(service.count(), 3);
}
