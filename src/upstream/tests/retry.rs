//! Which attempts are repeated, how often, and what the caller gets in the end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::time::Instant;
use tower::service_fn;

use super::caller;
use crate::BoxError;
use crate::attempt::{Asked, Attempt, Delivery, Failure, QueuePosition, Retries, RetryHint};
use crate::middleware::{Middleware as _, Next};
use crate::scan::{Endpoint, Headers, Request, UpstreamResponse};
use crate::upstream::Retry;

fn answer(status: u16) -> UpstreamResponse {
    UpstreamResponse {
        status: StatusCode::from_u16(status).unwrap(),
        headers: Headers::default(),
        body: Bytes::new(),
    }
}

fn retry_after(status: u16, seconds: &'static str) -> UpstreamResponse {
    let field = (http::header::RETRY_AFTER, http::HeaderValue::from_static(seconds));
    UpstreamResponse {
        headers: [field].into_iter().collect(),
        ..answer(status)
    }
}

fn failure(again: RetryHint, answer: Option<UpstreamResponse>) -> Failure {
    Failure {
        delivery: Delivery::Unknown,
        again,
        answer,
        source: format!("{again:?}").into(),
    }
}

fn limited() -> Failure {
    failure(RetryHint::WhenAllowed, Some(answer(429)))
}

/// Runs a request against the scripted results of its attempts, each of which takes a second.
/// Returns the outcome, how many attempts were made, and how long it took.
async fn run(
    deadline: Duration,
    script: Vec<Result<UpstreamResponse, Failure>>,
) -> (Result<u16, BoxError>, usize, Duration) {
    let script = Arc::new(Mutex::new(script.into_iter()));
    let places = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&places);
    let inner = service_fn(move |attempt: Attempt| {
        seen.lock().unwrap().push(attempt.position);
        let next = script.lock().unwrap().next().expect("no attempt beyond the script");
        async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            next
        }
    });
    let attempt = Attempt {
        request: Arc::new(Request::plain(Endpoint::HISTORY, ["a"]).unwrap()),
        caller: caller(deadline),
        position: QueuePosition::new(Instant::now()),
        retries: Retries::default(),
    };
    let begun = Instant::now();
    let result = Retry.call(attempt.clone(), &Next::new(inner)).await;
    let places = places.lock().unwrap();
    assert!(
        places.iter().all(|place| place.order() == attempt.position.order()),
        "a retry keeps its place"
    );
    assert!(
        places
            .iter()
            .enumerate()
            .all(|(n, place)| (place.asked() == Asked::Ended) == (n > 0)),
        "and is no further request"
    );
    (
        result.map(|answer| answer.status.as_u16()),
        places.len(),
        begun.elapsed(),
    )
}

/// The failed attempt's reason.
fn reason(error: &BoxError) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

/// The answer to a request that was out of time for another attempt.
fn out_of_time(result: Result<u16, BoxError>) -> u16 {
    let error = result.unwrap_err();
    let failure: &Failure = error.downcast_ref().unwrap();
    failure.answer.as_ref().unwrap().status.as_u16()
}

const LONG: Duration = Duration::from_mins(5);

#[tokio::test(start_paused = true)]
async fn good_answers_and_the_callers_own_faults_are_not_repeated() {
    for status in [200, 400, 401, 403, 404, 429, 501] {
        let (result, attempts, _) = run(LONG, vec![Ok(answer(status))]).await;
        assert_eq!((result.unwrap(), attempts), (status, 1));
    }
    let (result, attempts, _) = run(LONG, vec![Err(failure(RetryHint::Never, None))]).await;
    assert_eq!((reason(&result.unwrap_err()).as_str(), attempts), ("Never", 1));
}

#[tokio::test(start_paused = true)]
async fn a_5xx_is_repeated_once_after_a_short_pause() {
    let (result, attempts, took) = run(LONG, vec![Ok(answer(503)), Ok(answer(200))]).await;
    assert_eq!((result.unwrap(), attempts), (200, 2));
    assert!(
        took >= Duration::from_millis(2100) && took <= Duration::from_millis(2201),
        "{took:?}"
    );
    let (result, attempts, _) = run(LONG, vec![Ok(answer(500)), Ok(answer(502))]).await;
    assert_eq!((result.unwrap(), attempts), (502, 2), "the last answer passes");
}

#[tokio::test(start_paused = true)]
async fn retry_after_on_a_5xx_is_obeyed_when_short_and_passed_on_when_long() {
    let (result, attempts, took) = run(LONG, vec![Ok(retry_after(503, "3")), Ok(answer(200))]).await;
    assert_eq!((result.unwrap(), attempts), (200, 2));
    assert!(is_after(took, 5000), "{took:?}");
    for wait in ["60", "60, 1", "5.5"] {
        let (result, attempts, _) = run(LONG, vec![Ok(retry_after(503, wait))]).await;
        assert_eq!((result.unwrap(), attempts), (503, 1), "{wait}");
    }
}

/// Two attempts of a second, that wait, and the random pause.
fn is_after(took: Duration, wait: u64) -> bool {
    (Duration::from_millis(wait + 100)..=Duration::from_millis(wait + 201)).contains(&took)
}

#[tokio::test(start_paused = true)]
async fn retry_after_on_a_5xx_is_read_in_all_its_forms_and_is_as_if_absent_when_unreadable() {
    let date = http::HeaderValue::from_static("Fri, 31 Dec 2027 23:59:58 GMT");
    for (wait, most) in [
        ("0", 0),
        ("1, 2", 2),
        ("1.5", 2),
        ("Fri, 31 Dec 2027 23:59:59 GMT", 1),
        ("Friday, 31-Dec-27 23:59:59 GMT", 1),
        ("Fri, 31 Dec 2027 20:00:00 GMT", 0),
        ("soon", 0),
        ("-1", 0),
        ("", 0),
    ] {
        let mut first = retry_after(503, wait);
        let sent = (http::header::DATE, date.clone());
        let told = first.headers.iter().map(|(name, value)| (name.clone(), value.clone()));
        first.headers = told.chain([sent]).collect();
        let (result, attempts, took) = run(LONG, vec![Ok(first), Ok(answer(200))]).await;
        assert_eq!((result.unwrap(), attempts), (200, 2), "{wait}");
        assert!(is_after(took, 2000 + most * 1000), "{wait}: {took:?}");
    }
    // Nobody says what time it is there.
    let dated = retry_after(503, "Fri, 31 Dec 2027 23:59:59 GMT");
    let (result, attempts, _) = run(LONG, vec![Ok(dated), Ok(answer(200))]).await;
    assert_eq!((result.unwrap(), attempts), (200, 2));
}

#[tokio::test(start_paused = true)]
async fn each_cause_has_one_further_attempt() {
    let (result, attempts, _) = run(
        LONG,
        vec![
            Err(failure(RetryHint::Once, None)),
            Ok(answer(503)),
            Err(failure(RetryHint::Once, None)),
        ],
    )
    .await;
    assert_eq!((reason(&result.unwrap_err()).as_str(), attempts), ("Once", 3));
    let renewed = Err(failure(RetryHint::Once, Some(answer(401))));
    let (result, attempts, _) = run(LONG, vec![renewed, Err(failure(RetryHint::Once, Some(answer(401))))]).await;
    assert_eq!((result.unwrap(), attempts), (401, 2), "an answer at hand passes");
}

#[tokio::test(start_paused = true)]
async fn a_429_is_repeated_as_long_as_the_deadline_allows() {
    let script = vec![Err(limited()), Err(limited()), Err(limited()), Ok(answer(200))];
    let (result, attempts, _) = run(LONG, script).await;
    assert_eq!((result.unwrap(), attempts), (200, 4));
    let script = vec![Err(limited()), Err(limited()), Err(limited())];
    let (result, attempts, _) = run(Duration::from_millis(2500), script).await;
    assert_eq!(
        (out_of_time(result), attempts),
        (429, 3),
        "the third began in time, a fourth would not"
    );
    let script = vec![Err(limited()), Err(failure(RetryHint::Never, None))];
    let (result, attempts, _) = run(LONG, script).await;
    assert_eq!(
        (reason(&result.unwrap_err()).as_str(), attempts),
        ("Never", 2),
        "the queue's refusal"
    );
}

#[tokio::test(start_paused = true)]
async fn abandoned_calls_are_retried_twice_and_a_moment_past_the_deadline() {
    let given_up = || Err(failure(RetryHint::OtherHost, None));
    let (result, attempts, took) = run(LONG, vec![given_up(), given_up(), Ok(answer(200))]).await;
    assert_eq!((result.unwrap(), attempts, took.as_secs()), (200, 3, 3));
    let (result, attempts, _) = run(LONG, vec![given_up(), given_up(), given_up()]).await;
    assert_eq!((reason(&result.unwrap_err()).as_str(), attempts), ("OtherHost", 3));
    for (left_s, attempts) in [(0, 3), (60, 3)] {
        let script = vec![given_up(), given_up(), Ok(answer(200))];
        let (result, made, _) = run(Duration::from_secs(left_s), script).await;
        assert_eq!((result.unwrap(), made), (200, attempts));
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_sent_nothing_is_bounded_by_the_deadline_alone() {
    let waited = || {
        Err(Failure {
            delivery: Delivery::NotSent,
            ..failure(RetryHint::WhenAllowed, None)
        })
    };
    let script: Vec<_> = std::iter::repeat_with(waited)
        .take(40)
        .chain([Ok(answer(200))])
        .collect();
    let (result, attempts, _) = run(LONG, script).await;
    assert_eq!((result.unwrap(), attempts), (200, 41));
    let (result, attempts, _) = run(Duration::from_secs(5), std::iter::repeat_with(waited).take(6).collect()).await;
    assert_eq!((reason(&result.unwrap_err()).as_str(), attempts), ("WhenAllowed", 6));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_repeated_past_the_deadline_or_without_end() {
    let (result, attempts, _) = run(Duration::from_millis(1050), vec![Ok(answer(503))]).await;
    assert_eq!(
        (out_of_time(result), attempts),
        (503, 1),
        "the pause would pass the deadline"
    );
    let (result, attempts, _) = run(LONG, std::iter::repeat_with(limited).map(Err).take(16).collect()).await;
    assert_eq!((result.unwrap(), attempts), (429, 16));
}
