//! What other calls bring for a request while it waits for its own. In virtual time.

use std::ops::Range;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until};

use defender_gateway::testing::caller::CacheDirectives;
use defender_gateway::testing::scan::{Endpoint, Outcome, Request};

use super::stack_fixture::{Layout, Sharing, StackFixture, StaleAnswers, Tenant, rows};

/// One call every eight seconds, and a hundred ids in each.
const LIMITS: [(u32, u64); 1] = [(1, 8)];

fn ids(numbers: Range<u32>) -> Vec<String> {
    numbers.map(|n| format!("id{n}")).collect()
}

/// Asks for all of these a second after the first call has left; each gets what it would have got
/// alone. Returns when each was answered, and for how many ids each call asked.
async fn ask_together(questions: &[(Vec<String>, CacheDirectives)]) -> (Vec<u64>, Vec<usize>) {
    let stack_fixture = StackFixture::with(Sharing::Merge, &LIMITS, StaleAnswers::Off, Layout::Compact);
    let start = Instant::now();
    stack_fixture.ask("first", &ids(1_000..1_001)).await.unwrap();
    let asked = questions.iter().enumerate().map(async |(n, (ids, directives))| {
        sleep_until(start + Duration::from_secs(1)).await;
        let name = format!("caller-{n}");
        let served = stack_fixture.ask_with(&name, ids, *directives).await.unwrap();
        let alone = Request::plain(Endpoint::HISTORY, ids.iter().map(String::as_str)).unwrap();
        let alone = rows(&alone, Layout::Compact, Tenant::Consistent);
        assert_eq!(served.answer.body, alone, "{:?}", served.status);
        assert_ne!(served.outcome, Outcome::Hit);
        start.elapsed().as_secs()
    });
    let answered = join_all(asked).await;
    let calls = stack_fixture.arrivals.lock().unwrap();
    (answered, calls.iter().skip(1).map(|call| call.ids.len()).collect())
}

#[tokio::test(start_paused = true)]
async fn what_has_come_meanwhile_is_not_asked_for_again() {
    let any = CacheDirectives::default();
    // There is no room for both in one call.
    let (answered, calls) = ask_together(&[(ids(0..60), any), (ids(50..110), any)]).await;
    assert_eq!(calls, [60, 50]);
    assert_eq!(answered, [8, 16]);
}

#[tokio::test(start_paused = true)]
async fn who_needs_nothing_more_waits_no_longer() {
    let any = CacheDirectives::default();
    let both = [ids(50..51), ids(150..151)].concat();
    let (answered, calls) = ask_together(&[(ids(0..100), any), (ids(100..200), any), (both, any)]).await;
    assert_eq!(calls, [100, 100]);
    assert_eq!(answered, [8, 16, 16]);
}

#[tokio::test(start_paused = true)]
async fn who_says_how_old_an_answer_may_be_asks_for_all() {
    let young = CacheDirectives {
        max_age: Some(Duration::from_secs(3)),
        ..CacheDirectives::default()
    };
    let fresh = CacheDirectives {
        no_cache: true,
        ..CacheDirectives::default()
    };
    for directives in [young, fresh] {
        let questions = [(ids(0..60), CacheDirectives::default()), (ids(50..110), directives)];
        assert_eq!(ask_together(&questions).await.1, [60, 60]);
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_the_last_of_a_greedy_callers_line_has_it_in_a_turn_of_its_own() {
    // One call a second.
    let stack_fixture = StackFixture::with(Sharing::SingleFlight, &[(1, 1)], StaleAnswers::Off, Layout::Compact);
    let start = Instant::now();
    let greedy = join_all((0..15).map(async |n| stack_fixture.ask("greedy", &ids(n..n + 1)).await.unwrap()));
    let modest = async {
        sleep_until(start + Duration::from_millis(100)).await;
        stack_fixture.ask("modest", &ids(14..15)).await.unwrap();
        start.elapsed()
    };
    let (_, took) = tokio::join!(greedy, modest);
    assert!(took < Duration::from_secs(4), "within two slots: {took:?}");
    let calls = stack_fixture.arrivals.lock().unwrap().len();
    assert_eq!(calls, 15, "its call has answered the greedy one too");
}
