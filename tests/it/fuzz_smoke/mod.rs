//! The fuzz targets' checks over their corpora and over random changes of these: a short run that
//! needs no nightly toolchain.

#[path = "../../fuzz/check/mod.rs"]
mod check;

use std::fs;
use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

/// For each target, but a hundred inputs at least. The seeds are the same every time; how far they
/// get depends on the machine.
const RUN: Duration = Duration::from_secs(1);

/// What parsers look for.
const WORDS: [&[u8]; 26] = [
    b"\"",
    b"\\u0061",
    b",",
    b"{\"value\":[",
    b"]}",
    b"\"ScanDefinitionIds\":",
    b"\"a\"",
    b" ",
    b"\n",
    b"\n\n",
    b"$top=1&",
    b"1e400",
    b"\"@odata.context\":\"\"",
    b"\xff",
    b": ",
    b"=",
    b"%41",
    b"99999999999999999999",
    b"-1",
    b"hunter2hunter2",
    b":secret@",
    b"http://",
    b"[[",
    b"null",
    b"1ms",
    b"\\\"",
];

/// A name, and what must hold for any bytes.
type Target = (&'static str, fn(&[u8]));

/// All of them: what each checks stands in `check`.
const TARGETS: [Target; 15] = [
    ("config", check::config),
    ("fields", check::fields),
    ("key", check::key),
    ("ledger", check::ledger),
    ("link", check::link),
    ("path", check::path),
    ("request", check::request),
    ("scenario", check::scenario),
    ("secrets", check::secrets),
    ("sign_in", check::sign_in),
    ("split", check::split),
    ("state", check::state),
    ("throttled", check::throttled),
    ("trace", check::trace),
    ("value", check::value),
];

/// The names in a folder of `tests/fuzz`, without extension.
fn names(folder: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz").join(folder);
    let stem = |entry: fs::DirEntry| entry.path().file_stem().unwrap().to_str().unwrap().to_owned();
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| stem(entry.unwrap()))
        .collect();
    names.sort();
    names
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target);
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn changed(rng: &mut StdRng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut data = corpus.choose(rng).unwrap().clone();
    for _ in 0..rng.random_range(1..5) {
        let at = rng.random_range(0..=data.len());
        match rng.random_range(0..5) {
            0 => drop(data.splice(at..at, WORDS.choose(rng).unwrap().iter().copied())),
            1 if at < data.len() => data[at] ^= 1 << rng.random_range(0..8),
            2 => data.truncate(at),
            3 => {
                let end = rng.random_range(at..=data.len()).min(at + 40);
                let piece = data[at..end].to_vec();
                drop(data.splice(at..at, piece));
            }
            _ => {
                let end = rng.random_range(at..=data.len()).min(at + 8);
                drop(data.drain(at..end));
            }
        }
    }
    data
}

fn smoke(target: &str) {
    let check = TARGETS.iter().find(|(name, _)| *name == target).unwrap().1;
    let corpus = corpus(target);
    assert!(corpus.len() >= 3, "the corpus of {target} is gone");
    for data in &corpus {
        check(data);
    }
    let begun = Instant::now();
    let mut seed = 0;
    while seed < 100 || begun.elapsed() < RUN {
        let data = changed(&mut StdRng::seed_from_u64(seed), &corpus);
        let checked = std::panic::catch_unwind(|| check(&data));
        assert!(
            checked.is_ok(),
            "{target}, seed {seed}: {:?}",
            String::from_utf8_lossy(&data)
        );
        seed += 1;
    }
    println!("{target}: {seed} inputs");
}

#[test]
fn every_target_has_a_corpus_a_program_and_a_place_here() {
    let here: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz_targets"), here);
    assert_eq!(names("corpus"), here);
    let manifest = include_str!("../../fuzz/Cargo.toml");
    for name in here {
        assert!(manifest.contains(&format!("name = \"{name}\"\npath")), "{name}");
    }
}

#[test]
fn no_file_and_no_variables_confuse_the_configuration_or_make_it_tell_a_secret() {
    smoke("config");
}

#[test]
fn no_target_and_no_fields_confuse_the_gate() {
    smoke("fields");
}

#[test]
fn no_context_confuses_the_traces() {
    smoke("trace");
}

#[test]
fn no_429_makes_the_gateway_wait_for_ever() {
    smoke("throttled");
}

#[test]
fn no_body_makes_a_link_lead_astray() {
    smoke("link");
}

#[test]
fn no_answer_of_sign_in_confuses_the_token_source_or_makes_it_tell_the_secret() {
    smoke("sign_in");
}

#[test]
fn no_answer_of_the_store_grants_more_than_was_asked_for() {
    smoke("ledger");
}

#[test]
fn no_value_in_the_store_confuses_the_reader() {
    smoke("value");
}

#[test]
fn no_state_file_keeps_the_quota_from_opening() {
    smoke("state");
}

#[test]
fn no_scenario_confuses_the_simulator() {
    smoke("scenario");
}

#[test]
fn no_bytes_confuse_the_request_parser() {
    smoke("request");
}

#[test]
fn no_ids_confuse_the_key() {
    smoke("key");
}

#[test]
fn no_bytes_confuse_the_splitter() {
    smoke("split");
}

#[test]
fn paths_lead_to_operations_or_nowhere() {
    smoke("path");
}

#[test]
fn credentials_never_pass() {
    smoke("secrets");
}
