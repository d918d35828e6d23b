//! What `deploy/threat-model.md` claims: every test it names exists, every bound it states is the
//! code's, and no row goes without either a test or an open "not covered" or "accepted".

use std::fs;
use std::path::{Path, PathBuf};

/// The heading of a column that names tests.
const SHOWN_BY: &str = "shown by";

/// The first heading of a table that says who is who, and claims nothing.
const WHO: &str = "who";

/// The heading of a column that quotes the code: a file below `src/`, then words that stand in it.
const IN_THE_CODE: &str = "in the code";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What is wrong with the tables of `document`, one line each, and how many tests and quotations
/// were looked up.
fn examine(document: &str) -> (Vec<String>, usize) {
    let (mut wrong, mut looked_up) = (Vec::new(), 0);
    let mut head: Option<Vec<&str>> = None;
    for (number, line) in document.lines().enumerate() {
        if !line.starts_with('|') {
            head = None;
            continue;
        }
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let Some(head) = &head else {
            if !cells.contains(&SHOWN_BY) && cells.first() != Some(&WHO) {
                wrong.push(format!("line {}: a table without a column \"{SHOWN_BY}\"", number + 1));
            }
            head = Some(cells);
            continue;
        };
        if cells.iter().all(|cell| cell.chars().all(|c| c == '-')) {
            continue;
        }
        if cells.len() != head.len() {
            wrong.push(format!(
                "line {}: {} cells under {}",
                number + 1,
                cells.len(),
                head.len()
            ));
            continue;
        }
        for (column, cell) in head.iter().zip(cells) {
            let (faults, count) = match *column {
                SHOWN_BY => tests_of(cell),
                IN_THE_CODE => quotations_of(cell),
                _ => continue,
            };
            looked_up += count;
            wrong.extend(faults.into_iter().map(|fault| format!("line {}: {fault}", number + 1)));
        }
    }
    (wrong, looked_up)
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

fn tests_of(cell: &str) -> (Vec<String>, usize) {
    let named = quoted(cell);
    if named.is_empty() && !cell.contains("not covered") && cell != "accepted" {
        return (
            vec![format!("neither a test nor \"not covered\" nor \"accepted\": {cell:?}")],
            0,
        );
    }
    let missing = named.iter().filter(|name| !exists(name));
    (
        missing.map(|name| format!("there is no test {name}")).collect(),
        named.len(),
    )
}

fn quotations_of(cell: &str) -> (Vec<String>, usize) {
    let Some((file, words)) = quoted(cell).split_first().map(|(file, words)| (*file, words.to_vec())) else {
        return (vec!["nothing of the code is quoted".into()], 0);
    };
    let Ok(text) = fs::read_to_string(root().join("src").join(file)) else {
        return (vec![format!("there is no src/{file}")], 0);
    };
    if words.is_empty() {
        return (vec![format!("nothing of src/{file} is quoted")], 0);
    }
    let missing = words.iter().filter(|words| !text.contains(**words));
    (
        missing.map(|words| format!("{words:?} is not in src/{file}")).collect(),
        words.len(),
    )
}

/// Whether `a::b::name` is a test of the integration tests or of the library.
fn exists(path: &str) -> bool {
    let Some((modules, name)) = path.rsplit_once("::") else {
        return false;
    };
    let modules: Vec<_> = modules.split("::").collect();
    [root().join("tests/it"), root().join("src")]
        .iter()
        .flat_map(|base| files(base, &modules))
        .any(|(file, inline)| fs::read_to_string(file).is_ok_and(|text| holds(&text, inline, name)))
}

/// The files in which the items of a module can stand, each with the modules that must then be
/// written out in it.
fn files<'a>(base: &Path, modules: &'a [&'a str]) -> Vec<(PathBuf, &'a [&'a str])> {
    (1..=modules.len())
        .flat_map(|depth| {
            let (folders, inline) = modules.split_at(depth);
            let module = folders.iter().fold(base.to_owned(), |path, folder| path.join(folder));
            [(module.with_extension("rs"), inline), (module.join("mod.rs"), inline)]
        })
        .collect()
}

/// Whether `text` has the modules written out and, somewhere, a function of that name that is run
/// as a test.
fn holds(text: &str, inline: &[&str], name: &str) -> bool {
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let begins = |line: &str| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("fn ")
            .and_then(|line| line.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with('('))
    };
    let marked = |at: usize| {
        let attributes = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
        let attributes: Vec<_> = attributes.collect();
        attributes
            .iter()
            .any(|line| line.starts_with("#[test") || line.starts_with("#[tokio::test"))
            && !attributes.iter().any(|line| line.starts_with("#[ignore"))
    };
    let written_out = |module: &&str| lines.contains(&format!("mod {module} {{").as_str());
    inline.iter().all(written_out) && (0..lines.len()).any(|at| begins(lines[at]) && marked(at))
}

#[test]
fn every_claim_of_the_threat_model_names_a_test_that_exists_or_says_that_there_is_none() {
    let document = fs::read_to_string(root().join("deploy/threat-model.md")).unwrap();
    let (wrong, looked_up) = examine(&document);
    assert!(wrong.is_empty(), "deploy/threat-model.md:\n{}", wrong.join("\n"));
    assert!(
        looked_up > 100,
        "only {looked_up} names were found: has the layout changed?"
    );
    println!("{looked_up} names of the threat model are right");
}

#[test]
fn what_is_made_up_or_left_out_is_noticed() {
    let row = |cell: &str| examine(&format!("| threat | {SHOWN_BY} |\n|---|---|\n| x | {cell} |\n")).0;
    for good in [
        "`hostile::http1::broken_lines_are_refused_and_end_the_connection`",
        "`server::guard::host::tests::only_our_own_names_are_accepted`, `sharing::differential::rows_as_documented_in_every_order`",
        "not covered",
    ] {
        assert_eq!(row(good), [""; 0], "{good}");
    }
    for bad in [
        "",
        "trust us",
        "`hostile::http1::nothing_of_the_kind`",
        // Of another file, below a function, a helper, one that is not run by itself, and a
        // beginning of a name.
        "`hostile::flood::broken_lines_are_refused_and_end_the_connection`",
        "`server::guard::host::only_our_own_names_are_accepted::x`",
        "`hostile::http1::play`",
        "`replicas::chaos::no_window_is_ever_over_with_eight_gateways_and_long_cuts`",
        "`hostile::http1::broken_lines`",
        "not covered, but see `nowhere`",
    ] {
        assert_eq!(row(bad).len(), 1, "{bad}: {:?}", row(bad));
    }
    let bound = |cell: &str| {
        let table = format!("| bound | {IN_THE_CODE} | {SHOWN_BY} |\n|---|---|---|\n| x | {cell} | not covered |\n");
        examine(&table).0.len()
    };
    assert_eq!(bound("`server/mod.rs` `max_connections: 2048`"), 0);
    for bad in [
        "",
        "`server/mod.rs`",
        "`server/mod.rs` `max_connections: 7`",
        "`nowhere.rs` `x`",
    ] {
        assert_eq!(bound(bad), 1, "{bad}");
    }
    assert_eq!(examine("| threat | what it does |\n|---|---|\n| x | y |\n").0.len(), 1);
    assert_eq!(examine(&format!("| a | {SHOWN_BY} |\n|---|---|\n| x |\n")).0.len(), 1);
}
