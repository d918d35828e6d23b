use std::time::Duration;

use tokio::net::TcpStream;

use super::support::{GOOD, PATIENCE, Server, history_body, request};
use crate::server::serve::Drained;
use crate::server::{Config, read};

fn slow() -> String {
    request("POST", "", &history_body("slow"))
}

async fn ended(server: Server) -> (Drained, usize) {
    let drained = tokio::time::timeout(PATIENCE, server.running).await.unwrap().unwrap();
    (drained, server.tasks.finish(PATIENCE).await)
}

#[tokio::test]
async fn requests_in_flight_are_finished_and_no_new_ones_accepted() {
    let server = Server::start().await;
    let mut callers = Vec::new();
    for _ in 0..50 {
        let mut caller = server.connect().await;
        caller.send(&slow()).await;
        callers.push(caller);
    }
    server.wait_for_calls(50).await;
    server.stop.cancel();
    let refused = async {
        while TcpStream::connect(server.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
    server.backend.gate.add_permits(50);
    for caller in &mut callers {
        let answer = caller.answer().await;
        assert_eq!(answer.status, 200);
        assert!(answer.has("connection: close"), "{}", answer.head);
        assert!(caller.closed().await.is_empty());
    }
    assert_eq!(ended(server).await, (Drained { cut: 0 }, 0));
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_drain() {
    let server = Server::start().await;
    let mut idle = server.connect().await;
    idle.send(&request("POST", "", GOOD)).await;
    idle.answer().await;
    let _silent = server.connect().await;
    server.stop.cancel();
    // If they were waited for, they would be cut off at the end of the drain.
    assert_eq!(ended(server).await, (Drained { cut: 0 }, 0));
    assert!(idle.closed().await.is_empty());
}

#[tokio::test]
async fn requests_that_do_not_end_in_time_are_cut_off() {
    let config = Config {
        drain: Duration::from_millis(100),
        ..Config::default()
    };
    let server = Server::with(config, read::Config::default()).await;
    let mut caller = server.connect().await;
    caller.send(&slow()).await;
    server.wait_for_calls(1).await;
    server.stop.cancel();
    assert!(caller.closed().await.is_empty());
    let text = server.exposition();
    assert_eq!(ended(server).await, (Drained { cut: 1 }, 0));
    assert!(
        text.contains("requests_total{operation=\"history_by_definition\",outcome=\"failed\",status=\"503\"} 1"),
        "{text}"
    );
}

#[tokio::test]
async fn while_lingering_requests_are_answered_and_connections_asked_to_close() {
    let config = Config {
        linger: PATIENCE,
        ..Config::default()
    };
    let server = Server::with(config, read::Config::default()).await;
    let mut before = server.connect().await;
    before.send(&request("POST", "", GOOD)).await;
    assert!(!before.answer().await.has("connection: close"));
    server.stop.cancel();
    let mut after = server.connect().await;
    for caller in [&mut before, &mut after] {
        caller.send(&request("POST", "", GOOD)).await;
        let answer = caller.answer().await;
        assert!(
            answer.status == 200 && answer.has("connection: close"),
            "{}",
            answer.head
        );
        caller.closed().await;
    }
}

#[tokio::test]
async fn a_server_that_is_dropped_leaves_nothing_behind() {
    let server = Server::start().await;
    let mut caller = server.connect().await;
    caller.send(&slow()).await;
    server.wait_for_calls(1).await;
    server.running.abort();
    caller.closed().await;
    assert_eq!(server.tasks.finish(PATIENCE).await, 0);
}
