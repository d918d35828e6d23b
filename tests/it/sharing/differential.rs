//! Two gateways in front of the same upstream: one shares all that it can, the other asks for each
//! request alone. Whatever the upstream is like, callers of both get the same bytes.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;

use defender_gateway::testing::sim::history::{
    Casing, Duplicates, Envelope, Layout, Matching, NextLink, Order, Unknown,
};
use defender_gateway::testing::sim::{self, Fault, Often, Plan, Shape};

use super::mix::{Mix, Question};
use crate::support::{Answer, Caller, Running, Setup};

/// A long run is about rows; it has ten times the pace, and ends within the hour.
const LONG_RUN: [&str; 2] = ["1000/1s", "750000/1h"];

/// Requests that come together.
const WAVE: usize = 40;

/// How an upstream may be.
type Change = fn(&mut sim::Config);

/// How the answers to the sharing gateway's callers came about.
#[derive(Debug, Default)]
struct Tally {
    hits: usize,
    assembled: usize,
    partial: usize,
    merged: usize,
    joined: usize,
    failed: usize,
    /// Refusals; the requests were asked again as told.
    refused: usize,
    asked: usize,
    calls: usize,
}

impl Tally {
    fn add(&mut self, answer: &Answer) {
        let status = answer.field("cache-status");
        let counts = [
            ("; hit", &mut self.hits),
            ("detail=assembled", &mut self.assembled),
            ("fwd=partial", &mut self.partial),
            ("detail=merged", &mut self.merged),
            ("collapsed", &mut self.joined),
        ];
        for (mark, count) in counts {
            *count += usize::from(status.contains(mark));
        }
        self.asked += 1;
    }
}

/// What callers can see of an answer, but for addresses and for the number that every error of the
/// upstream has of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    status: StatusCode,
    content_type: String,
    body: String,
}

impl Seen {
    fn new(answer: &Answer, caller: &Caller) -> Self {
        let mut body = answer.text().replace(caller.base(), "http://gateway");
        if let Some(at) = body.find("\"target\":\"").filter(|_| !answer.status.is_success()) {
            let at = at + "\"target\":\"".len();
            // The upstream's is a GUID; the gateway's own name what was wrong.
            if body.as_bytes().get(at + 8) == Some(&b'-') {
                body.replace_range(at..at + 36, "");
            }
        }
        Self {
            status: answer.status,
            content_type: answer.field("content-type").to_owned(),
            body,
        }
    }
}

/// Asks for each question alone, once.
struct Alone {
    running: Running,
    seen: HashMap<Question, Seen>,
}

impl Alone {
    async fn ask(&mut self, question: &Question) -> Seen {
        let key = Question {
            fields: Vec::new(),
            ..question.clone()
        };
        if let Some(seen) = self.seen.get(&key) {
            return seen.clone();
        }
        let caller = self.running.caller();
        let answer = caller.send(question.to(caller, true)).await;
        assert!(!answer.field("cache-status").contains("hit"), "{:?}", answer.headers);
        let seen = Seen::new(&answer, caller);
        self.seen.insert(key, seen.clone());
        seen
    }
}

/// A longer run, with this many waves for each upstream.
fn waves() -> usize {
    #[expect(clippy::disallowed_methods, reason = "about the test, not about the gateway")]
    let wanted = std::env::var("SHARING_WAVES");
    wanted.map_or(4, |wanted| wanted.parse().expect("SHARING_WAVES is a number"))
}

/// The answer, and how often it was refused before. In a long run the least urgent may find the
/// quota claimed by those who are expected back.
async fn ask_until_served(caller: &Caller, question: &Question) -> (Answer, usize) {
    let mut refused = 0;
    loop {
        let answer = caller.send(question.to(caller, false)).await;
        if answer.status != StatusCode::TOO_MANY_REQUESTS {
            return (answer, refused);
        }
        refused += 1;
        assert!(refused <= 10, "{question:?} is refused again and again");
        tokio::time::sleep(Duration::from_secs(answer.retry_after().unwrap())).await;
    }
}

/// Lets both gateways answer the same random requests.
async fn compare(seed: u64, upstream: Change, faults: &Plan<Fault>) -> Tally {
    let sharing = Setup::new()
        .region("eu", 6)
        .simulator(upstream)
        .simulator(|config| config.regions[0].faults = faults.clone())
        // The hour is scaled up fifty times; what comes in a wave still has to queue, also on a
        // busy machine. The short window is never full: a connection that is cut loses all calls on
        // it, and each counts until its timeout.
        .limits(
            Shape::SlidingLog,
            if waves() > 100 {
                &LONG_RUN
            } else {
                &["1000/1s", "75000/1h"]
            },
        )
        .set("quota.burst", "6")
        .set("merge.enabled", "true")
        .set("merge.gather", "4ms");
    let alone = Setup::new()
        .simulator(upstream)
        .limits(Shape::SlidingLog, &["100000/1s"])
        .set("quota.burst", "100000")
        .set("cache.ttl", "0s");
    let (sharing, alone) = tokio::join!(sharing.start(), alone.start());
    let mut alone = Alone {
        running: alone,
        seen: HashMap::new(),
    };
    let caller = Caller::http2(sharing.caller.base());
    let (mut mix, mut tally) = (Mix::new(seed, 16, 12), Tally::default());
    for _ in 0..waves() {
        let questions = mix.take(WAVE);
        let answers = join_all(questions.iter().map(|question| ask_until_served(&caller, question))).await;
        for (question, (answer, refused)) in questions.iter().zip(&answers) {
            tally.add(answer);
            tally.refused += refused;
            let expected = alone.ask(question).await;
            if *faults != Plan::none() && answer.status.is_server_error() {
                tally.failed += 1;
                continue;
            }
            assert_eq!(
                Seen::new(answer, &caller),
                expected,
                "seed {seed}: {question:?} was answered as {:?}",
                answer.field("cache-status")
            );
        }
    }
    tally.calls = sharing.simulator.calls().len();
    assert!(tally.refused * 100 <= tally.asked, "seed {seed}: {tally:?}");
    println!("seed {seed}: {tally:?}");
    drop(caller);
    alone.running.finish().await;
    sharing.finish().await;
    tally
}

async fn compare_all(upstreams: &[Change]) -> Vec<Tally> {
    let mut tallies = Vec::new();
    for (seed, upstream) in (0..).zip(upstreams) {
        // On the heap: a comparison holds a whole gateway's front and many requests.
        tallies.push(Box::pin(compare(seed, *upstream, &Plan::none())).await);
    }
    tallies
}

#[tokio::test]
async fn rows_as_documented_in_every_order() {
    let tallies = compare_all(&[
        |_| {},
        |config| config.history.order = Order::ById,
        |config| config.history.order = Order::AsRequested,
    ])
    .await;
    let ways: [fn(&Tally) -> usize; 5] = [|t| t.hits, |t| t.assembled, |t| t.partial, |t| t.merged, |t| t.joined];
    for way in ways {
        assert!(tallies.iter().map(way).sum::<usize>() > 0, "not tested: {tallies:?}");
    }
    assert!(
        tallies.iter().all(|tally| tally.calls < tally.asked),
        "nothing was saved: {tallies:?}"
    );
}

#[tokio::test]
async fn rows_as_in_the_metadata() {
    let tallies = compare_all(&[
        |config| config.history.casing = Casing::Metadata,
        |config| {
            config.history.casing = Casing::Metadata;
            config.history.order = Order::ById;
        },
    ])
    .await;
    for tally in &tallies {
        assert!(tally.hits > 0 && tally.merged > 0, "not tested: {tally:?}");
    }
    assert!(tallies[1].assembled > 0, "not tested: {tallies:?}");
}

#[tokio::test]
async fn upstreams_that_read_ids_as_dotnet_does() {
    let tallies = compare_all(&[
        |config| config.history.matching = Matching::Dotnet,
        |config| {
            config.history.matching = Matching::Dotnet;
            config.history.duplicates = Duplicates::Each;
            config.history.order = Order::AsRequested;
        },
        |config| {
            config.history.matching = Matching::Dotnet;
            config.history.unknown = Unknown::NotFound;
            config.history.casing = Casing::Metadata;
        },
    ])
    .await;
    for tally in &tallies {
        assert!(tally.hits > 0 && tally.merged > 0, "not tested: {tally:?}");
    }
}

#[tokio::test]
async fn answers_in_every_layout_and_envelope() {
    let tallies = compare_all(&[
        |config| config.history.layout = Layout::Spaced,
        |config| {
            config.history.layout = Layout::Pretty;
            config.history.envelope = Envelope::Reversed;
        },
        |config| {
            config.history.layout = Layout::Crlf;
            config.history.envelope = Envelope::Extended;
            config.history.order = Order::ById;
        },
    ])
    .await;
    for tally in &tallies {
        assert!(tally.merged > 0 && tally.assembled > 0, "not tested: {tally:?}");
    }
    assert!(tallies.iter().any(|tally| tally.partial > 0), "not tested: {tallies:?}");
}

#[tokio::test]
async fn pages_that_end_early() {
    let tallies = compare_all(&[
        |config| {
            config.history.page_size = 9;
            config.history.next_link = NextLink::SkipToken;
        },
        |config| {
            config.history.page_size = 9;
            config.history.next_link = NextLink::Custom;
        },
        |config| config.history.page_size = 9,
        |config| {
            config.history.page_size = 9;
            config.history.next_link = NextLink::Absent;
        },
        |config| {
            config.history.page_size = 30;
            config.history.next_link = NextLink::Absent;
            config.history.order = Order::ById;
            config.history.casing = Casing::Metadata;
        },
    ])
    .await;
    assert!(tallies.iter().all(|tally| tally.hits > 0), "not tested: {tallies:?}");
}

#[tokio::test]
async fn upstreams_that_refuse_more_than_documented() {
    let tallies = compare_all(&[
        |config| config.history.unknown = Unknown::NotFound,
        |config| config.history.max_ids = Some(5),
        |config| {
            config.history.matching = Matching::Exact;
            config.history.duplicates = Duplicates::Each;
            config.history.unknown = Unknown::NotFound;
            config.history.page_size = 20;
        },
    ])
    .await;
    assert!(tallies.iter().all(|tally| tally.hits > 0), "not tested: {tallies:?}");
}

#[tokio::test]
async fn upstreams_that_fail_now_and_then() {
    let faults = Plan::of(Fault::Status(StatusCode::INTERNAL_SERVER_ERROR), Often::Share(0.1))
        .and(Fault::Cut, Often::Share(0.05))
        .and(Fault::CutMidBody, Often::Share(0.05));
    let tally = Box::pin(compare(7, |_| {}, &faults)).await;
    // Each is made again once; only who met two faults in a row is told.
    assert!(tally.failed * 4 < tally.asked, "{tally:?}");
    assert!(tally.merged > 0 && tally.hits > 0, "not tested: {tally:?}");
}

/// What a front end sends in the upstream's place is nobody's answer, and nobody's part of one.
#[tokio::test]
async fn upstreams_that_send_rubbish_now_and_then() {
    let share = Often::Share(0.03);
    let faults = [
        Fault::Rubbish,
        Fault::Portal,
        Fault::Empty,
        Fault::ErrorInOk,
        Fault::WrongType,
        Fault::Page(StatusCode::NOT_FOUND),
        Fault::Page(StatusCode::FORBIDDEN),
    ];
    let faults = faults
        .into_iter()
        .fold(Plan::none(), |plan, fault| plan.and(fault, share));
    let tally = Box::pin(compare(8, |_| {}, &faults)).await;
    assert!(tally.failed * 4 < tally.asked, "{tally:?}");
    assert!(tally.merged > 0 && tally.hits > 0, "not tested: {tally:?}");
}
