//! What the program keeps to itself, and what it does when the system gives it little.

use std::process::Stdio;

use defender_gateway::testing::sim::Shape;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::unix::pipe;
use tokio::process::Command;

use crate::support::{Caller, Program, Setup, id, until, with, within};

/// A setup whose gateway is started by hand.
async fn spawned() -> crate::support::Spawned {
    let setup = Setup::new().limits(Shape::SlidingLog, &["1000/1m"]);
    setup.spawn().await
}

async fn of_process(pid: u32, file: &str, line: &str) -> String {
    let path = format!("/proc/{pid}/{file}");
    let text = tokio::fs::read_to_string(&path).await.unwrap();
    let found = text.lines().find_map(|text| text.strip_prefix(line));
    let found = found.unwrap_or_else(|| panic!("no {line:?} in {path}: {text}"));
    found.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Sends the signal again and again: of a SIGSEGV that is no fault of the program's, the standard
/// library lets the first pass by.
async fn kill(pid: u32, signal: &str) {
    loop {
        let sent = Command::new("kill")
            .args([format!("-{signal}"), pid.to_string()])
            .status();
        sent.await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Whether a process that dies of SIGSEGV here leaves a core where it may.
async fn system_dumps() -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    let folder = tempfile::tempdir().unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -c unlimited && kill -SEGV $$"]);
    let ended = shell.current_dir(folder.path()).stderr(Stdio::null()).status();
    within("the shell's end", ended).await.unwrap().core_dumped()
}

#[tokio::test]
async fn a_program_that_dies_leaves_no_core_and_shows_nobody_its_memory() {
    let spawned = spawned().await;
    for signal in ["SEGV", "ABRT"] {
        let limits = "ulimit -c unlimited 2>/dev/null";
        let mut program = Program::limited_gateway(limits, spawned.toml(), spawned.variables());
        program.line("listening on ").await;
        let pid = program.pid();
        assert_eq!(of_process(pid, "limits", "Max core file size").await, "0 0 bytes");
        assert_eq!(of_process(pid, "status", "NoNewPrivs:").await, "1");
        // What only the process itself may look at belongs to root, whoever started it.
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{pid}/environ")).unwrap());
        assert_eq!(owner, 0);
        let ended = tokio::select! {
            ended = program.ended() => ended,
            () = kill(pid, signal) => unreachable!("it never ends"),
        };
        assert_eq!(ended.code, None, "{}", ended.output);
        assert!(!ended.dumped, "SIG{signal} left a core");
        let left: Vec<_> = std::fs::read_dir(program.folder())
            .unwrap()
            .map(|file| file.unwrap().file_name())
            .collect();
        assert_eq!(left, ["gateway.toml"]);
    }
    println!("without that a core is left on this machine: {}", system_dumps().await);
    spawned.finish().await;
}

#[tokio::test]
async fn a_sigterm_while_it_starts_is_not_lost() {
    let spawned = spawned().await;
    let folder = tempfile::tempdir().unwrap();
    let state_file = folder.path().join("quota");
    let pipe = folder.path().join("quota.merge");
    let made = Command::new("mkfifo").arg(&pipe).status().await;
    assert!(made.unwrap().success());
    let toml = with(spawned.toml(), "quota.state_file", &format!("{state_file:?}"));
    let toml = with(&toml, "merge.enabled", "\"auto\"");
    let mut program = Program::limited_gateway("true", &toml, spawned.variables());
    // It reads this file while it starts, until its end. Nobody can open it before it does.
    let held = until("the start", async || pipe::OpenOptions::new().open_sender(&pipe).ok()).await;
    program.signal("TERM").await;
    drop(held);
    let ended = program.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    assert!(ended.output.contains("draining"), "{}", ended.output);
    spawned.finish().await;
}

#[tokio::test]
async fn all_files_that_the_system_allows_are_used() {
    let spawned = spawned().await;
    let limits = "ulimit -Sn 100";
    let program = Program::limited_gateway(limits, spawned.toml(), spawned.variables());
    program.line("listening on ").await;
    let limit = of_process(program.pid(), "limits", "Max open files").await;
    let (soft, hard) = limit.split_once(' ').unwrap();
    assert_eq!(hard.split_once(' ').unwrap().0, soft);
    drop(program);
    spawned.finish().await;
}

#[tokio::test]
async fn with_few_files_there_are_fewer_connections_a_word_about_it_and_always_an_answer() {
    let spawned = spawned().await;
    let mut program = Program::limited_gateway("ulimit -n 64", spawned.toml(), spawned.variables());
    program.line_with("few files may be open").await;
    program.line("listening on ").await;
    program.line("admin on ").await;
    let address = program.caller().base().trim_start_matches("http://").to_owned();
    let caller = program.caller();
    assert_eq!(caller.ask(&[id(1)]).await.status, 200);
    // More than it takes; each has begun a request. Those that were idle make way.
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"POST / HTTP/1.1\r\n").await.unwrap();
        held.push(stream);
    }
    // An answer needs further files: a call upstream, and the admin address beside it.
    let looked = async || {
        let caller = program.caller();
        let request = caller.history_request().body(crate::support::body(&[id(20)])).unwrap();
        let answer = caller.try_send(request).await;
        answer.ok().filter(|answer| answer.status == 200)
    };
    until("an answer amid the crowd", looked).await;
    assert_eq!(program.admin().fetch("/readyz").await.status, 200);
    drop(held);
    let output = program.output();
    let complaints = output
        .lines()
        .filter(|line| line.contains("cannot accept a connection"))
        .count();
    assert_eq!(complaints, 0, "{output}");
    program.signal("TERM").await;
    assert_eq!(program.ended().await.code, Some(0));
    spawned.finish().await;
}

/// The members of a line of the log; no name occurs twice.
fn members(line: &str) -> serde_json::Map<String, serde_json::Value> {
    let object: serde_json::Map<_, _> = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let written: usize = object
        .keys()
        .map(|name| line.matches(&format!("\"{name}\":")).count())
        .sum();
    assert_eq!(written, object.len(), "{line}");
    object
}

#[tokio::test]
async fn with_json_everything_is_json_from_the_first_line_to_the_last() {
    let spawned = Setup::new().secret("wrong~secret").spawn().await;
    let json = [("FORMAT", "json"), ("LOG", "warn")];
    let json = json.map(|(key, value)| (format!("DEFENDER_GATEWAY_TELEMETRY_{key}"), value.to_owned()));
    let variables = [spawned.variables(), &json].concat();
    let mut program = Program::limited_gateway("true", spawned.toml(), &variables);
    let line = program.line_with("admin on http://").await;
    assert_eq!(members(&line)["level"], "INFO");
    program.line_with("listening on http://").await;
    // It has the headline and what sign-in said, each under a name of its own.
    let failed = members(&program.line_with("signing in failed").await);
    assert_eq!(failed["code"], "AADSTS7000215");
    assert!(
        failed["reason"].as_str().unwrap().contains("Invalid client secret"),
        "{failed:?}"
    );
    program.signal("TERM").await;
    let ended = program.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    assert!(ended.output.lines().all(|line| !members(line).is_empty()));
    spawned.finish().await;

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    for (toml, variable) in [
        ("[telemetry]\nformat = \"json\"\n[cache]\nttl = 7\n", None),
        ("[cache]\nttl = 7\n", Some("json")),
        ("[telemetry]\nformat = \"json\"\n[cache]\nttl = \n", None),
    ] {
        std::fs::write(&file, toml).unwrap();
        let variables = variable.map(|value| ("DEFENDER_GATEWAY_TELEMETRY_FORMAT".to_owned(), value.to_owned()));
        let arguments = ["run", "--config", file.to_str().unwrap()];
        let refused = Program::start(&arguments, &Vec::from_iter(variables)).ended().await;
        assert_eq!(refused.code, Some(1));
        let lines: Vec<_> = refused.output.lines().map(members).collect();
        assert!(
            lines
                .iter()
                .any(|line| line["message"].as_str().unwrap().contains("gateway.toml:4:")
                    || line["message"].as_str().unwrap().contains("cache.ttl")),
            "{lines:?}"
        );
    }
}

#[tokio::test]
async fn a_reader_of_stderr_who_stops_stops_no_caller_and_learns_what_was_lost() {
    let spawned = spawned().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, spawned.toml()).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_defender-gateway"))
        .args(["run", "--config", file.to_str().unwrap()])
        .env_clear()
        .envs(spawned.variables().iter().cloned())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut line_with = async |part: &str| loop {
        let line = within(part, lines.next_line()).await.unwrap().expect(part);
        if let Some(rest) = line.split_once(part) {
            break rest.1.to_owned();
        }
    };
    let caller = Caller::http1(&line_with("listening on ").await);
    line_with("admin on ").await;
    // Each is a line, and nobody reads them: more than the system and the program keep.
    for _ in 0..4000 {
        let request = caller.history_request().body("{".into()).unwrap();
        assert_eq!(within("a refusal", caller.try_send(request)).await.unwrap().status, 400);
    }
    assert_eq!(within("an answer", caller.ask(&[id(1)])).await.status, 200);
    line_with("log lines were lost").await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(within("the end", child.wait()).await.unwrap().success());
    spawned.finish().await;
}
