//! The other side: requests to one server, over connections that are kept.

use std::cell::RefCell;
use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::Error;

thread_local! {
    /// Those that nobody uses. There is one thread.
    static IDLE: RefCell<Vec<SendRequest<Full<Bytes>>>> = const { RefCell::new(Vec::new()) };
}

#[derive(Clone, Copy)]
pub(crate) struct Upstream {
    address: SocketAddr,
}

impl Upstream {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// Sends the body to this path and reads the answer whole.
    pub(crate) async fn ask(self, path: &str, body: Bytes) -> Result<Bytes, Error> {
        let request = Request::post(path)
            .header(HOST, self.address.to_string())
            .header(AUTHORIZATION, "Bearer stub")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let idle = IDLE.with_borrow_mut(Vec::pop);
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        connection.ready().await?;
        let answer = connection.send_request(request).await?;
        let answer = answer.into_body().collect().await?.to_bytes();
        IDLE.with_borrow_mut(|idle| idle.push(connection));
        Ok(answer)
    }

    async fn connect(self) -> Result<SendRequest<Full<Bytes>>, Error> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}
