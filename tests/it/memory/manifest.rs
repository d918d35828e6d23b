//! The limits that the manifests set, against the sum of what the program takes.

use std::fs;
use std::path::{Path, PathBuf};

use defender_gateway::testing::memory::{BASE, CONNECTION, LEAST_TOTAL, Shares};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

/// All files below `folder`.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// The memory limits in a manifest, with their lines: `limits: {memory: 128Mi}`, or in the words of
/// a template, or of systemd or compose.
fn limits(text: &str) -> Vec<(usize, usize)> {
    let number = |text: &str| {
        let text = text.trim_start_matches([' ', '"', ':', '=']);
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        let unit = text[digits.len()..].chars().next()?;
        let scale = match unit.to_ascii_uppercase() {
            'M' => 1 << 20,
            'G' => 1 << 30,
            _ => return None,
        };
        Some(digits.parse::<usize>().ok()? * scale)
    };
    let limit_of = |line: &str| {
        let after = ["MemoryMax=", "mem_limit:"]
            .iter()
            .find_map(|word| Some(line.split_once(word)?.1));
        let in_limits = || line.split_once("limits")?.1.split_once("memory").map(|(_, rest)| rest);
        number(after.or_else(in_limits)?)
    };
    (1..)
        .zip(text.lines())
        .filter_map(|(number, line)| Some((number, limit_of(line)?)))
        .collect()
}

#[test]
fn every_limit_in_the_manifests_is_enough_for_what_the_program_takes_under_it() {
    let mut found = Vec::new();
    files(&root(), &mut found);
    let mut looked_at = 0;
    for path in found {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (line, limit) in limits(&text) {
            looked_at += 1;
            let shares = Shares::of(limit, None);
            let what = format!("{}:{line}: {} MiB", path.display(), limit >> 20);
            assert!(limit >= LEAST_TOTAL, "{what} is less than the program can work with");
            assert!(shares.sum() <= limit, "{what}: {shares:?}");
        }
    }
    assert!(
        looked_at >= 8,
        "only {looked_at} limits were found: are they written differently?"
    );
}

/// A row of the table, and what stands in it.
type Part = (&'static str, fn(&Shares) -> usize);

/// The table of the threat model: each row a share, each column a total.
#[test]
fn the_threat_model_has_the_sum_as_the_program_reckons_it() {
    let text = fs::read_to_string(root().join("threat-model.md")).unwrap();
    let mib = |bytes: usize| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    let totals = [64, 128, 256, 1024].map(|total: usize| Shares::of(total << 20, None));
    let parts: [Part; 9] = [
        ("the program itself", |_| BASE),
        ("spare", |shares| shares.spare),
        ("cache", |shares| shares.cache),
        ("connections", |shares| shares.connections),
        ("heads", |shares| shares.heads),
        ("bodies", |shares| shares.bodies),
        ("waiting", |shares| shares.waiting),
        ("small answers", |shares| shares.small_answers),
        ("large answers", |shares| shares.large_answers),
    ];
    let mut missing = Vec::new();
    for (name, of) in parts {
        let figures: Vec<_> = totals.iter().map(|shares| mib(of(shares))).collect();
        let row = format!("| {name} | {} |", figures.join(" | "));
        if !text.contains(&row) {
            missing.push(row);
        }
    }
    let most = totals
        .map(|shares| shares.max_connections().min(2048).to_string())
        .join(" | ");
    let row = format!("| (connections at a time, {} KiB each) | {most} |", CONNECTION >> 10);
    if !text.contains(&row) {
        missing.push(row);
    }
    let row = totals.map(|shares| mib(shares.answers().max_answer())).join(" | ");
    let row = format!("| (the longest answer) | {row} |");
    if !text.contains(&row) {
        missing.push(row);
    }
    assert!(
        missing.is_empty(),
        "deploy/threat-model.md lacks these rows:\n{}",
        missing.join("\n")
    );
}

#[test]
fn limits_are_found_however_they_are_written() {
    for (line, expected) in [
        ("            limits: {memory: 256Mi}", Some(256)),
        ("\"limits\" (dict \"memory\" \"128Mi\")", Some(128)),
        ("MemoryMax=64M", Some(64)),
        ("    mem_limit: 1g", Some(1024)),
        ("            requests: {cpu: 100m, memory: 64Mi}", None),
    ] {
        let found = limits(line).first().map(|(_, bytes)| bytes >> 20);
        assert_eq!(found, expected, "{line}");
    }
}
