//! What the exploration finds: nothing in the script as it is, and each mistake that is planted in
//! it.

use super::explore::{EVENTS, Event, explore};

/// From an unused quota, and from one that the one or the other has used.
fn assert_safe(depth: usize) {
    let prologues: [&[Event]; 4] = [
        &[],
        &[Event::Step(0)],
        &[Event::Step(1), Event::Time, Event::Step(0)],
        &[
            Event::Step(1),
            Event::Answer(1),
            Event::Answer(1),
            Event::Time,
            Event::Time,
        ],
    ];
    let explorer = explore(&EVENTS, depth, &prologues, None);
    assert_eq!(explorer.over, None);
    assert!(explorer.calls > 40, "hardly any calls: nothing was tested");
}

#[test]
fn no_order_of_three_events_exceeds_a_window() {
    assert_safe(3);
}

#[test]
fn no_order_of_four_events_exceeds_a_window() {
    assert_safe(4);
}

/// What can happen around a clock that jumps.
const CLOCK: [Event; 6] = [
    Event::Step(0),
    Event::Step(1),
    Event::Time,
    Event::Kill,
    Event::Flush,
    Event::Jump,
];

/// The first replica has made two calls, and said so: it alone knows of them, or both do.
const KNOWN_TO_ONE: [Event; 4] = [Event::Step(0), Event::Answer(0), Event::Answer(0), Event::Step(0)];
const KNOWN_TO_BOTH: [Event; 5] = [
    Event::Step(0),
    Event::Answer(0),
    Event::Answer(0),
    Event::Step(0),
    Event::Step(1),
];

fn assert_safe_when_the_clock_jumps(depth: usize) {
    // That something is tested show the mistakes that are planted below.
    let explorer = explore(&CLOCK, depth, &[&KNOWN_TO_ONE, &KNOWN_TO_BOTH], None);
    assert_eq!(explorer.over, None);
}

/// The clock jumps ahead while the one that knows of the latest calls is killed, and a new one
/// comes.
#[test]
fn no_order_of_four_events_around_a_clock_that_jumps_exceeds_a_window() {
    assert_safe_when_the_clock_jumps(4);
}

#[test]
#[ignore = "two minutes: the short form explores four events"]
fn no_order_of_six_events_around_a_clock_that_jumps_exceeds_a_window() {
    assert_safe_when_the_clock_jumps(6);
}

/// Two calls are in flight when the clock jumps further than they can take. Both replicas notice
/// it, and time passes.
const IN_FLIGHT: [Event; 10] = [
    Event::Step(0),
    Event::Jump,
    Event::Time,
    Event::Step(1),
    Event::Step(0),
    Event::Time,
    Event::Step(0),
    Event::Step(0),
    Event::Time,
    Event::Time,
];

#[test]
fn calls_in_flight_count_on_when_the_clock_jumps() {
    let explorer = explore(&EVENTS, 3, &[&IN_FLIGHT], None);
    assert_eq!(explorer.over, None);
}

/// A rule of the script, what is planted in its place, what happens first, and within how many more
/// events a window is over.
type Mistake = (&'static str, &'static str, &'static [Event], usize);

const MISTAKES: [Mistake; 7] = [
    // The older copy of another server would be believed.
    (
        "state.run ~= run or",
        "",
        &[Event::Step(0), Event::Answer(0), Event::Answer(0)],
        2,
    ),
    // An answer would count from long before it came.
    (
        "count_at(id, now - age)",
        "count_at(id, now - age - 2900000)",
        &[
            Event::Step(0),
            Event::Answer(0),
            Event::Answer(0),
            Event::Step(0),
            Event::Time,
            Event::Time,
            Event::Step(0),
            Event::Time,
            Event::Time,
        ],
        3,
    ),
    // What nobody alive can know of would be free.
    ("if not complete then assume() end", "", &BOTH_LOST, 3),
    // The first copy that comes would be taken for all.
    (
        "local complete = is_complete()",
        "local complete = state.copies > 0",
        &BOTH_LOST,
        3,
    ),
    // Whoever comes when all leases have ended would be taken for the only one.
    ("state.alone = now + step.window", "", &KNOWN_TO_ONE, 3),
    // In a new epoch nobody would compare the clock with what it was before.
    ("server = run,", "", &KNOWN_TO_ONE, 5),
    // Calls that the clock has ended before their time would stay ended.
    (
        "if state.doubted or string.sub(id, 1, #step.me + 1) == step.me .. ':' then",
        "if false then",
        &IN_FLIGHT,
        3,
    ),
];

/// A replica makes two calls and is gone together with the store; the other one makes two as soon
/// as it may.
const BOTH_LOST: [Event; 14] = [
    Event::Step(0),
    Event::Kill,
    Event::Flush,
    Event::Step(1),
    Event::Time,
    Event::Step(1),
    Event::Time,
    Event::Time,
    Event::Step(1),
    Event::Time,
    Event::Time,
    Event::Step(1),
    Event::Time,
    Event::Time,
];

#[test]
fn the_exploration_finds_planted_mistakes() {
    let missed = MISTAKES.iter().filter(|(right, wrong, prologue, depth)| {
        let found = explore(&EVENTS, *depth, &[prologue], Some((right, wrong))).over;
        assert_eq!(explore(&EVENTS, 1, &[prologue], None).over, None, "{right}");
        found.is_none()
    });
    let missed: Vec<_> = missed.map(|(right, ..)| right).collect();
    assert!(missed.is_empty(), "nothing goes wrong without {missed:?}");
}
