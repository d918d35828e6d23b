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

/// Whether the text uses the simulator's package, which the command line only may start, and tests.
fn uses_simulator(text: &str) -> bool {
    let is_whole = |at: usize| !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    text.match_indices("sim::").any(|(at, _)| is_whole(at))
}

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

/// The text with blank lines in place of comments and of what is compiled for tests only: a test may
/// build what it needs from any floor.
fn production(text: &str) -> String {
    let mut kept = String::new();
    // How the item ends that is being skipped, once its first line is known.
    let mut skipped: Option<Option<String>> = None;
    for line in text.lines() {
        let (bare, indent) = (line.trim_start(), line.len() - line.trim_start().len());
        match &skipped {
            None if bare == "#[cfg(test)]" => skipped = Some(None),
            None if !bare.starts_with("//") => kept += line,
            Some(None) if bare.starts_with("#[") => {}
            Some(None) => skipped = (!line.ends_with([';', ','])).then(|| Some(format!("{}}}", " ".repeat(indent)))),
            Some(Some(end)) if line.starts_with(end.as_str()) => skipped = None,
            _ => {}
        }
        kept.push('\n');
    }
    kept
}

/// The modules that the text names as `crate::module` or in `crate::{module, …}`, each with its line.
fn imports(text: &str) -> Vec<(usize, &str)> {
    let name = |rest: &str| {
        rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(rest.len())
    };
    let mut found = Vec::new();
    for (at, word) in text.match_indices("crate::") {
        let (line, rest) = (text[..at].matches('\n').count() + 1, &text[at + word.len()..]);
        let Some(list) = rest.strip_prefix('{') else {
            found.push((line, &rest[..name(rest)]));
            continue;
        };
        let (mut depth, mut is_first) = (0, true);
        for (index, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => is_first = true,
                c if is_first && !c.is_whitespace() => {
                    is_first = false;
                    found.push((line, &list[index..index + name(&list[index..])]));
                }
                _ => {}
            }
        }
    }
    found
}

#[test]
fn every_way_to_import_is_seen_and_tests_are_not() {
    let text = "use crate::{\n    a, b::{c, d},\n    e,\n};\n#[cfg(test)]\nmod tests;\n// crate::f\n\
                fn g() { crate::h::i() }\n#[cfg(test)]\nmod tests {\n    use crate::{j, k};\n}\nuse crate::l;\n";
    let text = production(text);
    assert_eq!(imports(&text), [(1, "a"), (1, "b"), (1, "e"), (8, "h"), (13, "l")]);
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
        let text = production(&fs::read_to_string(&path).unwrap());
        if uses_simulator(&text) && module != "cli" {
            wrong.push(format!("{}: {module} uses the simulator", inside.display()));
        }
        for (number, import) in imports(&text) {
            looked_at += 1;
            let allowed = match (floors.get(module), floors.get(import)) {
                _ if module == import => true,
                (Some(here), Some(there)) => there > here || (there == here && FLOORS[*here].1),
                // A type of the crate's root, such as `BoxError`.
                (_, None) => import.starts_with(|c: char| c.is_uppercase()),
                (None, Some(_)) => false,
            };
            if !allowed {
                wrong.push(format!("{}:{number}: {module} names {import}", inside.display()));
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
