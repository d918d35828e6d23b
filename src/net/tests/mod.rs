//! Exchanges over real sockets, with all kinds of failures.

mod connect;
mod exchange;
mod hostile;
mod pool;
mod proxy;
mod unprocessed;
mod watch;

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::net::{Client, Error, Limits};

/// So long that only a machine that stands still exceeds them.
const LIMITS: Limits = Limits {
    head: Duration::from_secs(20),
    whole: Duration::from_secs(40),
    body_bytes: 1024,
};

/// For hosts that are to exceed them.
const SHORT_LIMITS: Limits = Limits {
    head: Duration::from_millis(500),
    whole: Duration::from_secs(1),
    ..LIMITS
};

async fn post(client: &Client, address: &str) -> Result<Response<Bytes>, Error> {
    post_within(client, address, LIMITS).await
}

async fn post_within(client: &Client, address: &str, limits: Limits) -> Result<Response<Bytes>, Error> {
    let request = Request::post(address).body(Bytes::from_static(b"{}")).unwrap();
    client.send(request, limits).await
}

/// Waits for the request's first byte, so that what follows happens to a request that was written.
async fn request_read(stream: &mut TcpStream) {
    let mut some = [0; 1024];
    assert!(stream.read(&mut some).await.unwrap() > 0);
}

/// Closing with linger 0 sends RST.
fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
}

async fn hold(stream: TcpStream) {
    let _held = stream;
    std::future::pending::<()>().await;
}
