//! An upstream that refuses calls at random, and a gateway that spreads nothing.

use std::fmt::Write as _;

use defender_gateway::testing::quota::Pacing;

use super::case::{ALONE, Case, live};
use super::counting::{Form, Told};
use super::world::{MINUTE, each, tell};

/// Three hours of refusals that have nothing to do with the quota, and one without.
const fn refusing(name: &'static str, share: f64, told: Told, seed: u64) -> Case {
    Case {
        name,
        hours: 4,
        random: (share, told, 3 * 3600),
        seed,
        ..ALONE
    }
}

/// Of the quota, so much is used in each hour, and a refused call is a call: at best 99, 98 and 95
/// %.
const SHARES: &[(Case, f64)] = &[
    (refusing("1 %, bare", 0.01, Told::BARE, 1), 0.95),
    (refusing("1 %, Retry-After: 10", 0.01, Told::retry_after(10), 2), 0.95),
    (refusing("1 %, Retry-After: 30", 0.01, Told::retry_after(30), 3), 0.95),
    (refusing("2 %, bare", 0.02, Told::BARE, 4), 0.94),
    (refusing("2 %, Retry-After: 1", 0.02, Told::retry_after(1), 5), 0.94),
    (refusing("2 %, Retry-After: 30", 0.02, Told::retry_after(30), 6), 0.9),
    (refusing("5 %, bare", 0.05, Told::BARE, 7), 0.75),
    (refusing("5 %, Retry-After: 5", 0.05, Told::retry_after(5), 8), 0.75),
];

#[test]
fn refusals_at_random_do_not_lower_the_pace() {
    let (mut table, mut wrong) = (String::new(), Vec::new());
    for ((case, least), outcome) in each(SHARES, |(case, _)| live(case)) {
        let fives = outcome.fives(3 * 3600, 6);
        let _ = writeln!(table, "{} {fives:?}", outcome.line(&case));
        for hour in 0..3 {
            let used = outcome.hour(&outcome.ours, hour) as f64 / 1500.0;
            if used < least {
                wrong.push(format!("{}: {:.1} % in hour {hour}", case.name, used * 100.0));
            }
        }
        // When they stop, the calls that were refused are still in the hour, and nothing else is.
        let back = if case.random.0 > 0.02 { 95 } else { 115 };
        if fives[1..].iter().any(|calls| *calls < back) {
            wrong.push(format!("{}: {fives:?} calls in five minutes each", case.name));
        }
        if outcome.believed.last().is_none_or(|(.., foreign)| *foreign > 0) {
            wrong.push(format!("{}: others are believed in an hour later", case.name));
        }
    }
    tell(&table);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// While waits of a minute and more are obeyed, up to two fifths of the time pass without a call.
/// What is missed is caught up, since the bucket holds a longer pause than these; but an hour later
/// nothing returns for as long as the pause was, and the plan saves as much to bridge that. At the
/// end of an hour so much is kept back, and as much is missing from a pause that has just been:
/// twice the calls of a pause.
#[test]
fn waits_of_a_minute_and_more_cost_twice_what_one_of_them_takes() {
    const CASES: [Case; 3] = [
        refusing("1 %, Retry-After: 60", 0.01, Told::retry_after(60), 9),
        refusing("1 %, Retry-After: 75", 0.01, Told::retry_after(75), 10),
        refusing("1 %, Retry-After: 90", 0.01, Told::retry_after(90), 11),
    ];
    let (mut table, mut wrong) = (String::new(), Vec::new());
    for (case, outcome) in each(&CASES, live) {
        let fives = outcome.fives(3 * 3600, 6);
        let _ = writeln!(table, "{} {fives:?}", outcome.line(&case));
        let wait = case.random.1.header.unwrap();
        let pause = usize::try_from(wait * 1500 / 3600).unwrap();
        for hour in 1..3 {
            let (used, refused) = (outcome.hour(&outcome.ours, hour), outcome.hour(&outcome.refused, hour));
            let least = (1500 - refused - 2 * pause) * 99 / 100;
            let _ = writeln!(table, "  {used} of {least}; paused for {} s", refused as u64 * wait);
            if used < least {
                wrong.push(format!("{}: {used} of {least} calls in hour {hour}", case.name));
            }
        }
        if fives[1..].iter().any(|calls| *calls < 115) {
            wrong.push(format!("{}: {fives:?} calls in five minutes each", case.name));
        }
    }
    tell(&table);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Everything that the windows allow leaves at once, but what others use is no room: an export that
/// comes an hour after a neighbour finds that out and then asks about once a minute, where it would
/// otherwise be refused every few seconds for the rest of the hour.
#[test]
fn without_pacing_the_estimate_still_restrains() {
    let case = |name, calls, form, seed| Case {
        name,
        hours: 4,
        form,
        neighbour: (calls, 0, 4 * 3600),
        pacing: Pacing::None,
        from: 3600,
        seed,
        ..ALONE
    };
    let cases = [
        case("unpaced, 750/h, waits named", 750, Form::Whole, 1),
        case("unpaced, 750/h, the window named", 750, Form::WindowOnly, 2),
        case("unpaced, 750/h, bare", 750, Form::Bare, 3),
        case("unpaced, 150/h, waits named", 150, Form::Whole, 4),
        // Of many calls in flight only the first refusal tells something.
        Case {
            callers: 32,
            ..case("unpaced, 750/h, 32 callers", 750, Form::Whole, 5)
        },
    ];
    let (mut table, mut wrong) = (String::new(), Vec::new());
    for (case, outcome) in each(&cases, live) {
        let _ = writeln!(table, "{}", outcome.line(&case));
        let first = outcome.fives(3600, 1)[0];
        if first < 400 {
            wrong.push(format!("{}: {first} calls in the first five minutes", case.name));
        }
        for hour in 1..4 {
            let refused = outcome.hour(&outcome.refused, hour);
            if refused > 120 {
                wrong.push(format!("{}: {refused} refused in hour {hour}", case.name));
            }
            let all = outcome.hour(&outcome.ours, hour) + outcome.hour(&outcome.theirs, hour);
            if all < 1425 {
                wrong.push(format!("{}: {all} calls in hour {hour}", case.name));
            }
            if case.neighbour.0 == 750 && outcome.gap(hour) > 5 * MINUTE {
                wrong.push(format!(
                    "{}: none for {:?} in hour {hour}",
                    case.name,
                    outcome.gap(hour)
                ));
            }
        }
    }
    tell(&table);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Without others there is no estimate, and all of the hour leaves as fast as the minute lets it.
#[test]
fn without_pacing_and_without_others_nothing_restrains() {
    let case = Case {
        name: "unpaced, alone, 1 % refused",
        random: (0.01, Told::BARE, 2 * 3600),
        pacing: Pacing::None,
        ..ALONE
    };
    let (_, outcome) = each(&[case], live).pop().unwrap();
    tell(&outcome.line(&case));
    assert!(outcome.fives(0, 4).iter().sum::<usize>() >= 1450);
    assert!(outcome.hour(&outcome.ours, 1) >= 1450);
}
