//! Every fault.

use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Controls;
use super::client::{Client, ID, PATH, body, ended};
use crate::{Config, Fault, Often, Plan, SignInFault, Simulator};

async fn start() -> (Simulator, Client, String) {
    let sim = Simulator::start(Config::instant()).unwrap();
    let client = Client::http1();
    let token = client.token(&sim).await;
    (sim, client, token)
}

fn once(fault: Fault) -> Plan<Fault> {
    Plan::of(fault, Often::Times(1))
}

/// Sends a valid call on a connection of its own and returns the bytes that come back, and how it
/// ended.
async fn raw(sim: &Simulator, token: &str) -> (Vec<u8>, std::io::Result<()>) {
    let mut stream = TcpStream::connect(&*sim.region("us").unwrap().socket_addrs(|| None).unwrap())
        .await
        .unwrap();
    let body = body(&[ID]);
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    let mut read = Vec::new();
    let end = stream.read_to_end(&mut read).await.map(drop);
    (read, end)
}

#[tokio::test]
async fn statuses_come_in_the_shape_that_their_sender_uses() {
    let (sim, client, token) = start().await;
    for (status, code) in [
        (500, "InternalServerError"),
        (400, "BadRequest"),
        (403, "Forbidden"),
        (429, "TooManyRequests"),
    ] {
        sim.set_faults("us", &once(Fault::Status(StatusCode::from_u16(status).unwrap())))
            .unwrap();
        let answer = client.ask(&sim, "us", &token).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code));
    }
    for status in [502, 503, 504] {
        sim.set_faults("us", &once(Fault::Status(StatusCode::from_u16(status).unwrap())))
            .unwrap();
        let answer = client.ask(&sim, "us", &token).await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), answer.field("content-type")),
            (status, Some("text/html"))
        );
    }
    sim.set_faults("us", &once(Fault::NoLicence)).unwrap();
    let answer = client.ask(&sim, "us", &token).await.unwrap();
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(
        answer.json()["error"]["message"]
            .as_str()
            .unwrap()
            .ends_with("No Tvm license")
    );
    sim.set_faults("us", &once(Fault::Throttle(Duration::from_secs(8))))
        .unwrap();
    let answer = client.ask(&sim, "us", &token).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.field("retry-after")), (429, Some("8")));
    for wait in [None, Some(5)] {
        sim.set_faults("us", &once(Fault::Busy(wait.map(Duration::from_secs))))
            .unwrap();
        let answer = client.ask(&sim, "us", &token).await.unwrap();
        let named = answer.field("retry-after").map(|seconds| seconds.parse().unwrap());
        assert_eq!((answer.status.as_u16(), named), (429, wait));
        assert!(!answer.json()["error"]["message"].as_str().unwrap().contains("per 0"));
    }
    sim.set_faults("us", &once(Fault::Redirect)).unwrap();
    assert_eq!(client.ask(&sim, "us", &token).await.unwrap().status, StatusCode::FOUND);
    sim.set_faults("us", &once(Fault::Rubbish)).unwrap();
    let answer = client.ask(&sim, "us", &token).await.unwrap();
    assert!(answer.status == StatusCode::OK && serde_json::from_slice::<serde_json::Value>(&answer.body).is_err());
    assert_eq!(client.ask(&sim, "us", &token).await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn a_cut_is_a_reset_before_any_byte() {
    let (sim, client, token) = start().await;
    sim.set_faults("us", &once(Fault::Cut)).unwrap();
    let (read, end) = raw(&sim, &token).await;
    assert_eq!(
        (read.len(), end.unwrap_err().kind()),
        (0, std::io::ErrorKind::ConnectionReset)
    );
    let record = &sim.calls()[0];
    assert_eq!((record.status, record.fault), (None, Some("cut")));
    assert_eq!(client.ask(&sim, "us", &token).await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn a_cut_in_mid_body_leaves_half_an_answer() {
    let (sim, client, token) = start().await;
    let whole = client.ask(&sim, "us", &token).await.unwrap().body.len();
    sim.set_faults("us", &once(Fault::CutMidBody)).unwrap();
    let (read, end) = raw(&sim, &token).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let text = String::from_utf8(read).unwrap();
    let (head, part) = text.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains(&format!("content-length: {whole}")),
        "{head}"
    );
    assert_eq!(part.len(), whole / 2);
    sim.set_faults("us", &once(Fault::CutMidBody)).unwrap();
    assert!(client.ask(&sim, "us", &token).await.is_err());
}

#[tokio::test]
async fn a_black_hole_swallows_and_keeps_the_connection() {
    for client in [Client::http1(), Client::http2()] {
        let (sim, _, token) = start().await;
        sim.set_faults("us", &once(Fault::BlackHole)).unwrap();
        let mut asked = std::pin::pin!(client.ask(&sim, "us", &token));
        tokio::select! {
            answer = &mut asked => panic!("{answer:?}"),
            calls = ended(&sim, 1) => assert_eq!(calls[0].status, None),
        }
        assert!(timeout(Duration::from_millis(50), &mut asked).await.is_err());
        assert_eq!(sim.stop().await, 0);
        assert!(asked.await.is_err(), "the end of the simulator ends it");
    }
}

#[tokio::test]
async fn a_slow_head_trickles_and_a_slow_body_dribbles() {
    let (sim, client, token) = start().await;
    let over = Duration::from_millis(128);
    for fault in [Fault::SlowHead(over), Fault::SlowBody(over)] {
        sim.set_faults("us", &once(fault)).unwrap();
        let before = sim.elapsed();
        let answer = client.ask(&sim, "us", &token).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        assert!(answer.json()["value"].is_array());
        assert!(sim.elapsed() >= before + over, "{fault:?}");
    }
}

#[tokio::test]
async fn faults_do_not_spare_the_quota() {
    let config = Config {
        shape: crate::Shape::SlidingLog,
        limits: vec!["2/1h".parse().unwrap()],
        ..Config::instant()
    };
    let (sim, client) = (Simulator::start(config).unwrap(), Client::http1());
    let token = client.token(&sim).await;
    sim.set_faults_everywhere(&once(Fault::Cut));
    assert!(client.ask(&sim, "us", &token).await.is_err());
    assert!(client.ask(&sim, "eu", &token).await.is_err());
    assert_eq!(
        client.ask(&sim, "us", &token).await.unwrap().status,
        StatusCode::TOO_MANY_REQUESTS
    );
}

#[tokio::test]
async fn a_call_arrives_although_its_sender_has_gone() {
    let mut config = Config::instant();
    // A call takes half of this to arrive, and leaves long before on any machine.
    config.regions[0].latency = Duration::from_secs(4);
    let (sim, client) = (Simulator::start(config).unwrap(), Client::http2());
    let token = client.token(&sim).await;
    // A first call opens the connection, so that the second one leaves at once.
    client.ask(&sim, "us", &token).await.unwrap();
    assert!(
        timeout(Duration::from_millis(500), client.ask(&sim, "us", &token))
            .await
            .is_err()
    );
    assert_eq!(sim.calls().len(), 1, "it is still on its way");
    assert_eq!(ended(&sim, 2).await.len(), 2);
}

#[tokio::test]
async fn sign_in_can_hang_or_be_cut() {
    let (sim, client, _) = start().await;
    sim.set_sign_in_faults(Plan::of(SignInFault::Hang, Often::Times(1)));
    assert!(timeout(Duration::from_millis(50), client.token(&sim)).await.is_err());
    sim.set_sign_in_faults(Plan::of(SignInFault::Cut, Often::Times(1)));
    let url = format!("{}x/oauth2/v2.0/token", sim.authority());
    assert!(
        client
            .send(http::Request::post(url).body("".into()).unwrap())
            .await
            .is_err()
    );
    client.token(&sim).await;
    let statuses: Vec<_> = sim.token_requests().iter().map(|record| record.status).collect();
    assert_eq!(statuses, [Some(200), None, None, Some(200)]);
}

#[tokio::test]
async fn probing_uses_up_no_fault_but_meets_the_standing_ones() {
    let (sim, client, token) = start().await;
    let probe = async || {
        let url = sim.region("us").unwrap().to_string();
        client.send(http::Request::get(url).body("".into()).unwrap()).await
    };
    sim.set_faults("us", &once(Fault::Cut)).unwrap();
    assert_eq!(probe().await.unwrap().status, StatusCode::NOT_FOUND);
    assert!(
        client.ask(&sim, "us", &token).await.is_err(),
        "the fault is still there"
    );
    sim.set_faults("us", &Plan::of(Fault::Cut, Often::Always)).unwrap();
    assert!(probe().await.is_err());
}

#[tokio::test]
async fn a_body_that_breaks_off_was_counted() {
    let (sim, _, token) = start().await;
    let addr = sim.region("us").unwrap().socket_addrs(|| None).unwrap();
    let mut stream = TcpStream::connect(&*addr).await.unwrap();
    let head =
        format!("POST {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 100\r\n\r\n{{");
    stream.write_all(head.as_bytes()).await.unwrap();
    sim.wait_for_calls(1).await.unwrap();
    drop(stream);
    let call = ended(&sim, 1).await.remove(0);
    assert_eq!((call.status, call.operation.is_some()), (None, true));
}

#[tokio::test]
async fn a_page_comes_from_no_service_whatever_its_status() {
    let (sim, client, token) = start().await;
    for status in [403, 404, 421, 502, 520] {
        sim.set_faults("us", &once(Fault::Page(StatusCode::from_u16(status).unwrap())))
            .unwrap();
        let answer = client.ask(&sim, "us", &token).await.unwrap();
        assert_eq!(answer.status.as_u16(), status);
        assert_eq!(answer.headers["content-type"], "text/html");
        assert!(answer.body.starts_with(b"<html"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_stream_that_is_refused_does_not_count_and_over_http1_there_is_none() {
    let (sim, http1, token) = start().await;
    for (fault, reason) in [
        (Fault::RefusedStream, h2::Reason::REFUSED_STREAM),
        (Fault::Http1Required, h2::Reason::HTTP_1_1_REQUIRED),
    ] {
        sim.set_faults("us", &Plan::of(fault, Often::Always)).unwrap();
        let error = Client::http2().ask(&sim, "us", &token).await.unwrap_err();
        let mut causes = std::iter::successors(Some(error.as_ref() as &dyn std::error::Error), |cause| cause.source());
        let reset = causes.find_map(|cause| cause.downcast_ref::<h2::Error>());
        assert_eq!(reset.and_then(h2::Error::reason), Some(reason), "{error:?}");
        let answer = http1.ask(&sim, "us", &token).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{fault:?}");
    }
    let calls = sim.calls();
    let counted: Vec<_> = calls
        .iter()
        .map(|call| (call.operation.is_some(), call.fault))
        .collect();
    assert_eq!(
        counted,
        [
            (false, Some("refused-stream")),
            (true, None),
            (false, Some("http1-required")),
            (true, None)
        ]
    );
}
