//! The limits, and the forms of a 429.

use bytes::Bytes;
use http::{Method, StatusCode};

use super::client::{Answer, Client, call, call_to};
use crate::config::Throttle;
use crate::{Config, Limit, Message, RetryAfter, Shape, Simulator};

fn start(config: Config) -> Simulator {
    Simulator::start(config).unwrap()
}

fn tight(throttle: Throttle) -> Config {
    let limits: Vec<Limit> = vec!["3/1h".parse().unwrap()];
    Config {
        throttle,
        shape: Shape::Anchored,
        limits,
        ..Config::instant()
    }
}

async fn exhaust(sim: &Simulator, client: &Client) -> Answer {
    let token = client.token(sim).await;
    for region in ["us", "eu", "uk"] {
        assert_eq!(client.ask(sim, region, &token).await.unwrap().status, StatusCode::OK);
    }
    client.ask(sim, "au", &token).await.unwrap()
}

#[tokio::test]
async fn one_limit_spans_all_regions_and_its_429_is_the_captured_one() {
    let (sim, client) = (start(tight(Throttle::default())), Client::http1());
    let answer = exhaust(&sim, &client).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (StatusCode::TOO_MANY_REQUESTS, "429")
    );
    let seconds = answer.field("retry-after").unwrap();
    assert!((3_590..=3_600).contains(&seconds.parse::<u32>().unwrap()), "{seconds}");
    assert_eq!(
        answer.json()["error"]["message"],
        format!(
            "API calls quota exceeded! Maximum allowed 3 per 01:00:00 for the key Destination+TenantID+AppID. \
             You can send requests again in {seconds} seconds."
        )
    );
    let finding = sim.judge().findings()[0];
    assert_eq!((finding.most, finding.is_within()), (4, false));
}

#[tokio::test]
async fn a_429_can_name_its_wait_as_a_date_or_not_at_all() {
    let date = Throttle {
        header: RetryAfter::Date,
        message: Message::WithoutSeconds,
    };
    let (sim, client) = (start(tight(date)), Client::http1());
    let answer = exhaust(&sim, &client).await;
    let field = answer.field("retry-after").unwrap();
    let when = jiff::fmt::rfc2822::parse(field).unwrap().timestamp();
    let wait = when.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((3_580..=3_601).contains(&wait), "{field}");
    assert_eq!(
        answer.json()["error"]["message"],
        "API calls quota exceeded! maximum allowed 3 per 01:00:00"
    );

    let silent = Throttle {
        header: RetryAfter::Absent,
        message: Message::WithoutSeconds,
    };
    let (sim, client) = (start(tight(silent)), Client::http1());
    assert_eq!(exhaust(&sim, &client).await.field("retry-after"), None);
}

#[tokio::test]
async fn calls_that_name_no_app_and_other_paths_use_no_quota() {
    let (sim, client) = (start(tight(Throttle::default())), Client::http1());
    let token = client.token(&sim).await;
    for _ in 0..5 {
        assert_eq!(
            client.ask(&sim, "us", "bad").await.unwrap().status,
            StatusCode::UNAUTHORIZED
        );
        let other = call_to(&sim, "us", &token, Method::GET, "/")
            .body(Bytes::new())
            .unwrap();
        assert_eq!(client.send(other).await.unwrap().status, StatusCode::NOT_FOUND);
    }
    let bad = call(&sim, "us", &token).body("{}".into()).unwrap();
    assert_eq!(client.send(bad).await.unwrap().status, StatusCode::BAD_REQUEST);
    for status in [200, 200, 429] {
        assert_eq!(
            client.ask(&sim, "us", &token).await.unwrap().status.as_u16(),
            status,
            "a refused body was counted"
        );
    }
}
