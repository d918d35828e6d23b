//! The program itself: start, restart, and starts that fail.

use std::io::Write as _;
use std::path::Path;

use http::StatusCode;

use defender_gateway::testing::sim::Shape;

use crate::support::redis::Redis;
use crate::support::{Controls, Program, Setup};

#[tokio::test]
async fn what_was_used_before_a_kill_is_still_used_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("quota");
    let mut spawned = Setup::new()
        .limits(Shape::SlidingLog, &["10/1m", "100/1h"])
        .set("quota.state_file", file.to_str().unwrap())
        .spawn()
        .await;
    let answers = spawned.caller().ask_each(0..7).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK));
    spawned.kill_and_restart().await;
    let status = spawned.admin().fetch("/status").await.json();
    assert_eq!(status["quota"]["windows"][0]["used"], 7, "{status}");
    assert_eq!(status["quota"]["windows"][1]["used"], 7, "{status}");
    let answers = spawned.caller().ask_each(10..15).await;
    let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    statuses.sort_unstable();
    assert!(
        statuses.iter().filter(|status| **status == 200).count() <= 3,
        "{statuses:?}"
    );
    assert!(spawned.simulator.calls().iter().all(|call| call.status == Some(200)));
    spawned.finish().await;
}

#[tokio::test]
async fn ten_kills_in_a_saturated_run_put_no_window_over() {
    const CALLS_A_LIFE: u64 = 25;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("quota");
    let mut spawned = Setup::new()
        .limits(Shape::SlidingLog, &["50/1s", "400/20s", "100000/1h"])
        .set("quota.burst", "50")
        .set("quota.state_file", file.to_str().unwrap())
        .set("cache.ttl", "0s")
        .spawn()
        .await;
    for life in 0..10_u64 {
        let caller = spawned.caller();
        let first = usize::try_from(life).unwrap() * 1000;
        tokio::select! {
            _ = caller.ask_each(first..first + 200) => panic!("200 requests are more than one life answers"),
            seen = spawned.simulator.wait_for_calls((life + 1) * CALLS_A_LIFE) => drop(seen.unwrap()),
        }
        // Every other time the last line is torn as well.
        let torn = || {
            let mut file = std::fs::OpenOptions::new().append(true).open(&file).unwrap();
            file.write_all(b"s 17 17900").unwrap();
        };
        spawned
            .kill_and_restart_after(|| {
                if life % 2 == 0 {
                    torn();
                }
            })
            .await;
        spawned.assert_all_calls_count().await;
    }
    let calls = spawned.simulator.calls();
    assert!(calls.len() >= 250);
    assert!(calls.iter().all(|call| call.status != Some(429)), "a window was over");
    // The judge is asked here.
    spawned.finish().await;
}

#[tokio::test]
async fn a_taken_port_is_said_with_status_1() {
    let spawned = Setup::new().spawn().await;
    let address = spawned.caller().base().strip_prefix("http://").unwrap().to_owned();
    let toml = spawned.simulator.config_toml();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, toml).unwrap();
    let variables = [
        ("AZURE_CLIENT_SECRET", "x"),
        ("DEFENDER_GATEWAY_SERVER_LISTEN", &address),
        ("DEFENDER_GATEWAY_ADMIN_LISTEN", "127.0.0.1:0"),
    ];
    let variables: Vec<_> = variables
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let mut second = Program::start(&["run", "--config", path(&file)], &variables);
    let ended = second.ended().await;
    assert_eq!(ended.code, Some(1), "{}", ended.output);
    assert!(ended.output.contains(&address), "{}", ended.output);
    spawned.finish().await;
}

#[tokio::test]
async fn nothing_starts_with_a_mistake_in_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, "[server]\nlisten = [\"0.0.0.0:0\"]\n").unwrap();
    let mut program = Program::start(&["run", "--config", path(&file)], &[]);
    let ended = program.ended().await;
    assert_eq!(ended.code, Some(1), "{}", ended.output);
    assert!(ended.output.contains("server.listen"), "{}", ended.output);
    assert!(!ended.output.contains("listening on"), "{}", ended.output);
}

#[tokio::test]
async fn a_scenario_is_played_and_a_wrong_one_is_refused() {
    let rough = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/sim/rough.toml");
    let mut good = Program::start(&["simulate", "--listen", "127.0.0.1:0", "--scenario", rough], &[]);
    good.line("# region us on ").await;
    good.signal("TERM").await;
    assert_eq!(good.ended().await.code, Some(0));

    let mut missing = Program::start(&["simulate", "--scenario", "/nowhere.toml"], &[]);
    let ended = missing.ended().await;
    assert_eq!(ended.code, Some(1), "{}", ended.output);
    assert!(ended.output.contains("/nowhere.toml"), "{}", ended.output);
}

#[tokio::test]
async fn the_openapi_command_prints_what_the_admin_address_serves() {
    let running = Setup::new().start().await;
    let served = running.admin.fetch("/openapi.json").await.json();
    let mut program = Program::start(&["openapi"], &[]);
    let ended = program.ended().await;
    assert_eq!(ended.code, Some(0));
    let printed: serde_json::Value = serde_json::from_str(&ended.output).unwrap();
    assert_eq!(printed, served);
    running.finish().await;
}

fn path(file: &Path) -> &str {
    file.to_str().unwrap()
}

/// A quota in a store gives slots to those who ask for them.
#[tokio::test]
async fn probe_calls_with_a_store_too() {
    let mut store = Redis::start_with(&[]).await;
    let spawned = Setup::new().set("store.url", &store.url()).spawn().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, spawned.toml()).unwrap();
    let arguments = ["probe", "--config", file.to_str().unwrap()];
    let ended = Program::start(&arguments, spawned.variables()).ended().await;
    assert!(ended.output.contains("the token is accepted"), "{}", ended.output);
    assert_eq!(
        spawned
            .simulator
            .calls()
            .iter()
            .filter(|call| call.status.is_some())
            .count(),
        1
    );
    spawned.finish().await;
    store.kill().await;
}
