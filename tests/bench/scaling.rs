//! Whether what a request costs depends on how much there is: `cargo bench --bench scaling`, half a
//! minute and 2 GB.
//!
//! Each row is measured in the same run as the row with one entry, and told as a ratio to it.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot go on stops, and prints what it found"
)]

mod support;

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::quality::RandomState;
use tokio::time::Instant;
use tower::Service as _;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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

/// Nanoseconds per look-up in the standard library's map, with this many requests as keys and as
/// much reached for each as for a hit: the key's text, a shared value, and its body. What no cache
/// of that many entries can do without.
fn floor(entries: usize, bytes: usize) -> f64 {
    let keys: Vec<_> = (0..entries)
        .map(|key| support::parse_request(&support::body(key, 3)).key().clone())
        .collect();
    let value = || Arc::new(Bytes::from(vec![b'x'; bytes]));
    let map: HashMap<_, _, RandomState> = keys.iter().map(|key| (key.clone(), value())).collect();
    let step = (entries / BODIES).max(1);
    let asked: Vec<_> = (0..entries.min(BODIES))
        .map(|key| support::parse_request(&support::body(key * step, 3)).key().clone())
        .collect();
    fastest(|nth| {
        let body = Bytes::clone(&map[&asked[nth * 7919 % asked.len()]]);
        assert_eq!(black_box(body)[bytes / 2], b'x');
    })
}

/// Nanoseconds of one call, in the fastest of [`RUNS`] runs of [`HITS`].
fn fastest(mut once: impl FnMut(usize)) -> f64 {
    let mut run = || {
        let begun = Instant::now();
        (0..HITS).for_each(&mut once);
        begun.elapsed().as_secs_f64() * 1e9 / HITS as f64
    };
    (0..RUNS).map(|_| run()).fold(f64::INFINITY, f64::min)
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
    let fastest = fastest(|nth| {
        // A large stride: neighbours in time are no neighbours in memory.
        let body = bodies[nth * 7919 % bodies.len()].clone();
        let answer = support::now(path.call(support::request(&peer, body)));
        assert!(answer.unwrap().status().is_success());
    });
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
        "{:<44}{:>10}{:>9}{:>14}{:>12}{:>14}",
        "a hit through all layers, without sockets", "ns", "ratio", "bytes/entry", "a map's ns", "added, both"
    );
    let ((one, _), map_of_one) = (hits(1, 100), floor(1, 100));
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
        let map = floor(entries, bytes);
        let added = format!("{:.0}, {:.0}", ns - one, map - map_of_one);
        println!(
            "{case:<44}{ns:>10.0}{:>8.2}x{grown:>14}{map:>12.0}{added:>14}",
            ns / one
        );
    }
}
