//! The call that tries a rejected token when its minute is over.

use futures_util::future::pending;

use super::*;

#[tokio::test(start_paused = true)]
async fn one_call_of_many_tries_a_rejected_token_when_its_minute_is_over() {
    let (set, defender) = revoked();
    let ask = || call(&set.token_source, &defender, Duration::from_secs(2));
    for _ in 0..2 {
        assert!(ask().await.is_err());
    }
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(61)).await;
        let before = defender.calls.load(Ordering::Relaxed);
        let answers = join_all((0..20).map(|_| ask())).await;
        assert!(answers.iter().all(Result::is_err));
        assert_eq!(defender.calls.load(Ordering::Relaxed), before + 1);
    }
}

/// What a try may bring that says nothing about the token.
fn silences() -> [Result<UpstreamResponse, Failure>; 6] {
    let response = |status, body: &'static str| UpstreamResponse {
        status,
        headers: Headers::default(),
        body: Bytes::from_static(body.as_bytes()),
    };
    let failure = |delivery| Failure {
        delivery,
        again: RetryHint::Once,
        answer: None,
        source: "lost".into(),
    };
    [
        Ok(response(StatusCode::SERVICE_UNAVAILABLE, "")),
        // A front end may have sent it.
        Ok(response(StatusCode::TOO_MANY_REQUESTS, "")),
        Ok(response(StatusCode::UNAUTHORIZED, "<html>who are you?</html>")),
        Ok(response(StatusCode::OK, "<html>Sign in to the network</html>")),
        Err(failure(Delivery::NotSent)),
        Err(failure(Delivery::Unknown)),
    ]
}

/// A token that is withheld, and whose minute is just over; Defender accepts it again.
async fn withheld() -> (Setting, Defender) {
    let (set, defender) = revoked();
    for _ in 0..2 {
        assert!(call(&set.token_source, &defender, SOON).await.is_err());
    }
    defender.valid.lock().unwrap().push("t1");
    assert!(call(&set.token_source, &defender, Duration::ZERO).await.is_err());
    tokio::time::sleep(Duration::from_secs(61)).await;
    (set, defender)
}

/// Tries the token in a call that ends so.
async fn tried(set: &Setting, outcome: Result<UpstreamResponse, Failure>) {
    let outcome = Arc::new(Mutex::new(Some(outcome)));
    let inner = tower::service_fn(move |_: Authorized| {
        let outcome = outcome.lock().unwrap().take().expect("one call");
        async { outcome }
    });
    let _ = set.token_source.call(routed(SOON), &Next::new(inner)).await;
}

#[tokio::test(start_paused = true)]
async fn a_try_that_says_nothing_about_the_token_leaves_the_next_one_to_another_call() {
    for outcome in silences() {
        let (set, defender) = withheld().await;
        let shown = format!("{outcome:?}");
        tried(&set, outcome).await;
        let results = join_all((0..20).map(|_| call(&set.token_source, &defender, Duration::ZERO))).await;
        let good = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(good, 1, "still one at a time after {shown}");
        for result in join_all((0..20).map(|_| call(&set.token_source, &defender, Duration::ZERO))).await {
            assert_eq!(result.unwrap().status, StatusCode::OK, "{shown}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_try_whose_caller_hangs_up_is_another_calls() {
    let (set, defender) = withheld().await;
    let silent = Next::new(tower::service_fn(|_: Authorized| pending()));
    let hung_up = tokio::time::timeout(Duration::from_secs(1), set.token_source.call(routed(SOON), &silent));
    assert!(hung_up.await.is_err());
    let answer = call(&set.token_source, &defender, Duration::ZERO).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_of_the_request_shows_that_the_token_is_accepted() {
    for status in [400, 403, 404] {
        let (set, defender) = withheld().await;
        let rejected = UpstreamResponse {
            status: status.try_into().unwrap(),
            headers: Headers::default(),
            body: Bytes::from_static(br#"{"error":{"code":"NotFound","message":"no such id"}}"#),
        };
        tried(&set, Ok(rejected)).await;
        for result in join_all((0..20).map(|_| call(&set.token_source, &defender, Duration::ZERO))).await {
            assert_eq!(result.unwrap().status, StatusCode::OK, "{status}");
        }
    }
}
