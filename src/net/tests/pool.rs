//! How many connections are kept, and for how long.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{FutureExt as _, join_all};
use http::{Request, Uri};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, DuplexStream};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::post;
use crate::net::connection::Connection;
use crate::net::connector::{Duplex, Peer, Protocol, Stream};
use crate::net::pool::Pool;
use crate::net::testing::{Http, Names, client, quick};
use crate::net::{Connector, Resolver};

fn pool() -> Pool {
    let connector = Connector::new(&quick(), Resolver::system()).unwrap();
    Pool::new(connector, Arc::new(quick()))
}

async fn begin(near: DuplexStream, protocol: Protocol) -> Connection {
    let stream = Stream {
        io: TokioIo::new(Box::new(near) as Box<dyn Duplex>),
        protocol,
        peer: Arc::new(Peer::new(
            &Resolver::system(),
            "eu.test",
            80,
            ([127, 0, 0, 1], 80).into(),
        )),
        setup: Duration::ZERO,
    };
    Connection::begin(stream, &quick()).await.unwrap()
}

#[tokio::test]
async fn one_after_the_other_needs_one_connection_and_a_burst_leaves_a_hundred() {
    let host = Http::saying("here");
    let names = Names::new([("eu.test", host.start().await)]);
    let client = client(&quick(), &names);
    for _ in 0..10 {
        post(&client, "http://eu.test/").await.unwrap();
    }
    assert_eq!((host.connections(), host.requests()), (1, 10));
    // The host is known to speak HTTP/1.1, so requests do not wait for each other.
    for made in [140, 180] {
        for result in join_all((0..140).map(|_| post(&client, "http://eu.test/"))).await {
            result.unwrap();
        }
        assert_eq!(host.connections(), made);
    }
}

/// In memory, so that a minute can pass at once.
#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_after_a_minute() {
    let pool = pool();
    let host = pool.host(&Uri::from_static("http://eu.test/")).unwrap();
    let begun = Instant::now();
    let mut far_ends = Vec::new();
    for age in [0, 20] {
        tokio::time::sleep_until(begun + Duration::from_secs(age)).await;
        let (near, far) = tokio::io::duplex(1024);
        let connection = begin(near, Protocol::Http1).await;
        pool.give_back(&host, connection);
        far_ends.push((age, far));
    }
    for (age, mut far) in far_ends {
        assert_eq!(far.read(&mut [0; 16]).await.unwrap(), 0, "closed");
        assert_eq!(begun.elapsed().as_secs(), age + 60);
    }
}

/// With several tasks, a request that was handed over could fail with a `GOAWAY` that came just
/// then, and be sent all the same.
#[tokio::test(start_paused = true)]
async fn all_parts_of_an_http2_connection_run_in_one_task() {
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let (near, _far) = tokio::io::duplex(64 * 1024);
    let mut connection = begin(near, Protocol::Http2).await;
    let host = pool().host(&Uri::from_static("http://eu.test/")).unwrap();
    let request = Request::post("http://eu.test/").body(Full::from("body")).unwrap();
    let until = Instant::now() + Duration::from_secs(1);
    let mut answer = pin!(connection.send(&host, request, until, pending()));
    for _ in 0..3 {
        assert!(answer.as_mut().now_or_never().is_none(), "it is under way");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(tasks(), before + 1);
    }
}

#[test]
fn the_connections_of_so_many_hosts_are_kept() {
    let pool = pool();
    let host = |n: u32| pool.host(&format!("http://h{n}.test/").parse().unwrap()).unwrap();
    for n in 0..64 {
        host(n);
    }
    for (n, kept) in [(0, true), (63, true), (64, false), (1000, false)] {
        assert_eq!(Arc::ptr_eq(&host(n), &host(n)), kept, "{n}");
    }
}
