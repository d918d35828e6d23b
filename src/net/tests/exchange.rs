//! Requests and answers: what breaks after the request was written, and pooled connections that are
//! dead.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{LIMITS, SHORT_LIMITS, hold, post, post_within, request_read, reset};
use crate::net::testing::{Ca, Http, Names, Validity, client, listen, quick};
use crate::net::{Config, Kind};

#[tokio::test]
async fn a_failure_after_the_request_was_written_is_not_called_unsent() {
    type Act = fn(TcpStream) -> futures_util::future::BoxFuture<'static, ()>;
    let cases: [(&str, Act, &str, bool, bool); 7] = [
        (
            "reset",
            |s| Box::pin(async move { reset(s) }),
            "connection_terminated",
            false,
            false,
        ),
        (
            "closed",
            |s| Box::pin(async move { drop(s) }),
            "connection_terminated",
            false,
            false,
        ),
        (
            "garbage",
            |mut s| Box::pin(async move { s.write_all(b"SSH-2.0\r\n\r\n").await.unwrap() }),
            "connection_terminated",
            false,
            false,
        ),
        (
            "silent",
            |s| Box::pin(async move { hold(s).await }),
            "http_response_timeout",
            false,
            true,
        ),
        (
            "reset within the body",
            |mut s| {
                Box::pin(async move {
                    s.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
                        .await
                        .unwrap();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    reset(s);
                })
            },
            "http_response_incomplete",
            true,
            false,
        ),
        (
            "slow body",
            |mut s| {
                Box::pin(async move {
                    s.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n")
                        .await
                        .unwrap();
                    while s.write_all(b"x").await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                })
            },
            "http_response_timeout",
            true,
            true,
        ),
        (
            "long body",
            |mut s| {
                Box::pin(async move {
                    s.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n")
                        .await
                        .unwrap();
                    let _ = s.write_all(&[b'x'; 9999]).await;
                })
            },
            "http_response_body_size",
            true,
            false,
        ),
    ];
    for (what, act, status, answered, timeout) in cases {
        let address = listen(move |mut stream| async move {
            request_read(&mut stream).await;
            act(stream).await;
        });
        let names = Names::new([("eu.test", address.await)]);
        let begun = Instant::now();
        let limits = if timeout { SHORT_LIMITS } else { LIMITS };
        let answer = post_within(&client(&quick(), &names), "http://eu.test/", limits).await;
        let error = answer.unwrap_err();
        assert!(!error.is_unprocessed(), "{what}");
        assert_eq!(error.proxy_status(), status, "{what}: {error:?}");
        assert_eq!(error.is_answered(), answered, "{what}");
        assert_eq!(error.is_timeout(), timeout, "{what}");
        assert!(begun.elapsed() < Duration::from_mins(1), "{what}: bounded at all");
    }
}

const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

#[tokio::test]
async fn a_pooled_connection_that_was_closed_is_replaced_without_an_error() {
    let address = listen(|mut stream| async move {
        request_read(&mut stream).await;
        stream.write_all(HELLO).await.unwrap();
    });
    let names = Names::new([("eu.test", address.await)]);
    let client = client(&quick(), &names);
    for n in 0..20 {
        match post(&client, "http://eu.test/").await {
            Ok(answer) => assert_eq!(answer.body(), "hello"),
            // The close may cross with the request, which then was written: the one case that a
            // client cannot repair.
            Err(error) => assert!(!error.is_unprocessed(), "request {n}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn a_pooled_connection_that_went_silent_serves_no_second_request() {
    let address = listen(|mut stream| async move {
        request_read(&mut stream).await;
        stream.write_all(HELLO).await.unwrap();
        hold(stream).await;
    });
    let names = Names::new([("eu.test", address.await)]);
    let client = client(&quick(), &names);
    post(&client, "http://eu.test/").await.unwrap();
    let error = post_within(&client, "http://eu.test/", SHORT_LIMITS).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::HeadTimeout));
    post(&client, "http://eu.test/").await.unwrap();
}

#[tokio::test]
async fn a_silent_http2_connection_is_noticed_by_pings_before_the_answer_is_overdue() {
    let ca = Ca::new();
    let host = Http::saying("here").tls(ca.server("eu.test", Validity::Now));
    let target = host.start().await;
    // Between client and host, a connection that can be made to swallow everything.
    let (cut, is_cut) = tokio::sync::watch::channel(false);
    let line = listen(move |mut near| {
        let mut is_cut = is_cut.clone();
        // Later connections are not affected.
        is_cut.mark_unchanged();
        async move {
            let mut far = TcpStream::connect(target).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                _ = is_cut.changed() => {
                    let _held = (near, far);
                    std::future::pending::<()>().await;
                }
            }
        }
    });
    let names = Names::new([("eu.test", line.await)]);
    let config = Config {
        ping_every: Duration::from_millis(100),
        ping_answer: Duration::from_millis(100),
        ..ca.config()
    };
    let client = client(&config, &names);
    post(&client, "https://eu.test/").await.unwrap();
    cut.send_replace(true);
    let error = post(&client, "https://eu.test/").await.unwrap_err();
    assert!(
        matches!(error.kind(), Kind::Lost(_)),
        "before the time for a head is over: {error:?}"
    );
    assert_eq!(post(&client, "https://eu.test/").await.unwrap().body(), "here");
}

#[tokio::test]
async fn goaway_moves_on_to_a_new_connection_without_an_error() {
    let ca = Ca::new();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let acceptor = tokio_rustls::TlsAcceptor::from(ca.server("eu.test", Validity::Now));
    let address = listen(move |stream| {
        let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
        async move {
            count.fetch_add(1, Ordering::SeqCst);
            let stream = acceptor.accept(stream).await.unwrap();
            let answered = Arc::new(tokio::sync::Notify::new());
            let tell = Arc::clone(&answered);
            let service = hyper::service::service_fn(move |_| {
                tell.notify_one();
                async { Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from("bye"))) }
            });
            let builder = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
            let mut connection =
                std::pin::pin!(builder.serve_connection(hyper_util::rt::TokioIo::new(stream), service));
            tokio::select! {
                _ = connection.as_mut() => return,
                () = answered.notified() => {}
            }
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    });
    let names = Names::new([("eu.test", address.await)]);
    let client = client(&ca.config(), &names);
    for _ in 0..10 {
        assert_eq!(post(&client, "https://eu.test/").await.unwrap().body(), "bye");
    }
    assert!(connections.load(Ordering::SeqCst) > 1);
}

#[tokio::test]
async fn a_burst_to_an_http2_host_shares_one_connection() {
    let ca = Ca::new();
    let host = Http::saying("here").tls(ca.server("eu.test", Validity::Now));
    let names = Names::new([("eu.test", host.start().await)]);
    let client = client(&ca.config(), &names);
    let burst = (0..50).map(|_| post(&client, "https://eu.test/"));
    for result in futures_util::future::join_all(burst).await {
        result.unwrap();
    }
    assert_eq!((host.connections(), host.requests()), (1, 50));
}

#[tokio::test]
async fn redirects_are_answers() {
    let host = Http::new(|_| {
        Response::builder()
            .status(307)
            .header("location", "http://elsewhere.test/")
            .body(Full::default())
            .unwrap()
    });
    let names = Names::new([("eu.test", host.start().await)]);
    let answer = post(&client(&quick(), &names), "http://eu.test/").await.unwrap();
    assert_eq!(answer.status(), 307);
    assert_eq!(host.requests(), 1);
}
