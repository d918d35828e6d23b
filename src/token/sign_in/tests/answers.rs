//! What sign-in may answer: tokens in odd forms, refusals, failures, and what is none of them.

use super::*;

#[tokio::test(start_paused = true)]
async fn rejections_contain_entras_code_and_advice() {
    let error = asked_with_secret(|| Reply::refusal(7_000_222)).await.unwrap_err();
    assert_eq!(error.code(), "AADSTS7000222");
    assert!(
        error
            .to_string()
            .contains("AADSTS7000222: the client secret has expired"),
        "{error}"
    );
    assert_eq!(error.message(), "Something is wrong. (trace id trace-1)");
    assert!(matches!(error, Error::Refused { .. }));

    let steering =
        asked_with_secret(|| Reply::json(400, &json!({"error": "x", "error_description": "a\u{202e}b\u{2028}c"})));
    assert_eq!(steering.await.unwrap_err().message(), "abc");

    // Other servers have descriptions only; proxies have neither.
    let error = asked_with_secret(|| Reply::json(400, &json!({"error": "invalid_scope"})))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "invalid_scope");
    let error = asked_with_secret(|| Reply::new(403, &[], "<html>no</html>"))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "HTTP 403");
    let forged = asked_with_secret(|| Reply::json(400, &json!({"error": "a\nb"})))
        .await
        .unwrap_err();
    assert_eq!(forged.code(), "HTTP 400");
}

#[tokio::test(start_paused = true)]
async fn temporary_failures_are_unavailable_in_every_form() {
    let throttled = || {
        Reply::new(
            429,
            &[("retry-after", "60"), ("content-type", "text/plain")],
            "Too Many Requests",
        )
    };
    let error = asked_with_secret(throttled).await.unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Unavailable {
                reason: Reason::Throttled,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(error.retry_after(), Some(Duration::from_mins(1)));

    let dated = || Reply::new(503, &[("retry-after", "Thu, 05 Nov 2026 12:00:30 GMT")], "");
    let error = asked_with_secret(dated).await.unwrap_err();
    assert_eq!(error.code(), "HTTP 503");
    // The response took 20 ms.
    let wait = error.retry_after().unwrap();
    assert!((29_900..=30_000).contains(&wait.as_millis()), "{wait:?}");

    // All forms that the upstream's may have; what cannot be read asks for nothing.
    for (text, seconds) in [
        ("60, 60", Some(60)),
        ("30.0", Some(30)),
        ("1.5", Some(2)),
        ("7200", Some(3600)),
        ("99999999999999999999999", Some(3600)),
        ("soon", None),
        ("-5", None),
        ("Thu, 99 Nov 2026 12:00:30 GMT", None),
    ] {
        let throttled = move || Reply::new(429, &[("retry-after", text)], "Too Many Requests");
        let error = asked_with_secret(throttled).await.unwrap_err();
        assert_eq!(error.retry_after(), seconds.map(Duration::from_secs), "{text}");
    }

    let transient = asked_with_secret(|| Reply::refusal(90_033)).await.unwrap_err();
    assert!(matches!(transient, Error::Unavailable { .. }));
    let busy = asked_with_secret(|| Reply::json(400, &json!({"error": "temporarily_unavailable"}))).await;
    assert!(matches!(busy, Err(Error::Unavailable { .. })));
    let lost = asked_with_secret(Reply::outage).await.unwrap_err();
    assert_eq!(
        (lost.code().as_str(), lost.message().as_str()),
        ("Unreachable", "connection refused")
    );
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_never_ends_is_given_up_after_ten_seconds() {
    let before = tokio::time::Instant::now();
    let error = asked_with_secret(Reply::silence).await.unwrap_err();
    assert_eq!(error.code(), "TimedOut");
    assert_eq!(before.elapsed(), Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_no_token_are_no_token() {
    let token = |body: serde_json::Value| move || Reply::json(200, &body);
    for body in [
        json!({"token_type": "Bearer", "expires_in": 0, "access_token": "t"}),
        json!({"token_type": "Bearer", "expires_in": 3600, "access_token": ""}),
        json!({"token_type": "Bearer", "expires_in": 3600, "access_token": "a\r\nb"}),
        json!({"expires_in": 3600}),
        json!([]),
    ] {
        let error = asked_with_secret(token(body.clone())).await.unwrap_err();
        assert_eq!(error.code(), "UnreadableAnswer", "{body}");
    }
    let page = asked_with_secret(|| Reply::new(200, &[("content-type", "text/html")], "<html>log in</html>")).await;
    assert_eq!(page.unwrap_err().code(), "UnreadableAnswer");
    let redirect = asked_with_secret(|| Reply::new(302, &[("location", "https://evil.example")], "")).await;
    assert_eq!(redirect.unwrap_err().code(), "UnreadableAnswer");
}

#[tokio::test(start_paused = true)]
async fn a_usable_token_is_used_whatever_stands_around_it() {
    for (body, life) in [
        (
            r#"{"token_type":"Bearer","expires_in":"3599","access_token":"t"}"#,
            3599,
        ),
        (
            r#"{"token_type":"Bearer","expires_in":3599.0,"access_token":"t"}"#,
            3599,
        ),
        (
            r#"{"token_type":"Bearer","expires_in":3599,"refresh_in":"1800","access_token":"t"}"#,
            3599,
        ),
        (
            "\u{feff}{\"token_type\":\"Bearer\",\"expires_in\":3599,\"access_token\":\"t\"}",
            3599,
        ),
        (r#"{"expires_in":3599,"access_token":"t"}"#, 3599),
        (
            r#"{"expires_in":3599,"expires_on":"9/14/2026 1:2:3 PM +00:00","access_token":"t"}"#,
            3599,
        ),
        // The life is unknown, so the token is renewed soon.
        (r#"{"expires_in":"soon","access_token":"t"}"#, 300),
    ] {
        for content_type in ["text/html", "application/json"] {
            let reply = move || Reply::new(200, &[("content-type", content_type)], body);
            let issued = asked_with_secret(reply).await.unwrap();
            assert_eq!(issued.secret.expose(), "t");
            assert_eq!(issued.life, Duration::from_secs(life), "{body}");
            let service = Service::new(move |_, _| reply());
            let mut machine = SignIn::new(imds(None), testing::unused(), service.exchange(), wall());
            assert_eq!(machine.ask().await.unwrap().life, Duration::from_secs(life), "{body}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_date_of_expiry_is_read_by_the_servers_clock() {
    let body = json!({"access_token": "t", "expires_on": "2026-11-05T12:10:00Z"}).to_string();
    let fields = [("date", "Thu, 05 Nov 2026 12:05:00 GMT")];
    let issued = asked_with_secret(move || Reply::new(200, &fields, body.clone()))
        .await
        .unwrap();
    assert_eq!(issued.life, Duration::from_mins(5));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_in_the_form_of_a_success_is_a_refusal() {
    let error = asked_with_secret(|| Reply::new(200, &[], Reply::REFUSAL))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert_eq!(error.code(), "AADSTS7000222");
    let error = asked_with_secret(|| Reply::json(200, &json!({"error": "temporarily_unavailable"}))).await;
    assert!(matches!(error, Err(Error::Unavailable { .. })), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn responses_without_a_token_are_explained() {
    for (status, content_type, body, expected) in [
        (
            200,
            "text/html; charset=utf-8",
            "<html>log in</html>",
            "HTTP 200, text/html: its body is a web page",
        ),
        (
            200,
            "application/json",
            "",
            "HTTP 200, application/json: its body is empty",
        ),
        (200, "text/plain", "hello", "HTTP 200, text/plain: its body is not JSON"),
        (
            200,
            "application/json",
            "[]",
            "HTTP 200, application/json: its body is JSON, but not an object",
        ),
        (
            200,
            "application/json",
            "{}",
            "HTTP 200, application/json: its JSON has no access_token",
        ),
        (302, "text/html", "", "HTTP 302, text/html: it redirects"),
    ] {
        let error = asked_with_secret(move || Reply::new(status, &[("content-type", content_type)], body)).await;
        let message = error.unwrap_err().message();
        assert!(message.starts_with(expected), "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_repeats_the_secret_is_not_shown() {
    let echo = || {
        let text = format!("AADSTS1: you sent {CLIENT_SECRET}");
        Reply::json(
            400,
            &json!({"error": CLIENT_SECRET, "error_codes": [1], "error_description": text, "trace_id": CLIENT_SECRET}),
        )
    };
    let error = asked_with_secret(echo).await.unwrap_err();
    let shown = format!("{error} {error:?} {} {}", error.message(), error.code());
    assert!(!shown.contains(CLIENT_SECRET), "{shown}");
    let word_only = || Reply::json(400, &json!({"error": CLIENT_SECRET}));
    let error = asked_with_secret(word_only).await.unwrap_err();
    assert!(!format!("{error:?} {error}").contains(CLIENT_SECRET), "{error:?}");
}
