//! What answers and refusals say about the quota.

use std::time::Duration;

use http::{HeaderValue, Request, StatusCode, header};
use tower::{Layer as _, ServiceExt as _, service_fn};

use super::layer::{ID, ResponsePreferences, answer, config, field, hit};
use crate::BoxError;
use crate::caller::RequestId;
use crate::queue;
use crate::response::{self, Layer, Problem, Reply, RequestError, Window, Windows};

#[test]
fn a_quota_refusal_names_the_windows_that_are_spent() {
    let window = |name: &str, window_s, remaining| Window {
        name: name.into(),
        quota: 100,
        window_s,
        remaining,
        reset_s: 12,
        spread: None,
    };
    let body = |blames_quota, remaining: [u64; 2]| -> serde_json::Value {
        let problem = Problem {
            blames_quota,
            ..Problem::quota_exceeded("later", Duration::from_millis(41_500))
        };
        let windows = [window("1m", 60, remaining[0]), window("1h", 3600, remaining[1])];
        let windows = Windows::new(windows.to_vec(), None);
        serde_json::from_slice(&problem.body(&RequestId::from_caller(ID).unwrap(), &windows)).unwrap()
    };
    let spent = body(true, [0, 20]);
    assert_eq!(
        spent["type"],
        "https://iana.org/assignments/http-problem-types#quota-exceeded"
    );
    assert_eq!(spent["error"]["code"], "TooManyRequests");
    assert_eq!(spent["violated-policies"], serde_json::json!(["1m"]));
    let named = |blames_quota, remaining| body(blames_quota, remaining)["violated-policies"].clone();
    assert_eq!(named(true, [0, 0]), serde_json::json!(["1m", "1h"]));
    // The rest of the hour is spread over the waiting requests.
    assert_eq!(named(true, [30, 5]), serde_json::json!(["1h"]));
    assert_eq!(named(false, [0, 0]), serde_json::Value::Null);
}

#[test]
fn a_refusal_while_the_windows_have_room_says_that_the_hour_is_being_spread() {
    let window = |name: &str, window_s, remaining, spread: Option<&str>| Window {
        name: name.into(),
        quota: 100,
        window_s,
        remaining,
        reset_s: 2,
        spread: spread.map(str::to_owned),
    };
    let body_of = |minute, tokens, operation| -> serde_json::Value {
        let problem = Problem {
            blames_quota: true,
            ..Problem::quota_exceeded("later", Duration::from_secs(2))
        };
        let pace = window(
            "pace",
            240,
            tokens,
            Some("the 1h window is being spread: 25 calls a minute"),
        );
        let windows = [window("1m", 60, minute, None), window("1h", 3600, 900, None), pace];
        let windows = Windows::new(windows.to_vec(), operation);
        serde_json::from_slice(&problem.body(&RequestId::from_caller(ID).unwrap(), &windows)).unwrap()
    };
    let body = |minute, tokens| body_of(minute, tokens, None);
    for tokens in [0, 3] {
        let spread = body(75, tokens);
        assert_eq!(spread["violated-policies"], serde_json::json!(["pace"]));
        assert_eq!(
            spread["detail"],
            "later; the 1h window is being spread: 25 calls a minute"
        );
        assert_eq!(spread["error"]["message"], spread["detail"]);
    }
    // A window without calls left explains the refusal.
    assert_eq!(body(0, 3)["violated-policies"], serde_json::json!(["1m"]));
    assert_eq!(body(0, 3)["detail"], "later");
    // Where each operation has a quota of its own, the text says whose this one is.
    let alone = "this quota is that of the operation definition alone";
    assert_eq!(body_of(0, 3, Some("definition"))["detail"], format!("later; {alone}"));
    let spread = "the 1h window is being spread: 25 calls a minute";
    assert_eq!(
        body_of(75, 3, Some("definition"))["detail"],
        format!("later; {spread}; {alone}")
    );
}

#[tokio::test]
async fn only_the_upstreams_quota_is_blamed_on_its_windows() {
    for (reason, named) in [
        (queue::Reason::Late, serde_json::json!(["1m"])),
        (queue::Reason::Promised, serde_json::json!(["1m"])),
        (queue::Reason::CallerLimiter, serde_json::Value::Null),
    ] {
        let retry_after = Duration::from_secs(3);
        let (answer, body) = answer(move || Err(queue::Refused::new(reason, retry_after).into())).await;
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(field(&answer, "retry-after"), "3");
        assert_eq!(field(&answer, "ratelimit"), "\"1m\";r=37;t=12");
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["violated-policies"], named, "{reason:?}");
    }
}

#[tokio::test]
async fn an_answer_charged_to_another_quota_shows_no_windows() {
    let layer = Layer::new([config()]).without_rate_limit_for(header::AUTHORIZATION);
    for (carries, limited) in [(true, false), (false, true)] {
        for fails in [false, true] {
            let inner = service_fn(move |_: ResponsePreferences| {
                std::future::ready(if fails {
                    Err(BoxError::from(RequestError::Busy))
                } else {
                    Ok(Reply::Served(
                        Box::new(hit("{}")),
                        response::ResponsePreferences::default(),
                    ))
                })
            });
            let mut request = Request::new(());
            if carries {
                let value = HeaderValue::from_static("Bearer abc");
                request.headers_mut().insert(header::AUTHORIZATION, value);
            }
            let answer = layer
                .layer(inner)
                .oneshot(ResponsePreferences(request))
                .await
                .unwrap()
                .response;
            for name in ["ratelimit", "ratelimit-policy"] {
                assert_eq!(answer.headers().contains_key(name), limited, "{name}, fails: {fails}");
            }
        }
    }
}
