//! One connection: a socket that can be cut off, or slowed down.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

/// The number of bytes that are sent slowly. Every head is longer, so over HTTP/1.1 it stays
/// incomplete until then.
const TRICKLED_BYTES: u32 = 64;

/// The handle of a connection that its requests share.
#[derive(Debug)]
pub(super) struct Connection {
    cut: CancellationToken,
    trickle: Mutex<Option<Duration>>,
}

impl Connection {
    pub(super) fn new(cut: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            cut,
            trickle: Mutex::new(None),
        })
    }

    /// Ends the connection with a reset.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }

    /// Resolves when the connection has to end; from then on, dropping the socket resets it.
    pub(super) async fn until_cut(&self) {
        self.cut.cancelled().await;
    }

    /// Makes the next bytes take `over` to be sent.
    pub(super) fn trickle(&self, over: Duration) {
        *self.trickle.lock().unwrap_or_else(PoisonError::into_inner) = Some(over);
    }

    fn take_trickle(&self) -> Option<Duration> {
        self.trickle.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The socket of a connection.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    connection: Arc<Connection>,
    pace: Option<Pace>,
}

#[derive(Debug)]
struct Pace {
    left: u32,
    every: Duration,
    next: Pin<Box<Sleep>>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, connection: Arc<Connection>) -> Self {
        Self {
            stream,
            connection,
            pace: None,
        }
    }

    /// Waits for bytes and leaves them there.
    pub(super) async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.peek(buf).await
    }

    /// How many bytes may be written now.
    fn poll_allowance(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        if let Some(over) = self.connection.take_trickle() {
            let every = over / TRICKLED_BYTES;
            self.pace = Some(Pace {
                left: TRICKLED_BYTES,
                every,
                next: Box::pin(tokio::time::sleep(every)),
            });
        }
        let Some(pace) = &mut self.pace else {
            return Poll::Ready(usize::MAX);
        };
        ready!(pace.next.as_mut().poll(cx));
        pace.left -= 1;
        pace.next.as_mut().reset(Instant::now() + pace.every);
        if pace.left == 0 {
            self.pace = None;
        }
        Poll::Ready(1)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.connection.cut.is_cancelled() {
            // Without it the peer sees an orderly end instead of a reset.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let allowed = ready!(self.poll_allowance(cx)).min(bytes.len());
        Pin::new(&mut self.stream).poll_write(cx, &bytes[..allowed])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
