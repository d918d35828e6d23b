//! Sign-in works.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use super::{numbered, secs, soon, token, token_source};
use crate::clock;
use crate::task::Tasks;
use crate::token::testing::{Reply, Service};
use crate::token::{Kind, Roles, Warning};

#[tokio::test(start_paused = true)]
async fn the_first_token_is_requested_before_it_is_needed() {
    let (service, tasks) = (numbered(), Tasks::new());
    let token_source = token_source(&service, &tasks);
    assert!(token_source.current().is_none());
    sleep(secs(1)).await;
    assert_eq!(token_source.current().unwrap().secret().expose(), "t1");
    let snapshot = token_source.snapshot();
    assert_eq!(snapshot.kind, Kind::ClientSecret);
    assert_eq!(snapshot.expires_in, Some(secs(3599)));
    assert_eq!((snapshot.refreshing, snapshot.last_error), (false, None));
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_waiters_are_one_request() {
    let (service, tasks) = (numbered(), Tasks::new());
    let token_source = token_source(&service, &tasks);
    let waiters: Vec<_> = (0..10_000)
        .map(|_| {
            let token_source = token_source.clone();
            tasks.spawn("waiter", async move { token(&token_source).await })
        })
        .collect();
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap().unwrap(), "t1");
    }
    assert_eq!(service.count(), 1);
}

#[tokio::test(start_paused = true)]
#[expect(
    clippy::disallowed_methods,
    reason = "what a call really costs cannot be seen in paused time"
)]
async fn ten_thousand_requests_around_the_expiry_are_one_token_request_and_none_waits() {
    // An answer takes five seconds, which would be noticed.
    let service = Service::new(|number, _| Reply::token(&format!("t{number}")).after(secs(5)));
    let (tasks, begin) = (Tasks::new(), Instant::now());
    let token_source = token_source(&service, &tasks);
    assert_eq!(token(&token_source).await.unwrap(), "t1");
    let expiry = begin + secs(3600);
    // Five thousand on either side, two milliseconds apart, in tasks of their own.
    sleep_until(expiry - secs(10)).await;
    let requests: Vec<_> = (0..10_000)
        .map(|nth| {
            let token_source = token_source.clone();
            tasks.spawn("request", async move {
                sleep_until(expiry - secs(10) + Duration::from_millis(2) * nth).await;
                let (virtually, really) = (Instant::now(), std::time::Instant::now());
                let token = token(&token_source).await.unwrap();
                assert_eq!(virtually.elapsed(), Duration::ZERO, "it waited");
                assert_eq!(token, "t2");
                really.elapsed()
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    for request in requests {
        slowest = slowest.max(request.await.unwrap());
    }
    assert!(Instant::now() > expiry + secs(9), "the expiry was passed");
    assert_eq!(service.count(), 2);
    println!("the slowest of 10000 took {slowest:?} of real time");
}

#[tokio::test(start_paused = true)]
async fn no_caller_waits_while_a_token_is_valid() {
    // Answers take five seconds, so that every renewal would be noticed.
    let service = Service::new(|number, _| Reply::token(&format!("t{number}")).after(secs(5)));
    let tasks = Tasks::new();
    let token_source = token_source(&service, &tasks);
    token(&token_source).await.unwrap();
    for _ in 0..40_000 {
        let before = Instant::now();
        token(&token_source).await.unwrap();
        assert_eq!(before.elapsed(), Duration::ZERO);
        sleep(secs(1)).await;
    }
    // 50 % to 80 % of an hour each.
    assert!((13..=23).contains(&service.count()), "{}", service.count());
}

#[tokio::test(start_paused = true)]
async fn refresh_in_is_obeyed() {
    let service = Service::new(|number, _| {
        let body = json!({"token_type": "Bearer", "expires_in": 3600, "refresh_in": 600, "access_token": format!("t{number}")});
        Reply::json(200, &body)
    });
    let (tasks, begin) = (Tasks::new(), Instant::now());
    let token_source = token_source(&service, &tasks);
    sleep_until(begin + secs(599)).await;
    assert_eq!(
        (service.count(), token(&token_source).await.unwrap().as_str()),
        (1, "t1")
    );
    sleep_until(begin + secs(601)).await;
    assert_eq!(
        (service.count(), token(&token_source).await.unwrap().as_str()),
        (2, "t2")
    );
}

#[tokio::test(start_paused = true)]
async fn a_late_401_about_an_old_token_forces_nothing() {
    let (service, tasks) = (numbered(), Tasks::new());
    let token_source = token_source(&service, &tasks);
    let old = token_source.bearer(soon()).await.unwrap();
    sleep(secs(3000)).await;
    assert_eq!(token(&token_source).await.unwrap(), "t2");
    assert!(token_source.rejected(&old, false, Instant::now()));
    sleep(secs(10)).await;
    assert_eq!(service.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_same_token_again_is_no_new_one_and_is_not_forced_every_minute() {
    let (service, tasks) = (Service::new(|_, _| Reply::token("cached")), Tasks::new());
    let token_source = token_source(&service, &tasks);
    let first = token_source.bearer(soon()).await.unwrap();
    assert!(token_source.rejected(&first, false, Instant::now()));
    let again = token_source.bearer(soon()).await.unwrap();
    assert_eq!(again.generation(), first.generation());
    for _ in 0..9 {
        assert!(!token_source.rejected(&again, false, Instant::now()));
        sleep(secs(61)).await;
    }
    assert_eq!(service.count(), 2);
    sleep(secs(60)).await;
    assert!(token_source.rejected(&again, false, Instant::now()));
    service.now(|_, _| Reply::token("fresh"));
    let fresh = token_source.bearer(soon()).await.unwrap();
    assert_eq!(fresh.generation(), first.generation() + 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_without_the_permission_is_a_warning_before_the_first_call() {
    let service = Service::new(|number, _| Reply::token(if number == 1 { "e30.e30.c2ln" } else { "opaque" }));
    let tasks = Tasks::new();
    let token_source = token_source(&service, &tasks);
    sleep(secs(1)).await;
    assert_eq!(token_source.snapshot().roles, Roles::Missing);
    assert_eq!(token_source.snapshot().warnings, [Warning::RoleMissing]);
    assert!(
        token_source.snapshot().warnings[0]
            .to_string()
            .contains("Machine.Read.All")
    );
    sleep(secs(3000)).await;
    assert_eq!(token_source.snapshot().warnings, []);
}

#[tokio::test(start_paused = true)]
async fn a_permission_that_is_granted_late_is_noticed_within_minutes_and_nobody_waits() {
    const WITHOUT: &str = "e30.e30.c2ln";
    // Answers take five seconds, so that every renewal would be noticed.
    let service = Service::new(|_, _| Reply::token_for(WITHOUT, 86_400).after(secs(5)));
    let (tasks, begin) = (Tasks::new(), Instant::now());
    let token_source = token_source(&service, &tasks);
    token(&token_source).await.unwrap();
    let mut asked_at = vec![0];
    for second in 6..=7200 {
        sleep_until(begin + secs(second)).await;
        let before = Instant::now();
        assert_eq!(token(&token_source).await.unwrap(), WITHOUT);
        assert_eq!(before.elapsed(), Duration::ZERO);
        if service.count() > asked_at.len() {
            asked_at.push(second);
        }
    }
    let delays: Vec<_> = asked_at.windows(2).map(|pair| (pair[1] - pair[0]) / 6).collect();
    for (delay, minutes) in delays.iter().zip([1, 2, 5, 10, 10, 10]) {
        assert!((9 * minutes..=11 * minutes + 1).contains(delay), "{delays:?}");
    }
    assert!(asked_at.len() <= 17, "{delays:?}");

    // Sign-in is down, and the token that is at hand serves on.
    service.now(|_, _| Reply::outage());
    sleep(secs(1200)).await;
    assert_eq!(token(&token_source).await.unwrap(), WITHOUT);
    service.now(|_, _| Reply::token_for("e30.eyJyb2xlcyI6WyJNYWNoaW5lLlJlYWQuQWxsIl19.c2ln", 86_400));
    sleep(secs(130)).await;
    assert_eq!(token_source.snapshot().roles, Roles::Sufficient);
    let asked = service.count();
    sleep(secs(3600)).await;
    assert_eq!(service.count(), asked, "the usual time has come back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_on_several_threads_share_one_renewal_too() {
    let (service, tasks) = (numbered(), Tasks::new());
    let token_source = token_source(&service, &tasks);
    for round in 1..=20 {
        // All calls have the same token, and all are told that it was rejected.
        let calls: Vec<_> = (0..200)
            .map(|_| {
                let token_source = token_source.clone();
                tasks.spawn("call", async move { token_source.bearer(soon()).await.unwrap() })
            })
            .collect();
        let mut bearers = Vec::new();
        for call in calls {
            bearers.push(call.await.unwrap());
        }
        assert!(bearers.iter().all(|bearer| bearer.generation() == round));
        token_source.end_cooldown();
        let renewals: Vec<_> = bearers
            .into_iter()
            .map(|bearer| {
                let token_source = token_source.clone();
                tasks.spawn("rejected", async move {
                    assert!(token_source.rejected(&bearer, false, Instant::now()));
                    token_source.bearer(soon()).await.unwrap().generation()
                })
            })
            .collect();
        for renewal in renewals {
            assert_eq!(renewal.await.unwrap(), round + 1);
        }
    }
    assert_eq!(service.count(), 21);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_expired_while_the_machine_was_suspended_is_not_sent() {
    let (service, tasks) = (numbered(), Tasks::new());
    let token_source = token_source(&service, &tasks);
    assert_eq!(token(&token_source).await.unwrap(), "t1");
    clock::suspend(Duration::from_hours(1) / 2);
    assert_eq!(token(&token_source).await.unwrap(), "t1");
    clock::suspend(Duration::from_hours(1) / 2);
    assert!(token_source.current().is_none() && token_source.snapshot().expires_in.is_none());
    assert_eq!(token(&token_source).await.unwrap(), "t2");
    assert!(token_source.current().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_token_is_as_old_as_the_suspend_in_which_it_was_on_its_way() {
    let service = Service::new(|number, _| {
        if number == 1 {
            clock::suspend(Duration::from_hours(1) / 2);
        }
        Reply::token(&format!("t{number}"))
    });
    let tasks = Tasks::new();
    let token_source = token_source(&service, &tasks);
    assert_eq!(token(&token_source).await.unwrap(), "t1");
    clock::suspend(Duration::from_hours(1) / 2);
    assert!(token_source.current().is_none());
}
