//! Floods over HTTP/2: much work or memory for few bytes, and windows that never open.

use std::time::Duration;

use super::bench::{Bench, history_body};
use super::frame::{
    ACK, CONTINUATION, DATA, END_STREAM, Frames, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS, Said, WINDOW_UPDATE,
    block, frame, head, setting,
};
use crate::support::{ProcessUsage, within};

/// A flooded gateway may stop to read. Then the flood is over.
const PRESSURE: Duration = Duration::from_secs(2);

/// What memory may be above the base line during a flood. The program is a debug build, and its
/// allocator keeps what it once had.
const SLACK_KIB: usize = 24 * 1024;

/// So many frames, none of which says anything.
const FRAMES: u32 = 100_000;

fn floods() -> Vec<(&'static str, Vec<u8>)> {
    let all = |make: &dyn Fn(u32) -> Vec<u8>| (0..FRAMES).flat_map(make).collect::<Vec<u8>>();
    let open = head(0, 1, &[]);
    let on_one = |make: &dyn Fn(u32) -> Vec<u8>| [open.clone(), all(make)].concat();
    let head_of = |rest: Vec<u8>| [frame(HEADERS, END_STREAM, 1, &block(&[(":method", "POST")])), rest].concat();
    let cancel = [0, 0, 0, 8];
    vec![
        (
            "resets",
            all(&|n| {
                [
                    head(END_STREAM, 2 * n + 1, &[]),
                    frame(RST_STREAM, 0, 2 * n + 1, &cancel),
                ]
                .concat()
            }),
        ),
        // Resets that the server has to make: a window of 0 more is an error of the stream
        // (CVE-2025-8671).
        (
            "provoked resets",
            all(&|n| [head(0, 2 * n + 1, &[]), frame(WINDOW_UPDATE, 0, 2 * n + 1, &[0; 4])].concat()),
        ),
        ("empty continuations", head_of(all(&|_| frame(CONTINUATION, 0, 1, &[])))),
        (
            "continuations",
            head_of(
                (0..2000)
                    .flat_map(|_| frame(CONTINUATION, 0, 1, &block(&[("x", &"y".repeat(16_000))])))
                    .collect(),
            ),
        ),
        ("settings", all(&|n| frame(SETTINGS, 0, 0, &setting(4, 65_535 - n % 2)))),
        ("acknowledgements of settings", all(&|_| frame(SETTINGS, ACK, 0, &[]))),
        ("table sizes", all(&|n| frame(SETTINGS, 0, 0, &setting(1, n % 4096)))),
        (
            "pings",
            all(&|n| frame(PING, 0, 0, &[n.to_be_bytes(), n.to_be_bytes()].concat())),
        ),
        ("priorities", on_one(&|_| frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 9]))),
        ("empty data", on_one(&|_| frame(DATA, 0, 1, &[]))),
        (
            "windows by one byte",
            on_one(&|_| frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
        ),
        ("unknown frames", all(&|_| frame(99, 0, 0, &[0; 64]))),
        // A field of the dynamic table, named a thousand times in a few bytes each: 4 MB of fields
        // in 1 kB of head (CVE-2016-6581).
        ("a bomb of fields", {
            let mut bomb = vec![0x40, 1, b'x', 0x7f, 0xa1, 0x1e];
            bomb.extend([b'y'; 4000]);
            bomb.extend([0xbe; 12_000]);
            (0..20)
                .flat_map(|n| frame(HEADERS, END_STREAM | super::frame::END_HEADERS, 2 * n + 1, &bomb))
                .collect()
        }),
    ]
}

fn assert_modest(bench: &Bench, before: ProcessUsage, attack: &str) {
    let held = bench.held();
    assert!(
        held.memory_kib <= before.memory_kib + SLACK_KIB,
        "{attack}: {before:?}, then {held:?}"
    );
}

#[tokio::test]
async fn floods_of_frames_are_stopped_or_cost_nothing() {
    let bench = Bench::start().await;
    let before = bench.held();
    for (name, bytes) in floods() {
        // Nothing of what the gateway says is read: it must not pile up.
        let mut frames = Frames::open(&bench, &[]).await;
        let took = frames.0.press(&bytes, PRESSURE).await;
        bench.honest(name).await;
        assert_modest(&bench, before, name);
        println!("{name}: {}", if took { "taken" } else { "stopped" });
    }
    bench.assert_nothing_got_through("all of them");
    bench.returned_to(before, SLACK_KIB).await;
    bench.finish().await;
}

#[tokio::test]
async fn answers_that_nobody_takes_are_few_and_stop_nobody() {
    let bench = Bench::start().await;
    let known = bench.known().await;
    let before = bench.held();
    let mut stuck = Vec::new();
    for _ in 0..20 {
        // No window: the gateway may send heads, but not a byte of a body.
        let mut frames = Frames::open(&bench, &setting(4, 0)).await;
        for n in 0..100 {
            let body = frame(DATA, END_STREAM, 2 * n + 1, history_body(&known).as_bytes());
            frames.0.send(&[head(0, 2 * n + 1, &[]), body].concat()).await;
        }
        for _ in 0..100 {
            let said = within("the head of an answer", frames.next()).await;
            assert!(matches!(said, Said::Answer(_, Some(200))), "{said:?}");
        }
        stuck.push(frames);
    }
    bench.honest("two thousand answers that nobody takes").await;
    assert_modest(&bench, before, "answers that nobody takes");
    drop(stuck);
    bench.returned_to(before, SLACK_KIB).await;
    bench.finish().await;
}
