//! Whether what a request costs depends on how much there is: `cargo bench --bench scaling`, half a minute and 2 GB.
//!
//! Each row is measured in the same run as the row with one entry, and told as a ratio to it.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot go on stops, and prints what it found"
)]

mod support;

use std::sync::Arc;

use tokio::time::Instant;
use tower::Service as _;

/// Hits per run, spread over all entries.
const HITS: usize = 200_000;
/// Runs of which the fastest counts: the others were disturbed.
const RUNS: usize = 5;
/// Bodies that are prepared; with more entries than this, entries far apart are asked for.
const BODIES: usize = 10_000;

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Nanoseconds per hit and bytes per entry, with this many entries of this many bytes.
fn hits(entries: usize, bytes: usize) -> (f64, f64) {
    let cache = support::cache(1 << 34);
    let before = resident();
    let answer = support::answer(bytes);
    for key in 0..entries {
        support::keep(&cache, &support::body(key, 3), &answer);
    }
    // Counting makes the cache finish its bookkeeping.
    assert_eq!(cache.snapshot().entries, entries as u64);
    let grown = resident().saturating_sub(before) as f64 / entries as f64;
    let step = (entries / BODIES).max(1);
    let bodies: Vec<_> = (0..entries.min(BODIES))
        .map(|key| support::body(key * step, 3))
        .collect();
    let mut path = support::path(&cache);
    let peer = support::peer();
    let mut once = || {
        let begun = Instant::now();
        for nth in 0..HITS {
            // A large stride: neighbours in time are no neighbours in memory.
            let body = bodies[nth * 7919 % bodies.len()].clone();
            let answer = support::now(path.call(support::request(&peer, body)));
            assert!(answer.unwrap().status().is_success());
        }
        begun.elapsed().as_secs_f64() * 1e9 / HITS as f64
    };
    let fastest = (0..RUNS).map(|_| once()).fold(f64::INFINITY, f64::min);
    drop(Arc::into_inner(cache));
    (fastest, grown)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    println!(
        "{:<44}{:>10}{:>9}{:>14}",
        "a hit through all layers, without sockets", "ns", "ratio", "bytes/entry"
    );
    let (one, _) = hits(1, 100);
    for (entries, bytes) in [
        (1, 100),
        (1_000, 100),
        (100_000, 100),
        (1_000_000, 100),
        (100_000, 1_000),
    ] {
        let (ns, grown) = hits(entries, bytes);
        let grown = if entries < 100_000 {
            "-".into()
        } else {
            format!("{grown:.0}")
        };
        let case = format!("{entries} entries, answers of {bytes} bytes");
        println!("{case:<44}{ns:>10.0}{:>8.2}x{grown:>14}", ns / one);
    }
}
