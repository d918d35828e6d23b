//! Too little for all: what each caller gets then, with the real limits, of 583 calls. Somebody
//! else has spent the burst of a quiet start before, and what came back in the minute after it.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use defender_gateway::testing::caller::Name;
use defender_gateway::testing::queue::Reason;

use super::upstream::{Manners, Rng, Sent, Upstream};
use super::world::{Gateway, SLOT, Settings, each, tell, wall};

const SECOND: Duration = Duration::from_secs(1);

/// Calls that are counted in each run.
const CALLS: usize = 583;

/// The burst is spent then, and the minute's window is no longer full.
const BEGINNING: Duration = Duration::from_secs(66);

/// The one that is looked at.
const A: &str = "A";

/// A caller that asks again as soon as it is answered, so many times at once, and comes back when
/// it is told to.
#[derive(Clone, Debug)]
struct Asking {
    name: String,
    urgency: u8,
    wait: Duration,
    in_flight: usize,
    weight: u32,
}

fn asking(name: impl Into<String>, urgency: u8, wait_s: u64) -> Asking {
    Asking {
        name: name.into(),
        urgency,
        wait: SECOND * u32::try_from(wait_s).unwrap(),
        in_flight: 1,
        weight: 1,
    }
}

fn crowd(urgency: u8, wait_s: u64) -> impl Iterator<Item = Asking> {
    (0..20).map(move |n| asking(format!("B{n}"), urgency, wait_s))
}

/// What became of one caller's requests.
#[derive(Debug, Default)]
struct Book {
    /// From asking until the call left.
    waits: Vec<Duration>,
    refused: usize,
    displaced: usize,
    /// Served later than allowed.
    late: usize,
}

#[derive(Debug)]
struct Ended {
    books: Vec<(Asking, Book)>,
    sent: Vec<Sent>,
    /// When the status was looked at, and when which caller's next turn should come.
    foretold: Vec<(Instant, Name, Instant)>,
}

impl Ended {
    fn of(&self, name: &str) -> (&Book, usize) {
        let book = self.books.iter().find(|(asking, _)| asking.name == name).unwrap();
        (&book.1, self.calls(name))
    }

    fn calls(&self, name: &str) -> usize {
        self.sent.iter().filter(|sent| sent.caller.as_str() == name).count()
    }

    /// How many slots after the foretold one each turn came, ascending; for those that came.
    fn behind_status(&self) -> Vec<f64> {
        let real = |at: Instant, name: &Name| self.sent.iter().find(|sent| sent.at > at && sent.caller == *name);
        let turns = self.foretold.iter().filter_map(|(at, name, next)| {
            let late = real(*at, name)?.at.saturating_duration_since(*next);
            Some(late.as_secs_f64() / SLOT.as_secs_f64())
        });
        let mut behind: Vec<_> = turns.collect();
        behind.sort_by(f64::total_cmp);
        behind
    }

    fn others(&self) -> impl Iterator<Item = usize> {
        let others = self.books.iter().filter(|(asking, _)| asking.name != A);
        others.map(|(asking, _)| self.calls(&asking.name))
    }
}

async fn ask_on(gateway: Gateway, upstream: Upstream, asking: Asking, book: Arc<Mutex<Book>>) {
    let name = Name::new(&asking.name);
    loop {
        let begun = Instant::now();
        let answer = gateway.request(&name, asking.urgency, asking.wait).await;
        let refused = match answer {
            Ok(_) => {
                if asking.in_flight == 1 {
                    let left = upstream.last_of(&name).unwrap();
                    let mut book = book.lock().unwrap();
                    book.waits.push(left - begun);
                    book.late += usize::from(left - begun > asking.wait + Duration::from_millis(50));
                }
                continue;
            }
            Err(refused) => refused.unwrap(),
        };
        {
            let mut book = book.lock().unwrap();
            book.refused += 1;
            book.displaced += usize::from(refused.reason == Reason::Displaced);
        }
        tokio::time::sleep(SECOND * u32::try_from(refused.retry_after_s()).unwrap()).await;
    }
}

async fn run(callers: Vec<Asking>) -> Ended {
    let upstream = Upstream::new(Manners::GOOD, 5);
    let settings = Settings {
        weights: callers
            .iter()
            .map(|asking| (asking.name.clone(), asking.weight))
            .collect(),
        ..Settings::default()
    };
    let gateway = Gateway::start(&upstream, &wall(), &settings);
    let begin = Instant::now() + BEGINNING;
    while Instant::now() < begin {
        if let Err(after) = gateway.ask(&Name::new("who spent it"), 3, Duration::ZERO).await {
            tokio::time::sleep(after).await;
        }
    }
    let (mut rng, mut books) = (Rng::new(3), Vec::new());
    for asking in callers {
        let book = Arc::<Mutex<Book>>::default();
        for _ in 0..asking.in_flight {
            let asks = ask_on(gateway.clone(), upstream.clone(), asking.clone(), Arc::clone(&book));
            let after = rng.up_to(2 * SECOND);
            gateway.tasks.spawn("caller", async move {
                tokio::time::sleep(after).await;
                asks.await;
            });
        }
        books.push((asking, book));
    }
    let counted = || upstream.sent().into_iter().filter(|sent| sent.at >= begin).take(CALLS);
    let mut foretold = Vec::new();
    while counted().count() < CALLS {
        tokio::time::sleep(SLOT).await;
        let now = Instant::now();
        let shares = gateway.queue.snapshot().shares.into_iter();
        foretold.extend(shares.filter_map(|share| Some((now, share.name, now + share.outlook?.next))));
    }
    let books = books.into_iter();
    Ended {
        sent: counted().collect(),
        foretold,
        books: books
            .map(|(asking, book)| (asking, std::mem::take(&mut *book.lock().unwrap())))
            .collect(),
    }
}

fn median(waits: &[Duration]) -> Duration {
    let mut waits = waits.to_vec();
    waits.sort();
    waits.get(waits.len() / 2).copied().unwrap_or(Duration::MAX)
}

fn row(name: &str, ended: &Ended) -> String {
    let (a, calls) = ended.of(A);
    let (refused, displaced): (usize, usize) = ended
        .books
        .iter()
        .filter(|(asking, _)| asking.name != A)
        .fold((0, 0), |sum, (_, book)| (sum.0 + book.refused, sum.1 + book.displaced));
    format!(
        "{name:<6} {calls:>6} {:>8.1} {:>8} {:>4} to {:<4} {refused:>8} {displaced:>9}\n",
        median(&a.waits).as_secs_f64(),
        a.refused,
        ended.others().min().unwrap(),
        ended.others().max().unwrap(),
    )
}

/// The runs in which one caller has the better right, with whether it may be refused one time in
/// twenty.
fn rows() -> Vec<(&'static str, Vec<Asking>, bool)> {
    let one_at_a_time = |wait| asking(A, 0, wait);
    let twenty_in_flight = || Asking {
        in_flight: 20,
        ..asking("B", 7, 30)
    };
    let heavy = Asking {
        weight: 100,
        ..asking(A, 3, 30)
    };
    vec![
        (
            "v1",
            std::iter::once(one_at_a_time(30)).chain(crowd(7, 30)).collect(),
            false,
        ),
        (
            "v6",
            std::iter::once(one_at_a_time(3)).chain(crowd(7, 30)).collect(),
            true,
        ),
        ("v2", vec![one_at_a_time(30), twenty_in_flight()], false),
        ("v4", vec![one_at_a_time(60), twenty_in_flight()], false),
        ("v5", std::iter::once(heavy).chain(crowd(3, 30)).collect(), true),
    ]
}

#[test]
fn a_better_right_is_worth_its_share_under_overload() {
    let names = ["v1", "v6", "v2", "v4", "v5"];
    let mut table = format!(
        "{:<6} {:>6} {:>8} {:>8} {:>12} {:>8} {:>9}\n",
        "run", "A had", "p50 wait", "refused", "others had", "refused", "displaced"
    );
    let mut wrong = Vec::new();
    let live = |name: &'static str| async move {
        let (_, callers, _) = rows().into_iter().find(|row| row.0 == name).unwrap();
        run(callers).await
    };
    for (name, ended) in each(&names, live) {
        let (_, _, may_be_refused) = rows().into_iter().find(|row| row.0 == name).unwrap();
        table.push_str(&row(name, &ended));
        let (a, calls) = ended.of(A);
        let most = if may_be_refused { calls / 20 } else { 0 };
        if calls < 450 || median(&a.waits) > 3 * SECOND || a.refused > most {
            wrong.push(format!("{name}: {calls} calls, {} refused", a.refused));
        }
        wrong.extend(late(&ended).map(|late| format!("{name}: {late}")));
    }
    tell(&table);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Those who were let in, stayed, and were served after their deadline.
fn late(ended: &Ended) -> impl Iterator<Item = String> {
    let late = ended.books.iter().filter(|(_, book)| book.late > 0);
    late.map(|(asking, book)| format!("{} was served late {} times", asking.name, book.late))
}

#[tokio::test(start_paused = true)]
async fn who_asks_one_by_one_is_never_behind_its_equal_share() {
    let many = Asking {
        in_flight: 20,
        ..asking("B", 3, 10)
    };
    let ended = run(vec![asking(A, 3, 60), many]).await;
    tell(&row("i1", &ended));
    let (mut ahead, mut worst) = (0_i32, 0);
    // What is left of the burst goes in the first second, while A's first call is on its way: it
    // does not ask then.
    let from = ended.sent[0].at + 4 * SECOND;
    for sent in ended.sent.iter().filter(|sent| sent.at >= from) {
        ahead += if sent.caller.as_str() == A { 1 } else { -1 };
        worst = worst.min(ahead);
    }
    assert!(worst >= -2, "A fell {worst} behind");
    assert_eq!(ended.of(A).0.refused, 0);
}

#[tokio::test(start_paused = true)]
async fn in_a_crowd_of_all_urgencies_everybody_has_a_part_and_each_class_its_share() {
    let mut rng = Rng::new(3);
    let waits = [2, 3, 5, 10, 20, 60];
    let callers: Vec<_> = (0..20_u8)
        .map(|n| {
            let wait = waits[rng.below(6) as usize];
            Asking {
                in_flight: [1, 1, 1, 3][rng.below(4) as usize],
                ..asking(format!("c{n}"), n % 8, wait)
            }
        })
        .collect();
    let ended = run(callers).await;
    let mut table = String::from("mixed: urgency, wait, in flight, calls, refused, displaced\n");
    for (asking, book) in &ended.books {
        let _ = writeln!(
            table,
            "u={} wait={:<3} {} {:>5} {:>5} {:>4}",
            asking.urgency,
            asking.wait.as_secs(),
            asking.in_flight,
            ended.calls(&asking.name),
            book.refused,
            book.displaced
        );
    }
    let mut wrong = Vec::new();
    for urgency in 0..8_u8 {
        let calls = ended.sent.iter().filter(|sent| sent.urgency == urgency).count();
        let share = ended.sent.len() as f64 * f64::from(128_u8 >> urgency) / 255.0;
        let _ = writeln!(table, "class {urgency}: {calls} calls, its share is {share:.1}");
        if (calls as f64) < share * 0.8 - 2.0 {
            wrong.push(format!("class {urgency}: {calls} of {share}"));
        }
    }
    let behind = ended.behind_status();
    let [p90, p99, worst] = [90, 99, 100].map(|share| behind[(behind.len() * share / 100).min(behind.len() - 1)]);
    let _ = writeln!(
        table,
        "{} turns foretold by the status; they came so many slots later: p90 {p90:.1}, p99 {p99:.1}, worst {worst:.1}",
        behind.len()
    );
    if p90 > 1.0 || p99 > 5.0 {
        wrong.push(format!(
            "the status foretold turns that came later: p90 {p90}, p99 {p99} slots"
        ));
    }
    tell(&table);
    wrong.extend(late(&ended));
    let starved = ended.books.iter().filter(|(asking, _)| ended.calls(&asking.name) == 0);
    wrong.extend(starved.map(|(asking, _)| format!("{} had nothing", asking.name)));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(start_paused = true)]
async fn an_urgent_tool_that_waits_two_seconds_has_its_turn_beside_an_exporter_within_two_slots() {
    let upstream = Upstream::new(Manners::GOOD, 5);
    let gateway = Gateway::start(&upstream, &wall(), &Settings::default());
    let exporter = Asking {
        in_flight: 100,
        ..asking("exporter", 6, 300)
    };
    for _ in 0..exporter.in_flight {
        let asks = ask_on(gateway.clone(), upstream.clone(), exporter.clone(), Arc::default());
        gateway.tasks.spawn("caller", asks);
    }
    tokio::time::sleep(60 * SECOND).await;
    let (tool, mut rng, mut most, mut asked) = (Name::new(A), Rng::new(8), 0, 0);
    let end = Instant::now() + 13 * 60 * SECOND;
    let mut slowest = Duration::ZERO;
    while Instant::now() < end {
        tokio::time::sleep(rng.gap(10 * SECOND)).await;
        let (begun, before) = (Instant::now(), upstream.sent().len());
        while let Err(refused) = gateway.request(&tool, 0, 2 * SECOND).await {
            let after = refused.unwrap().retry_after_s();
            tokio::time::sleep(SECOND * u32::try_from(after).unwrap()).await;
        }
        asked += 1;
        let sent = upstream.sent();
        let at = sent[before..].iter().position(|sent| sent.caller == tool).unwrap();
        most = most.max(at + 1);
        slowest = slowest.max(sent[before + at].at - begun);
    }
    tell(&format!(
        "trial: {asked} questions of the tool, within {most} slots and {slowest:?}"
    ));
    assert!(asked > 50 && most <= 2, "{asked} questions, {most} slots");
    assert!(slowest <= 2 * SLOT + SECOND, "{slowest:?}");
}

/// A hundred callers that do not know of each other find the quota spent.
#[tokio::test(start_paused = true)]
async fn a_hundred_who_obey_are_served_at_their_first_return_by_and_large() {
    for beside in [0, 10] {
        let upstream = Upstream::new(Manners::GOOD, 9);
        let gateway = Gateway::start(&upstream, &wall(), &Settings::default());
        let spent = Name::new("spent");
        for _ in 0..100 {
            gateway.ask(&spent, 3, Duration::ZERO).await.unwrap();
        }
        // Some who wait for long instead.
        for n in 0..beside {
            let (gateway, name) = (gateway.clone(), Name::new(&format!("patient {n}")));
            let tasks = gateway.tasks.clone();
            tasks.spawn("patient", async move { gateway.ask(&name, 3, 300 * SECOND).await });
        }
        let tries = Arc::<Mutex<Vec<usize>>>::default();
        for n in 0..100 {
            let (gateway, tries) = (gateway.clone(), Arc::clone(&tries));
            let tasks = gateway.tasks.clone();
            tasks.spawn("caller", async move {
                let name = Name::new(&format!("caller {n}"));
                let mut returns = 0;
                while let Err(after) = gateway.ask(&name, 3, 20 * SECOND).await {
                    returns += 1;
                    // As long as a client takes to notice.
                    tokio::time::sleep(after + Duration::from_millis(10 * n)).await;
                }
                tries.lock().unwrap().push(returns);
            });
        }
        let begun = Instant::now();
        while tries.lock().unwrap().len() < 100 {
            tokio::time::sleep(SECOND).await;
        }
        let (took, tries) = (begun.elapsed(), tries.lock().unwrap().clone());
        let at_first = tries.iter().filter(|returns| **returns <= 1).count();
        let most = tries.iter().max().unwrap();
        tell(&format!(
            "100 who obey, {beside} who wait beside: all in {took:?}, {at_first} at their first return, at most {most} returns"
        ));
        assert!(at_first >= 90 && *most <= 4, "{tries:?}");
        assert!(took < SLOT * (110 + beside), "{took:?}");
    }
}
