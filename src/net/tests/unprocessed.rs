//! A request that an HTTP/2 host says it has not processed is sent again at once; one that it may
//! have processed never is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use http::Response;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::post;
use crate::net::testing::{Ca, Http, Names, Validity, client, listen};
use crate::net::{Client, Config, Kind};

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END: u8 = 0x5;

const REFUSED_STREAM: u32 = 0x7;
const CANCEL: u32 = 0x8;
const INTERNAL_ERROR: u32 = 0x2;
const ENHANCE_YOUR_CALM: u32 = 0xb;
const HTTP_1_1_REQUIRED: u32 = 0xd;

/// What a host does with a request instead of answering it.
#[derive(Clone, Copy, Debug)]
enum Misbehaviour {
    Reset(u32),
    /// Names the last stream that counts, relative to the request's, and closes.
    GoAway(i64, u32),
    /// Closes the connection.
    Close,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

async fn read_frame(stream: &mut TcpStream) -> Option<(u8, u8, u32)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).await.ok()?;
    let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((head[3], head[4], id))
}

/// Speaks just enough HTTP/2: applies `act` to the first requests and answers the others with 204.
async fn serve(mut stream: TcpStream, act: Misbehaviour, acts: usize, requests: Arc<AtomicUsize>) {
    let mut preface = [0; 24];
    if stream.read_exact(&mut preface).await.is_err() || !preface.starts_with(b"PRI * HTTP/2.0") {
        // The same answer to every HTTP/1.1 request.
        requests.fetch_add(1, Ordering::SeqCst);
        let _ = stream
            .write_all(b"HTTP/1.1 203 Plain\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .await;
        return;
    }
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    while let Some((kind, flags, id)) = read_frame(&mut stream).await {
        match kind {
            SETTINGS if flags & 1 == 0 => stream.write_all(&frame(SETTINGS, 1, 0, &[])).await.unwrap(),
            HEADERS if requests.fetch_add(1, Ordering::SeqCst) < acts => match act {
                Misbehaviour::Reset(reason) => {
                    let reset = frame(RST_STREAM, 0, id, &reason.to_be_bytes());
                    stream.write_all(&reset).await.unwrap();
                }
                Misbehaviour::GoAway(beside, reason) => {
                    let last = u32::try_from((i64::from(id) + beside).max(0)).unwrap();
                    let payload = [last.to_be_bytes(), reason.to_be_bytes()].concat();
                    stream.write_all(&frame(GOAWAY, 0, 0, &payload)).await.unwrap();
                    return;
                }
                Misbehaviour::Close => return,
            },
            // `:status: 204` is entry 9 of HPACK's static table.
            HEADERS => stream.write_all(&frame(HEADERS, END, id, &[0x89])).await.unwrap(),
            _ => {}
        }
    }
}

/// A client that speaks HTTP/2, and a host that applies `act` to this many requests; and the number
/// of requests it got.
async fn met(act: Misbehaviour, acts: usize) -> (Client, Arc<AtomicUsize>) {
    let requests = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&requests);
    let address = listen(move |stream| serve(stream, act, acts, Arc::clone(&count))).await;
    let names = Names::new([("eu.test", address)]);
    (client(&Config::default(), &names).cleartext_http2(), requests)
}

#[tokio::test]
async fn a_request_that_was_not_processed_is_sent_again_at_once() {
    for act in [
        Misbehaviour::Reset(REFUSED_STREAM),
        Misbehaviour::GoAway(-1, 0),
        Misbehaviour::GoAway(-1, ENHANCE_YOUR_CALM),
    ] {
        for times in 1..=3 {
            let (client, requests) = met(act, times).await;
            let answer = post(&client, "http://eu.test/").await.unwrap();
            assert_eq!(answer.status(), 204, "{act:?} {times} times");
            assert_eq!(requests.load(Ordering::SeqCst), times + 1, "{act:?}");
        }
    }
}

#[tokio::test]
async fn an_address_is_blamed_for_faults_and_for_refusals_without_end_only() {
    for (act, acts, is_blamed) in [
        (Misbehaviour::Reset(REFUSED_STREAM), 1, false),
        (Misbehaviour::GoAway(-1, 0), 1, false),
        (Misbehaviour::GoAway(-1, INTERNAL_ERROR), 1, true),
        (Misbehaviour::Reset(REFUSED_STREAM), 4, true),
    ] {
        let host = |acts| {
            let count = Arc::<AtomicUsize>::default();
            let requests = Arc::clone(&count);
            let served = listen(move |stream| {
                // The count is of all connections.
                serve(stream, act, acts, Arc::clone(&count))
            });
            (served, requests)
        };
        let ((first, asked), (second, passed)) = (host(acts), host(0));
        let names = Names::default();
        names.set("eu.test", vec![first.await, second.await]);
        let client = client(&Config::default(), &names).cleartext_http2();
        let first_answer = post(&client, "http://eu.test/").await;
        assert_eq!(first_answer.is_err(), acts == 4, "{act:?}");
        post(&client, "http://eu.test/").await.unwrap();
        let at_other = passed.load(Ordering::SeqCst) > 0;
        assert_eq!(at_other, is_blamed, "{act:?} {acts} times: {asked:?}");
    }
}

#[tokio::test]
async fn a_host_that_processes_nothing_is_believed_after_four_times() {
    for act in [Misbehaviour::Reset(REFUSED_STREAM), Misbehaviour::GoAway(-1, 0)] {
        let (client, requests) = met(act, usize::MAX).await;
        let error = post(&client, "http://eu.test/").await.unwrap_err();
        assert!(matches!(error.kind(), Kind::NotProcessed(_)), "{act:?}: {error:?}");
        assert!(error.is_unprocessed() && !error.is_answered() && !error.is_timeout());
        assert_eq!(requests.load(Ordering::SeqCst), 4, "{act:?}");
    }
}

#[tokio::test]
async fn a_request_that_may_have_been_processed_is_not_sent_again() {
    for act in [
        Misbehaviour::Reset(CANCEL),
        Misbehaviour::Reset(INTERNAL_ERROR),
        Misbehaviour::GoAway(0, 0),
        Misbehaviour::GoAway(0, ENHANCE_YOUR_CALM),
        Misbehaviour::GoAway(2, INTERNAL_ERROR),
        Misbehaviour::Close,
    ] {
        let (client, requests) = met(act, 1).await;
        let error = post(&client, "http://eu.test/").await.unwrap_err();
        assert!(matches!(error.kind(), Kind::Lost(_)), "{act:?}: {error:?}");
        assert!(!error.is_unprocessed(), "{act:?}");
        assert_eq!(requests.load(Ordering::SeqCst), 1, "{act:?}");
    }
}

/// Answers every request, and says goodbye after some on each connection, as hosts do that are
/// updated: requests that are handed over just then must not count as unprocessed and arrive.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_arrives_twice_while_hosts_say_goodbye() {
    let arrived = Arc::<Mutex<HashMap<String, usize>>>::default();
    let seen = Arc::clone(&arrived);
    let address = listen(move |stream| {
        let seen = Arc::clone(&seen);
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let mut requests = 0;
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                *seen.lock().unwrap().entry(request.uri().path().to_owned()).or_default() += 1;
                // The client may have gone.
                let _ = respond.send_response(Response::new(()), true);
                requests += 1;
                if requests == 20 {
                    connection.graceful_shutdown();
                }
            }
        }
    })
    .await;
    let names = Names::new([("eu.test", address)]);
    let client = client(&Config::default(), &names).cleartext_http2();
    let client = &client;
    let answered = join_all((0..32).map(|caller| async move {
        let mut answered = Vec::new();
        for n in 0..100 {
            let path = format!("/{caller}/{n}");
            if post(client, &format!("http://eu.test{path}")).await.is_ok() {
                answered.push(path);
            }
        }
        answered
    }));
    let answered: Vec<String> = answered.await.into_iter().flatten().collect();
    let arrived = arrived.lock().unwrap();
    let twice: Vec<_> = arrived.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert!(answered.iter().all(|path| arrived.contains_key(path)));
    // On a busy machine many are late; goodbyes there are all the same.
    assert!(answered.len() > 100, "{} of 3200 answered", answered.len());
}

#[tokio::test]
async fn http1_is_used_where_it_is_asked_for_and_stays_in_use() {
    for act in [
        Misbehaviour::Reset(HTTP_1_1_REQUIRED),
        Misbehaviour::GoAway(-1, HTTP_1_1_REQUIRED),
    ] {
        let (client, requests) = met(act, usize::MAX).await;
        for answered in 1..=3 {
            let answer = post(&client, "http://eu.test/").await.unwrap();
            assert_eq!(answer.status(), 203, "{act:?}");
            // One over HTTP/2, and no other.
            assert_eq!(requests.load(Ordering::SeqCst), 1 + answered, "{act:?}");
        }
    }
}

#[tokio::test]
async fn a_tls_host_that_asks_for_http1_is_not_offered_http2_again() {
    let ca = Ca::new();
    let acceptor = tokio_rustls::TlsAcceptor::from(ca.server("eu.test", Validity::Now));
    let http1 = Http::saying("plain");
    let (counted, http2) = (http1.clone(), Arc::<AtomicUsize>::default());
    let count = Arc::clone(&http2);
    let address = listen(move |stream| {
        let (acceptor, http1, count) = (acceptor.clone(), http1.clone(), Arc::clone(&count));
        async move {
            let stream = acceptor.accept(stream).await.unwrap();
            if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                http1.http(stream).await;
                return;
            }
            count.fetch_add(1, Ordering::SeqCst);
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                respond.send_reset(h2::Reason::HTTP_1_1_REQUIRED);
            }
        }
    });
    let names = Names::new([("eu.test", address.await)]);
    let client = client(&ca.config(), &names);
    for result in join_all((0..20).map(|_| post(&client, "https://eu.test/"))).await {
        assert_eq!(result.unwrap().body(), "plain");
    }
    assert_eq!((http2.load(Ordering::SeqCst), counted.requests()), (1, 20));
}

#[tokio::test]
async fn a_burst_that_is_refused_arrives_all_the_same() {
    let (client, requests) = met(Misbehaviour::Reset(REFUSED_STREAM), 30).await;
    for result in join_all((0..30).map(|_| post(&client, "http://eu.test/"))).await {
        assert_eq!(result.unwrap().status(), 204);
    }
    assert_eq!(requests.load(Ordering::SeqCst), 60);
}
