//! The house has floors, and imports point down: fails when a module names one from a higher floor,
//! or a part names another part.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails; the lint's exemption covers #[test] functions only"
)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// From the top. Modules that share a line may not import each other, except on the floors where
/// `true` allows it.
const FLOORS: &[(&[&str], bool)] = &[
    (&["main", "testing"], true),
    (&["app", "stack", "cli", "config"], true),
    (&["admin"], false),
    (&["server"], false),
    (&["response"], false),
    (
        &[
            "cache",
            "shared_cache",
            "single_flight",
            "queue",
            "quota",
            "token",
            "region",
            "upstream",
        ],
        false,
    ),
    (&["attempt", "middleware", "scan", "caller"], true),
    (
        &[
            "net",
            "store",
            "telemetry",
            "task",
            "clock",
            "secret",
            "plain_text",
            "resources",
            "memory",
            "operation",
        ],
        true,
    ),
];

/// The simulator stands aside: only the command line may start it, and it shares nothing with the
/// gateway but the lowest floor.
const ASIDE: &str = "sim";

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Production lines only: a test may build what it needs from any floor.
fn production(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = (1..).zip(text.lines());
    numbered
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]" || line.starts_with("    "))
        .filter(|(_, line)| {
            let line = line.trim_start();
            !line.starts_with("//")
        })
}

/// The modules that a line names as `crate::module`.
fn imports(line: &str) -> Vec<&str> {
    let after = line.match_indices("crate::").map(|(at, word)| &line[at + word.len()..]);
    after
        .map(|rest| {
            &rest[..rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len())]
        })
        .collect()
}

#[test]
fn imports_point_down() {
    let floors: HashMap<&str, usize> = (0..)
        .zip(FLOORS)
        .flat_map(|(floor, (modules, _))| modules.iter().map(move |module| (*module, floor)))
        .collect();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&source, &mut found);
    let mut wrong = Vec::new();
    let mut looked_at = 0;
    for path in found {
        let inside = path.strip_prefix(&source).unwrap();
        if inside
            .components()
            .any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs")
        {
            continue;
        }
        let module = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in production(&text) {
            for import in imports(line) {
                looked_at += 1;
                let place = format!("{}:{number}: {module} names {import}", inside.display());
                let lowest = FLOORS.len() - 1;
                let allowed = match (floors.get(module), floors.get(import)) {
                    _ if module == import => true,
                    (Some(here), Some(there)) => there > here || (there == here && FLOORS[*here].1),
                    (None, Some(there)) if module == ASIDE => *there == lowest,
                    (Some(_), None) if import == ASIDE => matches!(module, "cli" | "testing"),
                    // A type of the crate's root, such as `BoxError`.
                    (Some(_), None) => import.starts_with(|c: char| c.is_uppercase()) || import.is_empty(),
                    (None, None) => import.starts_with(|c: char| c.is_uppercase()),
                    (None, Some(_)) => false,
                };
                if !allowed {
                    wrong.push(place);
                }
            }
        }
    }
    assert!(
        looked_at > 100,
        "only {looked_at} imports found: the test looks in the wrong place"
    );
    assert!(
        wrong.is_empty(),
        "imports that do not point down:\n{}",
        wrong.join("\n")
    );
}
