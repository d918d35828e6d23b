use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use super::support::{GOOD, Server, history_body, request};
use crate::scan::{Endpoint, Operation};

#[tokio::test]
async fn a_request_is_answered_on_a_connection_that_stays_open() {
    let server = Server::start().await;
    let mut caller = server.connect().await;
    for method in ["POST", "QUERY"] {
        caller.send(&request(method, "X-Request-Id: mine-1\r\n", GOOD)).await;
        let answer = caller.answer().await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "xx"));
        assert!(answer.has("x-request-id: mine-1"), "{}", answer.head);
        assert!(answer.has("cache-status: defender-gateway; hit"), "{}", answer.head);
    }
    assert!(
        server
            .exposition()
            .contains("requests_total{operation=\"history_by_definition\",outcome=\"hit\",status=\"200\"} 2")
    );
}

#[tokio::test]
async fn a_request_without_an_id_gets_one() {
    let server = Server::start().await;
    let mut caller = server.connect().await;
    caller.send(&request("POST", "X-Request-Id: not sane\r\n", GOOD)).await;
    let answer = caller.answer().await;
    let id = answer
        .head
        .lines()
        .find_map(|line| line.strip_prefix("x-request-id: "))
        .unwrap();
    assert_eq!(id.len(), 32);
}

#[tokio::test]
async fn invalid_requests_get_the_contracts_errors_and_reach_no_service() {
    let server = Server::start().await;
    let path = Endpoint::HISTORY.template();
    let rows = [
        ("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 404, "NotFound"),
        (
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            405,
            "MethodNotAllowed",
        ),
        (format!("POST {path} HTTP/1.1\r\n\r\n"), 400, "BadRequest"),
        (
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
            400,
            "BadRequest",
        ),
        (format!("POST {path} HTTP/1.1\r\nHost: a b\r\n\r\n"), 400, "BadRequest"),
        (format!("POST {path} HTTP/1.0\r\n\r\n"), 400, "BadRequest"),
        (
            format!("POST {path} HTTP/1.1\r\nHost: evil.example\r\n\r\n"),
            421,
            "Forbidden",
        ),
        (
            format!("POST http://evil.example{path} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            421,
            "Forbidden",
        ),
        (
            request("POST", "Sec-Fetch-Site: cross-site\r\n", GOOD),
            403,
            "Forbidden",
        ),
        (
            request("POST", "Origin: http://evil.example\r\n", GOOD),
            403,
            "Forbidden",
        ),
        (
            format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            415,
            "UnsupportedMediaType",
        ),
        (
            request("POST", "Content-Encoding: gzip\r\n", GOOD),
            415,
            "UnsupportedMediaType",
        ),
        (request("POST", "", ""), 400, "InvalidRequestBody"),
        (request("POST", "", "{}"), 400, "InvalidRequestBody"),
        (
            request("POST", "", GOOD).replacen(&path, &format!("{path}?$top=0"), 1),
            400,
            "ODataError",
        ),
        (
            "CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n".to_owned(),
            404,
            "NotFound",
        ),
    ];
    for (request, status, code) in rows {
        let mut caller = server.connect().await;
        caller.send(&request).await;
        let answer = caller.answer().await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{request}");
        assert!(answer.has("content-type: application/problem+json"));
        assert!(answer.head.contains("proxy-status: defender-gateway; error="));
    }
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn an_absolute_target_names_the_host() {
    let server = Server::start().await;
    let absolute = request("POST", "", GOOD).replacen("POST /", "POST http://localhost:99/", 1);
    assert_eq!(server.status(&absolute).await, 200);
}

#[tokio::test]
async fn options_are_answered_without_a_body() {
    let server = Server::start().await;
    let mut caller = server.connect().await;
    let path = Endpoint::HISTORY_V1.template();
    caller
        .send(&format!("OPTIONS {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        .await;
    let answer = caller.answer().await;
    assert_eq!(answer.status, 204);
    assert!(answer.has("allow: OPTIONS, POST, QUERY") && answer.has("accept-query: \"application/json\""));
}

/// Some clients send one with every request.
#[tokio::test]
async fn a_body_of_a_get_means_nothing() {
    let server = Server::start().await;
    let path = Endpoint::latest(Operation::Definitions).template();
    let get = request("GET", "", "{}").replacen(&Endpoint::HISTORY.template(), &path, 1);
    assert_eq!(server.status(&get).await, 200);
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn expect_continue_is_answered_only_when_the_body_is_wanted() {
    let server = Server::start().await;
    let mut caller = server.connect().await;
    let whole = request("POST", "Expect: 100-continue\r\n", GOOD);
    let (head, body) = whole.split_at(whole.len() - GOOD.len());
    caller.send(head).await;
    assert_eq!(caller.answer().await.status, 100);
    caller.send(body).await;
    assert_eq!(caller.answer().await.status, 200);

    let unwanted = head.replace("Host: localhost", "Host: evil.example");
    assert_eq!(server.status(&unwanted).await, 421);
}

#[tokio::test]
async fn requests_whose_length_is_not_certain_are_refused_or_end_their_connection() {
    let server = Server::start().await;
    let base = format!(
        "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n",
        Endpoint::HISTORY.template()
    );
    for (fields, status) in [
        ("Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        ("Content-Length: 5, 6\r\n\r\n", 400),
        ("Content-Length: +5\r\n\r\n", 400),
        ("Content-Length: 0x5\r\n\r\n", 400),
        ("Content-Length: -1\r\n\r\n", 400),
        ("Transfer-Encoding: gzip\r\n\r\n", 400),
        ("Transfer-Encoding: chunked, gzip\r\n\r\n", 400),
        ("Transfer-Encoding: \u{b}chunked\r\n\r\n", 400),
        ("Transfer-Encoding : chunked\r\n\r\n", 400),
        ("X: a\r\n b\r\n\r\n", 400),
        ("X: a\nY: b\r\0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked\r\n\r\n5;\r\r\n", 400),
        ("Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n", 400),
    ] {
        let mut caller = server.connect().await;
        caller.send(&format!("{base}{fields}")).await;
        assert_eq!(caller.answer().await.status, status, "{fields:?}");
    }
    // With both lengths the chunks count, and the bytes after them are no second request.
    let mut caller = server.connect().await;
    let chunked = format!("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n1b\r\n{GOOD}\r\n0\r\n\r\n");
    caller
        .send(&format!("{base}{chunked}{}", request("POST", "", GOOD)))
        .await;
    assert_eq!(caller.answer().await.status, 200);
    assert!(caller.closed().await.is_empty());
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn a_panic_costs_one_request_and_is_counted() {
    let server = Server::start().await;
    let mut caller = server.connect().await;
    caller.send(&request("POST", "", &history_body("panic"))).await;
    let answer = caller.answer().await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (500, "InternalServerError"),
        "{}",
        answer.body
    );
    caller.send(&request("POST", "", GOOD)).await;
    assert_eq!(caller.answer().await.status, 200);
    assert!(server.exposition().contains("panics_total 1"));
}

#[tokio::test]
async fn a_transfer_coding_besides_chunked_is_not_implemented() {
    let server = Server::start().await;
    let path = Endpoint::HISTORY.template();
    let base = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
    let body = format!("\r\n{:x}\r\n{GOOD}\r\n0\r\n\r\n", GOOD.len());
    for (fields, status) in [
        ("Transfer-Encoding: chunked\r\n", 200),
        ("transfer-encoding: Chunked \r\n", 200),
        ("Transfer-Encoding: gzip, chunked\r\n", 501),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", 501),
        ("Transfer-Encoding: identity, chunked\r\n", 501),
        ("Transfer-Encoding: chunked, chunked\r\n", 501),
    ] {
        let mut caller = server.connect().await;
        caller.send(&format!("{base}{fields}{body}")).await;
        let answer = caller.answer().await;
        assert_eq!(answer.status, status, "{fields:?}");
        if status == 501 {
            assert_eq!(answer.code(), "NotImplemented");
        }
    }
    assert_eq!(server.calls(), 2);
}

#[tokio::test]
async fn a_caller_that_has_sent_all_and_says_so_gets_its_answer() {
    let server = Server::start().await;
    for (version, interim) in [("HTTP/1.1", "HTTP/1.1 100 Continue\r\n\r\n"), ("HTTP/1.0", "")] {
        let mut caller = server.connect().await;
        let slow = request("POST", "", &history_body("slow")).replacen("HTTP/1.1", version, 1);
        caller.send(&slow).await;
        caller.0.shutdown().await.unwrap();
        server.wait_for_calls(1).await;
        // Longer than the first checks after it.
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.backend.gate.add_permits(1);
        let all = String::from_utf8(caller.closed().await).unwrap();
        let answer = all.strip_prefix(interim).unwrap_or_else(|| panic!("{all:?}"));
        assert!(answer.starts_with(&format!("{version} 200 OK\r\n")), "{all:?}");
        assert!(answer.ends_with("xx"), "{all:?}");
        server.backend.calls.store(0, Ordering::SeqCst);
    }
    // A response that is ready at once needs no check.
    let mut caller = server.connect().await;
    caller.send(&request("POST", "", GOOD)).await;
    caller.0.shutdown().await.unwrap();
    let all = String::from_utf8(caller.closed().await).unwrap();
    assert!(all.contains("HTTP/1.1 200 OK\r\n") && all.ends_with("xx"), "{all:?}");
}

#[tokio::test]
async fn half_a_request_and_then_the_end_is_none() {
    let server = Server::start().await;
    let whole = request("POST", "", GOOD);
    for part in [1, 50, whole.len() - 1] {
        let mut caller = server.connect().await;
        caller.send(&whole[..part]).await;
        caller.0.shutdown().await.unwrap();
        let all = String::from_utf8(caller.closed().await).unwrap();
        assert!(!all.contains(" 200 "), "{all:?}");
    }
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn a_caller_that_has_gone_is_noticed_while_its_request_waits() {
    let server = Server::start().await;
    let mut caller = server.connect().await;
    caller.send(&request("POST", "", &history_body("slow"))).await;
    server.wait_for_calls(1).await;
    drop(caller);
    let gone = async {
        while !server.exposition().contains("status=\"499\"} 1") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(super::support::PATIENCE, gone).await.unwrap();
}
