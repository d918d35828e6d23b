//! Log levels change while the program runs.

use crate::support::{Setup, id};

#[tokio::test]
async fn the_file_changes_what_is_logged() {
    let spawned = Setup::new().write("telemetry.log", "\"warn\"").spawn().await;
    assert!(
        !spawned.gateway.output().contains("signed in"),
        "{}",
        spawned.gateway.output()
    );
    spawned.rewrite(&[("telemetry.log", "\"debug\"")]);
    let line = spawned.gateway.line_with("the configuration has changed").await;
    assert!(line.contains("telemetry.log"), "{line}");
    spawned.caller().ask(&[id(1)]).await;
    spawned.gateway.line_with("\"level\":\"DEBUG\"").await;
    spawned.finish().await;
}

#[tokio::test]
async fn a_signal_makes_the_log_louder_and_another_takes_it_back() {
    let spawned = Setup::new().set("telemetry.log", "warn").spawn().await;
    spawned.gateway.signal("USR1").await;
    spawned.gateway.line_with("warn,defender_gateway=debug").await;
    spawned.gateway.signal("USR1").await;
    spawned.gateway.line_with("warn,defender_gateway=trace").await;
    spawned.gateway.signal("USR2").await;
    spawned.gateway.line_with("\"filter\":\"warn\"").await;
    assert_eq!(spawned.caller().ask(&[id(1)]).await.status, 200, "no signal ends it");
    spawned.finish().await;
}
