//! After a 429, and beside a neighbour: how soon everything is back, what is thought of others, and how much of the quota is used.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::Instant;

use defender_gateway::caller::Name;

use super::counting::{Counting, Form, Told};
use super::upstream::{Dice, Manners, Upstream};
use super::world::{Gateway, HOUR, MINUTE, Settings, each, tell, wall};

const FIVE: Duration = Duration::from_mins(5);
/// Calls in five minutes when the rest of the first hour is spread: (1,500 - 100) / 12.
const SPREAD: usize = 117;

/// What refuses calls besides the limits: at which seconds, what it says, and how many calls at most.
type Storm = (u64, u64, Told, usize);

#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    hours: u32,
    storms: &'static [Storm],
    form: Form,
    /// The neighbour's calls an hour, at random moments, from one second to another.
    neighbour: (u32, u64, u64),
    /// Four callers who always want more, or one who asks once a second.
    saturated: bool,
    seed: u64,
}

const ALONE: Case = Case {
    name: "alone",
    hours: 2,
    storms: &[],
    form: Form::Whole,
    neighbour: (0, 0, 0),
    saturated: true,
    seed: 1,
};

/// What came of it.
struct Outcome {
    start: Instant,
    ours: Vec<Instant>,
    refused: Vec<Instant>,
    theirs: Vec<Instant>,
    /// At the end of each minute: what the ledger and the estimate say of the last hour.
    believed: Vec<(Instant, usize, u64)>,
}

async fn live(case: Case) -> Outcome {
    let start = Instant::now();
    let at = move |seconds| start + Duration::from_secs(seconds);
    let mut counting = Counting::new(case.form);
    for &(from, to, told, most) in case.storms {
        counting = counting.storm(at(from), at(to), told, most);
    }
    let upstream = Upstream::counting(Manners::GOOD, case.seed, counting);
    let gateway = Gateway::start(&upstream, &wall(), &Settings::default());
    let (calls, from, to) = case.neighbour;
    if calls > 0 {
        let (upstream, mut dice) = (upstream.clone(), Dice::new(case.seed + 7));
        gateway.tasks.spawn("neighbour", async move {
            tokio::time::sleep_until(at(from)).await;
            while Instant::now() < at(to) {
                tokio::time::sleep(dice.gap(HOUR / calls)).await;
                upstream.counted(|counting| counting.theirs(Instant::now()));
            }
        });
    }
    let callers = if case.saturated { 4 } else { 1 };
    for n in 0..callers {
        let gateway = gateway.clone();
        let every = Duration::from_secs(u64::from(!case.saturated));
        gateway.tasks.clone().spawn("caller", async move {
            let name = Name::new(&format!("caller {n}"));
            let mut next = Instant::now();
            loop {
                next += every;
                if let Err(again) = gateway.ask(&name, 3, 2 * MINUTE).await {
                    tokio::time::sleep(again.min(Duration::from_secs(1))).await;
                }
                tokio::time::sleep_until(next).await;
            }
        });
    }
    let mut believed = Vec::new();
    while start.elapsed() < HOUR * case.hours {
        tokio::time::sleep(MINUTE).await;
        let snapshot = gateway.quota.snapshot();
        believed.push((Instant::now(), snapshot.windows[1].used, snapshot.foreign));
    }
    let outcome = upstream.counted(|counting| Outcome {
        start,
        ours: std::mem::take(&mut counting.ours),
        refused: std::mem::take(&mut counting.refused),
        theirs: std::mem::take(&mut counting.theirs),
        believed,
    });
    gateway.tasks.finish(Duration::ZERO).await;
    outcome
}

fn between(moments: &[Instant], from: Instant, to: Instant) -> usize {
    moments.iter().filter(|at| from <= **at && **at < to).count()
}

impl Outcome {
    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn hour(&self, of: &[Instant], hour: u32) -> usize {
        between(of, self.start + HOUR * hour, self.start + HOUR * (hour + 1))
    }

    /// Our accepted calls in the n-th five minutes from that second on, the first being 0.
    fn fives(&self, from: u64, count: u32) -> Vec<usize> {
        let from = self.at(from);
        (0..count)
            .map(|n| between(&self.ours, from + FIVE * n, from + FIVE * (n + 1)))
            .collect()
    }

    /// The longest time without an accepted call of ours that began in that hour.
    fn gap(&self, hour: u32) -> Duration {
        let hours = self.start + HOUR * hour..self.start + HOUR * (hour + 1);
        self.ours
            .windows(2)
            .filter(|pair| hours.contains(&pair[0]))
            .map(|pair| pair[1] - pair[0])
            .max()
            .unwrap_or(HOUR)
    }

    fn longest_gap_since(&self, second: u64) -> Duration {
        let since = self.at(second);
        let pairs = self.ours.windows(2).filter(|pair| pair[0] >= since);
        pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or(HOUR)
    }

    /// The first accepted call from that second on, and how much later it came.
    fn first_after(&self, second: u64) -> Duration {
        let since = self.at(second);
        self.ours.iter().find(|at| **at >= since).map_or(HOUR, |at| *at - since)
    }

    fn line(&self, case: &Case) -> String {
        let hours = 0..case.hours;
        let mut line = format!("{:<44}", case.name);
        for hour in hours {
            let (ours, theirs) = (self.hour(&self.ours, hour), self.hour(&self.theirs, hour));
            let _ = write!(
                line,
                " {ours:>4} + {theirs:<4} {:>2} refused, gap {:>4.0} s |",
                self.hour(&self.refused, hour),
                self.gap(hour).as_secs_f64()
            );
        }
        let _ = write!(
            line,
            " estimate {}",
            self.believed.last().map_or(0, |(.., foreign)| *foreign)
        );
        line
    }
}

const fn storm(name: &'static str, hours: u32, storms: &'static [Storm]) -> Case {
    Case {
        name,
        hours,
        storms,
        ..ALONE
    }
}

const fn retry_after(seconds: u64) -> Told {
    Told {
        header: Some(seconds),
        ..Told::BARE
    }
}

const HOUR_NAMED: Told = Told {
    window: Some((1500, HOUR)),
    ..Told::BARE
};

/// After these, five minutes of full pace have at least 110 calls of 117: from how many fives after the end on.
const STORMS: &[(Case, usize)] = &[
    (
        storm("30 s of Retry-After: 1", 2, &[(900, 930, retry_after(1), 9999)]),
        1,
    ),
    (
        storm("60 s of Retry-After: 0", 2, &[(900, 960, retry_after(0), 9999)]),
        1,
    ),
    (storm("one bare 429 at 900 s", 2, &[(900, 960, Told::BARE, 1)]), 1),
    (
        storm("one 429 that names the hour, at 900 s", 2, &[(900, 960, HOUR_NAMED, 1)]),
        1,
    ),
    (
        storm("120 s of Retry-After: 120", 2, &[(900, 1020, retry_after(120), 9999)]),
        1,
    ),
    (
        storm("300 s of Retry-After: 5", 2, &[(900, 1200, retry_after(5), 9999)]),
        2,
    ),
    (
        storm(
            "300 s of Retry-After: 5, and 30 s later",
            2,
            &[(900, 1200, retry_after(5), 9999), (1500, 1530, retry_after(5), 9999)],
        ),
        2,
    ),
    (storm("600 s bare at 900 s", 2, &[(900, 1500, Told::BARE, 9999)]), 2),
    (
        storm("600 s bare in saturation", 3, &[(5000, 5600, Told::BARE, 9999)]),
        2,
    ),
    (
        storm(
            "three bare 429s, a minute apart",
            2,
            &[
                (900, 950, Told::BARE, 1),
                (960, 1010, Told::BARE, 1),
                (1020, 1070, Told::BARE, 1),
            ],
        ),
        1,
    ),
];

#[test]
fn after_a_storm_the_pace_is_back_in_minutes() {
    let (mut table, mut wrong) = (String::new(), Vec::new());
    for ((case, from), outcome) in each(STORMS, |(case, _)| live(case)) {
        let end = case.storms.iter().map(|(_, end, ..)| *end).max().unwrap();
        let last = outcome.refused.last().unwrap().duration_since(outcome.start).as_secs();
        let end = if case.storms[0].3 == 1 { last + 5 } else { end };
        let fives = outcome.fives(end, 6);
        let _ = writeln!(table, "{} {fives:?}", outcome.line(&case));
        if fives[from..].iter().any(|calls| *calls < SPREAD - 7) {
            wrong.push(format!("{}: {fives:?} calls in five minutes each", case.name));
        }
        let longest = outcome.believed.iter().map(|(.., foreign)| *foreign).max().unwrap();
        if longest > 60 {
            wrong.push(format!("{}: {longest} calls of others where there are none", case.name));
        }
    }
    tell(&table);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

const SINGLES: &[Case] = &[
    storm("one bare 429 in saturation", 4, &[(5000, 5060, Told::BARE, 1)]),
    storm(
        "one that names the hour, and no time",
        4,
        &[(5000, 5060, HOUR_NAMED, 1)],
    ),
];

#[test]
fn one_refusal_in_saturation_costs_seconds() {
    let mut table = String::new();
    for (case, outcome) in each(SINGLES, live) {
        let _ = writeln!(table, "{}", outcome.line(&case));
        assert_eq!(outcome.refused.len(), 1, "{}", case.name);
        let probe = outcome.first_after(5001);
        assert!(
            probe <= Duration::from_secs(10),
            "{}: a probe after {probe:?}",
            case.name
        );
        let fives = outcome.fives(5300, 6);
        assert!(fives.iter().all(|calls| *calls >= 119), "{}: {fives:?}", case.name);
        for hour in 1..4 {
            let calls = outcome.hour(&outcome.ours, hour);
            assert!(calls >= 1425, "{}: {calls} calls in hour {hour}", case.name);
        }
    }
    tell(&table);
}

/// While everything is refused and no wait is named, a probe leaves within seconds and then at most a minute apart, one at a time.
#[test]
fn unnamed_waits_are_probed_ever_later_up_to_a_minute() {
    let case = storm("an hour bare", 2, &[(2000, 5600, Told::BARE, 9999)]);
    let (_, outcome) = each(&[case], live).pop().unwrap();
    tell(&outcome.line(&case));
    let gaps: Vec<Duration> = outcome.refused.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps[0] <= Duration::from_secs(7), "{gaps:?}");
    assert!(
        gaps.iter().all(|gap| *gap <= MINUTE + Duration::from_secs(2)),
        "{gaps:?}"
    );
    assert!(outcome.refused.len() <= 70, "{}", outcome.refused.len());
    assert!(outcome.first_after(5600) <= MINUTE + Duration::from_secs(2));
}

/// One caller a second; 20 seconds of `Retry-After: 1`.
#[test]
fn a_short_storm_leaves_no_phantoms() {
    const STORM: &[Storm] = &[(10, 30, retry_after(1), 9999)];
    let case = Case {
        saturated: false,
        ..storm("one caller a second, 20 s of Retry-After: 1", 1, STORM)
    };
    let (_, outcome) = each(&[case], live).pop().unwrap();
    tell(&outcome.line(&case));
    let back = outcome.first_after(30);
    assert!(back <= Duration::from_secs(5), "back after {back:?}");
    for (at, used, foreign) in &outcome.believed {
        let real = outcome
            .ours
            .iter()
            .chain(&outcome.refused)
            .filter(|sent| *sent <= at)
            .count();
        let most = real as f64 * 1.1 + 5.0;
        assert!((*used as f64 + *foreign as f64) <= most, "{used} + {foreign} of {real}");
    }
}

const fn neighbour(name: &'static str, calls: u32, form: Form, seed: u64) -> Case {
    Case {
        name,
        hours: 4,
        form,
        neighbour: (calls, 0, 4 * 3600),
        seed,
        ..ALONE
    }
}

#[test]
fn beside_a_modest_neighbour_nothing_stands_still() {
    const CASES: [Case; 2] = [
        neighbour("150/h, waits named", 150, Form::Whole, 1),
        neighbour("150/h, waits named", 150, Form::Whole, 2),
    ];
    let (mut table, mut wrong) = (String::new(), Vec::new());
    for (case, outcome) in each(&CASES, live) {
        let _ = writeln!(table, "{}", outcome.line(&case));
        for hour in 0..4 {
            let calls = outcome.hour(&outcome.ours, hour);
            if calls < 1300 {
                wrong.push(format!("{}: {calls} calls in hour {hour}", case.name));
            }
            let gap = outcome.gap(hour);
            // The first hour's is what the upstream names; the ledger's own minute comes on top in none.
            if hour > 0 && gap > MINUTE {
                wrong.push(format!("{}: {gap:?} without a call in hour {hour}", case.name));
            }
        }
    }
    tell(&table);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn beside_a_greedy_neighbour_the_quota_is_used_up_and_the_pauses_shrink() {
    const CASES: [Case; 8] = [
        neighbour("750/h, waits named", 750, Form::Whole, 1),
        neighbour("750/h, waits named", 750, Form::Whole, 2),
        neighbour("750/h, waits in the header alone", 750, Form::Header, 1),
        neighbour("750/h, waits in the header alone", 750, Form::Header, 2),
        neighbour("750/h, the window named", 750, Form::WindowOnly, 1),
        neighbour("750/h, bare", 750, Form::Bare, 1),
        neighbour("750/h, bare", 750, Form::Bare, 2),
        neighbour("750/h, bare", 750, Form::Bare, 3),
    ];
    let (mut table, mut wrong) = (String::new(), Vec::new());
    for (case, outcome) in each(&CASES, live) {
        let _ = writeln!(table, "{}", outcome.line(&case));
        let all: Vec<_> = (1..4)
            .map(|hour| outcome.hour(&outcome.ours, hour) + outcome.hour(&outcome.theirs, hour))
            .collect();
        // 97 % from the second hour on. Within one hour the neighbour's own calls differ by some thirty from what is estimated.
        if all.iter().sum::<usize>() < 3 * 1455 || all.iter().any(|calls| *calls < 1425) {
            wrong.push(format!("{}: {all:?} calls an hour", case.name));
        }
        for hour in 1..4 {
            if outcome.gap(hour) > outcome.gap(hour - 1).max(2 * MINUTE) {
                wrong.push(format!("{}: the pause grows in hour {hour}", case.name));
            }
        }
        if outcome.gap(3) > 2 * MINUTE {
            wrong.push(format!("{}: {:?} in the fourth hour", case.name, outcome.gap(3)));
        }
        let earned = outcome.refused.len() as f64 / outcome.ours.len() as f64;
        let most = match case.form {
            Form::Whole | Form::Header => 0.01,
            Form::WindowOnly | Form::Bare => 0.03,
        };
        if earned > most {
            wrong.push(format!("{}: {:.2} % refused", case.name, earned * 100.0));
        }
    }
    tell(&table);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A neighbour for three minutes fills the minute, not the hour: what is believed of the hour stays near the truth.
#[test]
fn a_neighbour_for_three_minutes_leaves_no_phantoms() {
    for form in [Form::Whole, Form::Bare] {
        let case = Case {
            name: "a neighbour for 3 min",
            hours: 1,
            form,
            neighbour: (6000, 0, 180),
            ..ALONE
        };
        let (_, outcome) = each(&[case], live).pop().unwrap();
        tell(&outcome.line(&case));
        for (at, used, foreign) in &outcome.believed {
            let ours = outcome.ours.iter().chain(&outcome.refused);
            let real = ours.chain(&outcome.theirs).filter(|sent| *sent <= at).count();
            let most = real as f64 * 1.1 + 5.0;
            assert!((*used as f64 + *foreign as f64) <= most, "{used} + {foreign} of {real}");
        }
        assert!(outcome.fives(600, 6).iter().all(|calls| *calls >= 100));
        assert!(outcome.longest_gap_since(240) <= MINUTE);
    }
}

/// A neighbour who has left is forgotten within the hour.
#[test]
fn a_neighbour_who_leaves_is_forgotten() {
    let case = Case {
        neighbour: (750, 0, 7200),
        ..neighbour("750/h for two hours", 750, Form::Whole, 1)
    };
    let (_, outcome) = each(&[case], live).pop().unwrap();
    tell(&outcome.line(&case));
    let last = outcome.hour(&outcome.ours, 3);
    assert!(last >= 1490, "{last} calls in the second hour without the neighbour");
}
