//! What the documents say about the operations: the table is that of the declarations, and the
//! examples work from an empty folder.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Output;

use defender_gateway::testing::operation::{Input, Kept, Lifetime};
use defender_gateway::testing::scan::Operation;
use defender_gateway::testing::sim;
use serde_json::Value;
use tokio::process::Command;

use crate::support::{Running, Setup, within};

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(path).expect("the page is there")
}

/// The table of operations.
fn table() -> String {
    let mut text = String::from("| request | answers | kept | `operation` |\n|---|---|---|---|\n");
    for operation in Operation::ALL {
        let declared = operation.declaration();
        let request = match declared.input {
            Input::Path => format!("`GET /api{}`", declared.path),
            Input::Ids { member, example } => {
                format!("`POST /api{}` `{{\"{member}\":[\"{example}\"]}}`", declared.path)
            }
        };
        let kept = match (declared.kept, declared.lifetime) {
            (Kept::ById { .. }, Lifetime::Finished) => "by id, for `cache.finished_ttl` once finished; merges",
            (Kept::ById { .. }, Lifetime::Ttl) => "by id; merges",
            (Kept::Whole, _) => "whole",
            (Kept::InList(_), _) => "whole, or answered from the list",
        };
        writeln!(
            text,
            "| {request} | {} | {kept} | `{}` |",
            declared.summary, declared.name
        )
        .unwrap();
    }
    text
}

#[test]
fn the_table_is_that_of_the_declarations() {
    let table = table();
    assert!(
        page("deploy/api.md").contains(&table),
        "the table of operations in deploy/api.md is out of date; it should be\n{table}"
    );
}

/// The block of this language behind a heading.
fn block<'a>(page: &'a str, heading: &str, language: &str) -> &'a str {
    let section = &page[page.find(heading).expect("the section is there")..];
    let begin = section.find(&format!("```{language}\n")).expect("the block is there") + language.len() + 4;
    let end = section[begin..].find("\n```").expect("it ends");
    &section[begin..begin + end]
}

/// What an example says when it is run against this gateway from an empty folder.
async fn run(running: &Running, text: &str, program: &[&str]) -> Output {
    let text = text.replace("http://127.0.0.1:8080", running.caller.base());
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).arg(text).current_dir(folder.path());
    within("the example", command.output())
        .await
        .expect("its interpreter is installed")
}

const SHELL: &[&str] = &["sh", "-eu", "-c"];
const FOR_AUTHORS: &str = "## From the list to a scanner";
const PROGRAMS: [(&str, &[&str]); 2] = [
    ("python", &["python3", "-c"]),
    ("javascript", &["node", "--input-type=module", "-e"]),
];

#[tokio::test]
async fn the_examples_read_every_page() {
    let api = page("deploy/api.md");
    for (language, program) in PROGRAMS {
        let setup = Setup::new().simulator(|simulator| {
            let scenario = "[history]\npage_size = 20\n[[regions]]\nname = \"eu\"\n";
            *simulator = std::mem::take(simulator).with_scenario(scenario).unwrap();
        });
        let running = setup.start().await;
        let done = run(&running, block(&api, FOR_AUTHORS, language), program).await;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{language}: {said}");
        let calls = running.simulator.calls();
        for (operation, least) in [
            (sim::Operation::Definitions, 3),
            (sim::Operation::HistoryByDefinition, 3),
        ] {
            let pages = calls.iter().filter(|call| call.operation == Some(operation)).count();
            assert!(pages >= least, "{language}: {pages} pages of {operation:?}");
        }
        running.finish().await;
    }
}

#[tokio::test]
async fn the_examples_say_what_was_wrong() {
    let api = page("deploy/api.md");
    let running = Setup::new()
        .simulator(|simulator| simulator.history.definitions = 0)
        .start()
        .await;
    for (language, program) in PROGRAMS {
        let example = block(&api, FOR_AUTHORS, language);
        let elsewhere = example.replace("DeviceAuthenticatedScanDefinitions", "Elsewhere");
        for (text, expected) in [(example, "no scan definitions"), (&elsewhere, "404")] {
            let done = run(&running, text, program).await;
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(!done.status.success(), "{language}");
            assert!(said.contains(expected), "{language}: {said}");
        }
    }
    running.finish().await;
}

#[tokio::test]
async fn the_readmes_line_shows_an_answer_and_where_it_came_from() {
    let running = Setup::new().start().await;
    let readme = page("README.md");
    let done = run(&running, block(&readme, "## Call it", "sh"), SHELL).await;
    let output = String::from_utf8_lossy(&done.stdout).into_owned();
    for part in ["200 OK", "cache-status: defender-gateway; fwd=miss", "\"value\":["] {
        assert!(output.contains(part), "{part}: {output}");
    }
    running.finish().await;
}

#[tokio::test]
async fn the_examples_lead_from_nothing_to_a_scanner_without_a_token() {
    let running = Setup::new().start().await;
    let api = page("deploy/api.md");
    for (language, program) in [("sh", SHELL)].into_iter().chain(PROGRAMS) {
        let text = block(&api, FOR_AUTHORS, language);
        assert!(!text.to_lowercase().contains("authorization"), "{language}");
        let done = run(&running, text, program).await;
        let output = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(
            done.status.success(),
            "{language}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        // The last line is the scanner.
        let agent: Value = serde_json::from_str(output.lines().last().unwrap_or_default()).expect(&output);
        assert!(
            agent["computerDnsName"]
                .as_str()
                .is_some_and(|name| name.starts_with("scanner-")),
            "{output}"
        );
    }
    let seen: std::collections::BTreeSet<_> = running
        .simulator
        .calls()
        .iter()
        .filter_map(|call| call.operation)
        .collect();
    for operation in [
        sim::Operation::Definitions,
        sim::Operation::HistoryByDefinition,
        sim::Operation::HistoryBySession,
        sim::Operation::Agents,
    ] {
        assert!(
            seen.contains(&operation) || operation == sim::Operation::Agents && seen.contains(&sim::Operation::Agent),
            "{operation:?}"
        );
    }
    running.finish().await;
}
