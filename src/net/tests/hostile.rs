//! Hostile hosts: what they send is bounded in time and memory, and never becomes another request's
//! answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{LIMITS, SHORT_LIMITS, hold, post, post_within, request_read};
use crate::net::testing::{Ca, Names, Validity, client, listen, quick};
use crate::net::{Error, Kind, Limits};

type Misbehaviour = fn(TcpStream) -> BoxFuture<'static, ()>;

/// Writes `piece` for as long as it is read.
async fn forever(mut stream: TcpStream, start: &'static [u8], piece: &'static [u8]) {
    if stream.write_all(start).await.is_ok() {
        while stream.write_all(piece).await.is_ok() {}
    }
}

/// Writes `text` and stays silent.
async fn say(mut stream: TcpStream, text: &'static [u8]) {
    stream.write_all(text).await.unwrap();
    hold(stream).await;
}

/// The result of a request to such a host, which must end in time.
async fn meets(act: Misbehaviour) -> Result<http::Response<Bytes>, Error> {
    meets_within(act, LIMITS).await
}

async fn meets_within(act: Misbehaviour, limits: Limits) -> Result<http::Response<Bytes>, Error> {
    let address = listen(move |mut stream| async move {
        request_read(&mut stream).await;
        act(stream).await;
    });
    let names = Names::new([("eu.test", address.await)]);
    let begun = Instant::now();
    let result = post_within(&client(&quick(), &names), "http://eu.test/", limits).await;
    assert!(
        begun.elapsed() < Duration::from_mins(1),
        "bounded at all: {:?}",
        begun.elapsed()
    );
    result
}

#[tokio::test]
async fn bodies_without_end_are_cut_at_the_limit() {
    let hosts: [(&str, Misbehaviour); 3] = [
        ("until close", |s| {
            Box::pin(forever(s, b"HTTP/1.1 200 OK\r\n\r\n", &[b'x'; 4096]))
        }),
        ("chunked", |s| {
            Box::pin(forever(
                s,
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
                b"8\r\nxxxxxxxx\r\n",
            ))
        }),
        ("announced", |s| {
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\n";
            Box::pin(forever(s, head, &[b'x'; 4096]))
        }),
    ];
    for (what, act) in hosts {
        let error = meets(act).await.unwrap_err();
        // An impossible length may be rejected with the head.
        let refused = what == "announced" && matches!(error.kind(), Kind::Lost(_));
        assert!(
            refused || matches!(error.kind(), Kind::BodyTooLarge { .. }),
            "{what}: {error:?}"
        );
        assert!(!error.is_unprocessed());
    }
}

#[tokio::test]
async fn wrong_lengths_are_no_answers() {
    let hosts: [(&str, Misbehaviour); 6] = [
        ("too short", |mut s| {
            Box::pin(async move {
                let text = b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nshort";
                s.write_all(text).await.unwrap();
            })
        }),
        ("two lengths", |s| {
            Box::pin(say(
                s,
                b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 5\r\n\r\nhello",
            ))
        }),
        ("negative", |s| {
            Box::pin(say(s, b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nhello"))
        }),
        ("no chunk size", |s| {
            Box::pin(say(
                s,
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
            ))
        }),
        ("chunk size overflow", |s| {
            Box::pin(say(
                s,
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n",
            ))
        }),
        ("chunk never ends", |mut s| {
            Box::pin(async move {
                let text = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
                s.write_all(text).await.unwrap();
            })
        }),
    ];
    for (what, act) in hosts {
        let error = meets(act).await.expect_err(what);
        assert!(!error.is_unprocessed(), "{what}");
        assert!(!error.is_timeout(), "{what}: {error:?}");
    }
}

#[tokio::test]
async fn bytes_after_an_answer_are_not_the_next_requests_answer() {
    let address = listen(|mut stream| async move {
        request_read(&mut stream).await;
        let smuggled =
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirstHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
        stream.write_all(smuggled).await.unwrap();
        hold(stream).await;
    });
    let names = Names::new([("eu.test", address.await)]);
    let client = client(&quick(), &names);
    for _ in 0..3 {
        match post(&client, "http://eu.test/").await {
            Ok(answer) => assert_eq!(answer.body(), "first"),
            Err(error) => assert!(matches!(error.kind(), Kind::Lost(_)), "{error:?}"),
        }
    }
}

#[tokio::test]
async fn floods_of_fields_are_cut() {
    let hosts: [(&str, Misbehaviour); 4] = [
        ("many fields", |s| {
            Box::pin(forever(s, b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"))
        }),
        ("one long field", |s| {
            Box::pin(forever(s, b"HTTP/1.1 200 OK\r\na: ", &[b'x'; 4096]))
        }),
        ("a long reason", |s| {
            Box::pin(forever(s, b"HTTP/1.1 200 ", &[b'x'; 4096]))
        }),
        ("trailers", |s| {
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n";
            Box::pin(forever(s, head, b"a: b\r\n"))
        }),
    ];
    for (what, act) in hosts {
        let begun = Instant::now();
        let error = meets(act).await.expect_err(what);
        assert!(!error.is_timeout(), "{what}: {error:?} after {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn interim_answers_do_not_extend_the_wait() {
    let one: Misbehaviour = |s| {
        Box::pin(say(
            s,
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        ))
    };
    assert_eq!(meets(one).await.unwrap().body(), "ok");
    let hints: Misbehaviour = |s| {
        let text = b"HTTP/1.1 103 Early Hints\r\nlink: </>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        Box::pin(say(s, text))
    };
    assert_eq!(meets(hints).await.unwrap().body(), "ok");
    let endless: Misbehaviour = |mut s| {
        Box::pin(async move {
            while s.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    };
    let error = meets_within(endless, SHORT_LIMITS).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::HeadTimeout), "{error:?}");
}

#[tokio::test]
async fn over_http2_bodies_and_fields_are_bounded_and_resets_end_only_their_stream() {
    let ca = Ca::new();
    let acceptor = tokio_rustls::TlsAcceptor::from(ca.server("eu.test", Validity::Now));
    let connections = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&connections);
    let address = listen(move |stream| {
        let acceptor = acceptor.clone();
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            let stream = acceptor.accept(stream).await.unwrap();
            let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                let mut answer = http::Response::builder();
                match request.uri().path() {
                    "/fields" => {
                        for n in 0..2000 {
                            answer = answer.header(format!("x-field-{n}"), [b'x'; 100].as_slice());
                        }
                    }
                    "/reset" => return Err("no"),
                    _ => {}
                }
                let endless = request.uri().path() == "/body";
                let frames = futures_util::stream::unfold(endless, |go| async move {
                    go.then(|| {
                        (
                            Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(&[b'x'; 512]))),
                            go,
                        )
                    })
                });
                Ok(answer.body(StreamBody::new(frames)).unwrap())
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        }
    });
    let names = Names::new([("eu.test", address.await)]);
    for path in ["body", "fields", "reset"] {
        let client = client(&ca.config(), &names);
        post(&client, "https://eu.test/").await.unwrap();
        let begun = Instant::now();
        let error = post(&client, &format!("https://eu.test/{path}")).await.expect_err(path);
        assert!(
            !error.is_unprocessed() && !error.is_timeout(),
            "{path}: {error:?} after {:?}",
            begun.elapsed()
        );
        assert_eq!(matches!(error.kind(), Kind::BodyTooLarge { .. }), path == "body");
        post(&client, "https://eu.test/").await.expect(path);
    }
}
