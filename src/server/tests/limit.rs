use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::support::{GOOD, Server, history_body, request};
use crate::scan::Endpoint;
use crate::server::{Config, read};

const SHORT: Duration = Duration::from_millis(150);

#[tokio::test]
async fn a_large_body_is_refused_and_the_refusal_arrives() {
    let server = Server::start().await;
    // More than the buffers of both sockets hold.
    let large = "x".repeat(12 * 1024 * 1024);
    for request in [
        request("POST", "", &large),
        request("POST", "", &large)
            .replacen("Content-Length: 12582912", "Transfer-Encoding: chunked", 1)
            .replacen("xxx", "c00000\r\nxxx", 1),
    ] {
        // Simple programs send the whole body first and only then read the response. A reset would
        // fail the one or lose the other.
        let mut caller = server.connect().await;
        caller.send(&request).await;
        let answer = caller.answer().await;
        assert_eq!(answer.status, 413);
        assert!(answer.has("connection: close"), "{}", answer.head);
        caller.0.shutdown().await.unwrap();
        assert!(caller.closed().await.is_empty());
    }
    assert_eq!(server.calls(), 0);
}

/// Java's client and `curl --http2` offer it with every request.
#[tokio::test]
async fn a_refusal_arrives_though_the_request_offered_an_upgrade_and_the_body_comes_later() {
    let server = Server::start().await;
    let large = "x".repeat(2 * 1024 * 1024);
    let offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    let request = request("POST", offer, &large);
    let (head, body) = request.split_at(request.len() - large.len());
    let mut caller = server.connect().await;
    caller.send(head).await;
    assert_eq!(caller.answer().await.status, 413);
    caller.send(body).await;
    caller.0.shutdown().await.unwrap();
    assert_eq!(caller.0.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    assert_eq!(
        server.tasks.finish(super::support::PATIENCE).await,
        1,
        "the server alone is left"
    );
}

#[tokio::test]
async fn large_heads_are_refused() {
    let server = Server::start().await;
    let many = "X: y\r\n".repeat(Config::MAX_HEADERS + 1);
    assert_eq!(server.status(&request("POST", &many, GOOD)).await, 431);
    let long = format!("X: {}\r\n", "y".repeat(Config::MAX_HEADER_BYTES as usize));
    assert_eq!(server.status(&request("POST", &long, GOOD)).await, 431);
    let target = format!("/{}", "x".repeat(65_534));
    assert_eq!(
        server
            .status(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
            .await,
        431
    );
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let read = read::Config {
        body_timeout: SHORT,
        ..read::Config::default()
    };
    let server = Server::with(Config::default(), read).await;
    let mut caller = server.connect().await;
    let whole = request("POST", "", GOOD);
    caller.send(&whole[..whole.len() - 1]).await;
    let answer = caller.answer().await;
    assert_eq!(answer.status, 408);
    assert!(answer.has("connection: close"), "{}", answer.head);
    caller.closed().await;
}

fn impatient() -> Config {
    Config {
        header_timeout: SHORT,
        idle_timeout: SHORT * 2,
        ..Config::default()
    }
}

#[tokio::test]
async fn slow_heads_and_silence_are_cut() {
    let server = Server::with(impatient(), read::Config::default()).await;
    for beginning in ["", "P", "POST / HTTP/1.1\r\nHo", "PRI * HTTP/2.0\r\n"] {
        let mut caller = server.connect().await;
        caller.send(beginning).await;
        assert!(caller.closed().await.is_empty(), "{beginning:?}");
    }
    // The same on a connection that has already served a request.
    let server = Server::with(
        Config {
            header_timeout: SHORT,
            ..Config::default()
        },
        read::Config::default(),
    )
    .await;
    let mut caller = server.connect().await;
    caller.send(&request("POST", "", GOOD)).await;
    assert_eq!(caller.answer().await.status, 200);
    caller.send("POST").await;
    caller.closed().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let server = Server::with(impatient(), read::Config::default()).await;
    let mut caller = server.connect().await;
    caller.send(&request("POST", "", GOOD)).await;
    assert_eq!(caller.answer().await.status, 200);
    assert!(caller.closed().await.is_empty());
}

#[tokio::test]
async fn a_waiting_request_is_not_idle() {
    let server = Server::with(impatient(), read::Config::default()).await;
    let mut caller = server.connect().await;
    caller.send(&request("POST", "", &history_body("slow"))).await;
    server.wait_for_calls(1).await;
    tokio::time::sleep(SHORT * 4).await;
    server.backend.gate.add_permits(1);
    assert_eq!(caller.answer().await.status, 200);
}

#[tokio::test]
async fn a_caller_that_takes_no_answer_is_cut() {
    let server = Server::with(impatient(), read::Config::default()).await;
    let mut caller = server.connect().await;
    // 100 MB: more than the sockets hold.
    let path = Endpoint::HISTORY.template();
    caller
        .send(&request("POST", "", GOOD).replacen(&path, &format!("{path}?$top=10000"), 1))
        .await;
    server.wait_for_calls(1).await;
    let gone = async {
        while server.tasks.len() > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(super::support::PATIENCE, gone).await.unwrap();
    drop(caller);
}

fn places(count: u32) -> Config {
    Config {
        max_connections: count,
        ..Config::default()
    }
}

#[tokio::test]
async fn when_all_slots_are_taken_and_busy_the_next_connection_waits() {
    let server = Server::with(places(1), read::Config::default()).await;
    let mut first = server.connect().await;
    first.send(&request("POST", "", &history_body("slow"))).await;
    server.wait_for_calls(1).await;
    let mut second = server.connect().await;
    second.send(&request("POST", "", GOOD)).await;
    tokio::time::sleep(SHORT).await;
    assert_eq!(server.calls(), 1);
    server.backend.gate.add_permits(1);
    let answer = first.answer().await;
    assert_eq!(answer.status, 200);
    drop(first);
    assert_eq!(second.answer().await.status, 200);
}

#[tokio::test]
async fn an_idle_connection_is_evicted_for_the_next_one() {
    let server = Server::with(places(3), read::Config::default()).await;
    let mut silent = server.connect().await;
    let mut slow = server.connect().await;
    slow.send("POST /api").await;
    let mut idle = server.connect().await;
    idle.send(&request("POST", "", GOOD)).await;
    assert_eq!(idle.answer().await.status, 200);
    // They stay busy, and are never evicted.
    let mut busy = Vec::new();
    for (evicted, what) in [(&mut silent, "silent"), (&mut slow, "slow"), (&mut idle, "idle")] {
        let mut next = server.connect().await;
        next.send(&request("POST", "", &history_body("slow"))).await;
        assert!(evicted.closed().await.is_empty(), "{what}");
        busy.push(next);
    }
    server.wait_for_calls(4).await;
    server.backend.gate.add_permits(3);
    for mut busy in busy {
        assert_eq!(busy.answer().await.status, 200);
    }
}

#[tokio::test]
async fn a_busy_connection_that_was_idle_for_long_finishes_its_answer() {
    let server = Server::with(places(2), read::Config::default()).await;
    let mut busy = server.connect().await;
    busy.send(&request("POST", "", &history_body("slow"))).await;
    server.wait_for_calls(1).await;
    let mut idle = server.connect().await;
    let mut next = server.connect().await;
    next.send(&request("POST", "", GOOD)).await;
    assert_eq!(next.answer().await.status, 200);
    assert!(idle.closed().await.is_empty());
    server.backend.gate.add_permits(1);
    assert_eq!(busy.answer().await.status, 200);
}
