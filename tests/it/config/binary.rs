//! `check` and the command line, as a user meets them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn gateway(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_defender-gateway"));
    command
        .args(args)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::null());
    command.output().unwrap()
}

pub(super) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(super) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub(super) fn check(path: &Path, variables: &[(&str, &str)]) -> Output {
    gateway(&["check", "--config", path.to_str().unwrap()], variables)
}

#[test]
fn five_mistakes_are_printed_with_line_and_key_and_status_1() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.toml");
    let text = "[server]\nlisten = [\"0.0.0.0:8080\"]\ndrain = 25\n[cache]\nttll = \"30s\"\n[quota]\nlimits = [\"100\"]\n[defender]\nregion = \"mars\"\n";
    fs::write(&path, text).unwrap();
    let output = check(&path, &super::SIGN_IN);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let text = stderr(&output);
    let places = [
        "2:11: server.listen[0]: ",
        "3:9: server.drain: ",
        "5:1: cache.ttll: ",
        "7:11: quota.limits[0]: ",
        "9:10: defender.region: ",
    ];
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 6, "{text}");
    for (line, place) in lines.iter().zip(places) {
        assert!(line.starts_with(&format!("{}:{place}", path.display())), "{line}");
    }
    assert_eq!(lines[5], "5 mistakes in the configuration");
}

#[test]
fn a_good_configuration_is_summed_up_without_its_secret() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/gateway.toml");
    let output = check(&path, &super::SIGN_IN);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    for part in [
        "callers        http://127.0.0.1:8080",
        "admin          http://127.0.0.1:9901",
        "the nearest of 12 hosts",
        "client_secret from AZURE_CLIENT_SECRET, found by credentials.kind = \"auto\"",
        "100/1m 1500/1h",
        "fresh 30s",
        "none: this process alone",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("hunter2") && output.stderr.is_empty());
}

#[test]
fn calls_are_remembered_in_the_store_when_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    let state_file = folder.path().join("state");
    let file = format!("[quota]\nstate_file = {:?}\n", state_file.display().to_string());
    // Nobody listens there, which is no mistake, but is said.
    let refused = "quota and answers; it could not be asked what it evicts: the store failed: Connection refused";
    for (store, said, asked) in [
        (
            "",
            format!("remembered in {}, unknown", state_file.display()),
            "none: this process alone\n",
        ),
        (
            "[store]\nurl = \"redis://127.0.0.1:1\"\n",
            format!("remembered in the store and not in {}, unknown", state_file.display()),
            refused,
        ),
    ] {
        fs::write(&path, format!("{file}{store}")).unwrap();
        let text = stdout(&check(&path, &super::SIGN_IN));
        assert!(text.contains(&said) && text.contains(asked), "{text}");
    }
}

#[test]
fn the_file_is_found_by_argument_then_variable() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one.toml"), folder.path().join("two.toml"));
    fs::write(&one, "[cache]\nttl = \"1m\"\n").unwrap();
    fs::write(&two, "[cache]\nttl = \"2m\"\n").unwrap();
    let variables = [
        super::SIGN_IN.as_slice(),
        &[("DEFENDER_GATEWAY_CONFIG", two.to_str().unwrap())],
    ]
    .concat();
    assert!(stdout(&gateway(&["check"], &variables)).contains("fresh 2m"));
    assert!(stdout(&check(&one, &variables)).contains("fresh 1m"));
    assert!(stdout(&gateway(&["check"], &super::SIGN_IN)).contains("fresh 30s"));

    let missing = [("DEFENDER_GATEWAY_CONFIG", "/nowhere/gateway.toml")];
    let output = gateway(&["check"], &missing);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).starts_with("DEFENDER_GATEWAY_CONFIG: /nowhere/gateway.toml: there is no such file"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn odd_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.toml");
    for (content, holds) in [
        (vec![0xff, 0xfe], "is not UTF-8"),
        (vec![b'#'; (256 << 10) + 1], "longer than 262144 bytes"),
    ] {
        fs::write(&path, content).unwrap();
        let output = check(&path, &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(holds), "{}", stderr(&output));
    }
    let output = check(folder.path(), &[]);
    assert_eq!(
        (output.status.code(), stderr(&output).contains("cannot be read")),
        (Some(1), true),
        "{}",
        stderr(&output)
    );
}

#[test]
fn help_and_version_are_data_and_bad_arguments_are_the_users_fault() {
    for args in [
        ["--help"].as_slice(),
        &["help"],
        &["run", "--help"],
        &["--version"],
        &["simulate", "-h"],
    ] {
        let output = gateway(args, &[]);
        assert_eq!(
            (output.status.code(), output.stderr.is_empty()),
            (Some(0), true),
            "{args:?}"
        );
        assert!(stdout(&output).contains("defender-gateway"), "{args:?}");
    }
    for args in [
        [].as_slice(),
        &["fly"],
        &["run", "--port", "1"],
        &["simulate", "--limit", "1"],
    ] {
        let output = gateway(args, &[]);
        assert_eq!(
            (output.status.code(), output.stdout.is_empty()),
            (Some(1), true),
            "{args:?}"
        );
    }
}

#[test]
fn a_reader_who_has_seen_enough_is_no_error() {
    for args in ["reference", "--help"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_defender-gateway"))
            .arg(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), stderr(&output).as_str()),
            (Some(0), ""),
            "{args}"
        );
    }
}

#[test]
fn the_reference_is_printed() {
    let output = gateway(&["reference"], &[]);
    assert_eq!(stdout(&output), defender_gateway::testing::config::reference());
}

#[test]
fn a_cache_that_the_memory_does_not_hold_is_not_promised() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.toml");
    fs::write(&path, "[server]\nmemory = \"64MiB\"\n[cache]\nmax_size = \"1GiB\"\n").unwrap();
    let output = check(&path, &super::SIGN_IN);
    let text = stdout(&output);
    assert!(text.contains("1GiB, of which the memory here leaves about "), "{text}");
    assert!(text.contains("MiB\n"), "{text}");
}
