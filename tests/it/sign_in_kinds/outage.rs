//! Sign-in goes away, for less and for more than the life of a token.

use crate::support::Controls;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::gateway::{Running, simulator};
use defender_gateway::testing::sim::CLIENT_SECRET;

const SECRET: [(&str, &str); 1] = [("AZURE_CLIENT_SECRET", CLIENT_SECRET)];
const LIFE: Duration = Duration::from_secs(5);

/// Both at a time: they do little but wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outages_shorter_and_longer_than_the_life_of_a_token() {
    tokio::join!(
        an_outage_shorter_than_the_life_is_not_felt(),
        an_outage_longer_than_the_life_ends_with_the_token_and_is_told_truly()
    );
}

async fn an_outage_shorter_than_the_life_is_not_felt() {
    let sim = simulator();
    // Due after a second, tried again after half a second to one, and after one to two: in time,
    // even if two tries fail.
    sim.set_token_lifetime(LIFE, Some(Duration::from_secs(1)));
    let gateway = Running::start(&sim, &SECRET).await;
    gateway.until_signed_in().await;
    let begun = Instant::now();
    sim.shut_sign_in().await.unwrap();
    let (mut down, mut failed) = (true, false);
    while begun.elapsed() < LIFE + LIFE / 4 {
        if down && begun.elapsed() > LIFE * 2 / 5 {
            failed = gateway.token().await["last_error"].is_object();
            sim.open_sign_in().await.unwrap();
            down = false;
        }
        let answer = gateway.ask().await;
        assert_eq!(answer.status, 200, "after {:?}: {}", begun.elapsed(), answer.text);
        sleep(Duration::from_millis(10)).await;
    }
    assert!(failed, "the outage met a renewal");
    gateway.stop().await;
}

async fn an_outage_longer_than_the_life_ends_with_the_token_and_is_told_truly() {
    let sim = simulator();
    sim.set_token_lifetime(LIFE, None);
    let gateway = Running::start(&sim, &SECRET).await;
    gateway.until_signed_in().await;
    let begun = Instant::now();
    sim.shut_sign_in().await.unwrap();
    while begun.elapsed() < LIFE * 2 / 3 {
        assert_eq!(gateway.ask().await.status, 200, "after {:?}", begun.elapsed());
        sleep(Duration::from_millis(20)).await;
    }
    let token = gateway.until("no token", |token| token["expires_in_s"].is_null()).await;
    assert!(
        begun.elapsed() <= LIFE + Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(token["last_error"]["code"], "Unreachable");
    let calls = sim.calls().len();
    for skip in 1..5 {
        let answer = gateway.ask_with(skip, &[("prefer", "wait=1")]).await;
        let code = answer.json()["error"]["code"].clone();
        assert_eq!(
            (answer.status.as_u16(), code.as_str()),
            (503, Some("SignInUnavailable"))
        );
        assert!(
            answer.retry_after.is_some_and(|wait| wait <= 61),
            "{:?}",
            answer.retry_after
        );
    }
    assert_eq!(sim.calls().len(), calls, "an expired token is never sent");
    assert_eq!(gateway.metric("token_expiry_seconds").await, Some(0.0));
    assert!(gateway.admin("/readyz?verbose").await.contains("no token: Unreachable"));

    sim.open_sign_in().await.unwrap();
    // Who can wait until sign-in is back is answered then: while somebody waits it is tried every
    // few seconds.
    let answer = gateway.ask_with(0, &[("prefer", "wait=60")]).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    gateway.until("back", |token| token["last_error"].is_null()).await;
    gateway.stop().await;
}
