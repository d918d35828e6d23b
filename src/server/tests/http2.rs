use std::time::Duration;

use bytes::Bytes;
use http::{Request, Version as HttpVersion};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::support::{PATIENCE, Server, history_body};
use crate::scan::Endpoint;
use crate::server::serve::Drained;
use crate::server::{Config, read};

async fn connect(server: &Server) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    server.tasks.spawn("client", async move {
        let _ = connection.await;
    });
    sender
}

fn request(authority: &str) -> http::request::Builder {
    Request::post(format!("http://{authority}{}", Endpoint::HISTORY.template()))
        .version(HttpVersion::HTTP_2)
        .header("content-type", "application/json")
}

fn body(id: &str) -> Full<Bytes> {
    Full::new(Bytes::from(history_body(id)))
}

#[tokio::test]
async fn prior_knowledge_is_enough_and_the_authority_is_checked() {
    let server = Server::start().await;
    let mut caller = connect(&server).await;
    let answer = caller
        .send_request(request("localhost").body(body("a")).unwrap())
        .await
        .unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, HttpVersion::HTTP_2));
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "xx");

    let foreign = caller
        .send_request(request("evil.example").body(body("a")).unwrap())
        .await
        .unwrap();
    assert_eq!(foreign.status(), 421);
    let torn = request("localhost").header("host", "other").body(body("a")).unwrap();
    assert_eq!(caller.send_request(torn).await.unwrap().status(), 400);
    let mut many = request("localhost");
    for _ in 0..=Config::MAX_HEADERS {
        many = many.header("x", "y");
    }
    assert_eq!(
        caller
            .send_request(many.body(body("a")).unwrap())
            .await
            .unwrap()
            .status(),
        431
    );
}

/// RFC 9110 §9.3.2: a client resets a stream that brings a body in answer to `HEAD`.
#[tokio::test]
async fn a_response_to_head_has_no_body() {
    let server = Server::start().await;
    let mut caller = connect(&server).await;
    let head = Request::head(format!("http://localhost{}", Endpoint::HISTORY.template()));
    let head = head.version(HttpVersion::HTTP_2).body(Full::default()).unwrap();
    let answer = caller.send_request(head).await.unwrap();
    assert_eq!(answer.status(), 405);
    let length: usize = answer.headers()["content-length"].to_str().unwrap().parse().unwrap();
    assert!(length > 0, "that of the body it would have had");
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "");
}

#[tokio::test]
async fn streams_in_flight_survive_the_drain() {
    let server = Server::start().await;
    let mut caller = connect(&server).await;
    let slow: Vec<_> = (0..20)
        .map(|_| caller.send_request(request("localhost").body(body("slow")).unwrap()))
        .collect();
    let answers = server.tasks.spawn("callers", futures_util::future::join_all(slow));
    server.wait_for_calls(20).await;
    server.stop.cancel();
    server.backend.gate.add_permits(20);
    for answer in tokio::time::timeout(PATIENCE, answers).await.unwrap().unwrap() {
        assert_eq!(answer.unwrap().status(), 200);
    }
    let drained = tokio::time::timeout(PATIENCE, server.running).await.unwrap().unwrap();
    assert_eq!(drained, Drained { cut: 0 });
    drop(caller);
    assert_eq!(server.tasks.finish(PATIENCE).await, 0);
}

#[tokio::test]
async fn streams_that_do_not_end_in_time_are_cut_off_by_the_gateway_and_not_their_caller() {
    let config = Config {
        drain: Duration::from_millis(100),
        ..Config::default()
    };
    let server = Server::with(config, read::Config::default()).await;
    let mut caller = connect(&server).await;
    let slow = caller.send_request(request("localhost").body(body("slow")).unwrap());
    let slow = server.tasks.spawn("caller", slow);
    server.wait_for_calls(1).await;
    server.stop.cancel();
    assert!(slow.await.unwrap().is_err());
    assert_eq!(server.tasks.finish(PATIENCE).await, 0);
    let text = server.exposition();
    assert!(
        text.contains("requests_total{operation=\"history_by_definition\",outcome=\"failed\",status=\"503\"} 1"),
        "{text}"
    );
}

#[tokio::test]
async fn a_flood_of_resets_ends_the_connection() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for index in 0..2000_u32 {
        let id = (2 * index + 1).to_be_bytes();
        // HEADERS: `:method: POST`, `:scheme: http`, `:path: /` from the static table; then
        // RST_STREAM (CANCEL).
        flood.extend([0, 0, 3, 1, 4]);
        flood.extend(id);
        flood.extend([0x83, 0x86, 0x84]);
        flood.extend([0, 0, 4, 3, 0]);
        flood.extend(id);
        flood.extend([0, 0, 0, 8]);
    }
    // The write may fail half way.
    let _ = stream.write_all(&flood).await;
    let mut said = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said))
        .await
        .expect("the flood goes on");
    // GOAWAY with ENHANCE_YOUR_CALM (11), long before all streams were opened.
    let goaway = said
        .windows(17)
        .find(|frame| frame[..9] == [0, 0, frame[2], 7, 0, 0, 0, 0, 0] && frame[13..17] == [0, 0, 0, 11])
        .unwrap_or_else(|| panic!("no GOAWAY in {said:?}"));
    let last = u32::from_be_bytes([goaway[9], goaway[10], goaway[11], goaway[12]]);
    assert!(last < 1000, "{last}");
}
