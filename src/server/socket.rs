//! A connection's stream, which tells its [`ConnectionState`] what passes.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Sleep;

use super::connection_limit::{Address, ConnectionLimiter};
use super::connection_state::ConnectionState;
use super::half_close::PeerWatch;
use super::head_memory::HeadMemory;

/// How long, and how many bytes, an unwanted body is still read and thrown away after the answer. Closing with unread bytes makes
/// the kernel reset the connection, and the caller would lose the answer that says why.
const DISCARD: Duration = Duration::from_secs(1);
const DISCARD_BYTES: usize = 16 * 1024 * 1024;

/// A head and a body of no more bytes together are copied into one piece: the kernel takes longer to look at two.
const GATHERED: usize = 4 * 1024;

thread_local! {
    /// Holds nothing from one write to the next.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A stream of either kind: one type, so that HTTP is compiled once.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A stream and what is known about it.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    activity: Arc<ConnectionState>,
    head: HeadMemory,
    peer: PeerWatch,
    discard: Option<Discard>,
}

#[derive(Debug)]
struct Discard {
    until: Pin<Box<Sleep>>,
    left: usize,
}

impl Socket {
    pub(super) fn new(
        stream: Stream,
        address: Address,
        activity: Arc<ConnectionState>,
        limiter: Arc<ConnectionLimiter>,
    ) -> Self {
        Self {
            stream,
            head: HeadMemory::new(limiter, address),
            peer: PeerWatch::default(),
            activity,
            discard: None,
        }
    }

    /// Reads and forgets until the peer has nothing more to say, or said too much, or for too long.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let discard = self.discard.get_or_insert_with(|| Discard {
            until: Box::pin(tokio::time::sleep(DISCARD)),
            left: DISCARD_BYTES,
        });
        let mut buffer = [0; 8192];
        while discard.left > 0 && discard.until.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut buffer);
            match ready!(self.stream.reader().poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    discard.left = discard.left.saturating_sub(buffer.filled().len());
                }
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

impl Stream {
    fn reader(&mut self) -> Pin<&mut (dyn AsyncRead + Unpin)> {
        match self {
            Self::Tcp(stream) => Pin::new(stream),
            Self::Unix(stream) => Pin::new(stream),
        }
    }

    fn writer(&mut self) -> Pin<&mut (dyn AsyncWrite + Unpin)> {
        match self {
            Self::Tcp(stream) => Pin::new(stream),
            Self::Unix(stream) => Pin::new(stream),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.head.poll_room(cx, &this.activity, buffer.remaining()));
        let before = buffer.filled().len();
        ready!(this.stream.reader().poll_read(cx, buffer))?;
        let read = buffer.filled().len() - before;
        if read > 0 {
            this.head.add(read);
            this.activity.read();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(self.stream.writer().poll_write(cx, bytes))?;
        self.peer.wrote(written < bytes.len());
        self.activity.wrote();
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum::<usize>();
        let written = if length <= GATHERED {
            BUFFER.with_borrow_mut(|buffer| {
                buffer.clear();
                for slice in slices {
                    buffer.extend_from_slice(slice);
                }
                self.stream.writer().poll_write(cx, buffer)
            })
        } else {
            self.stream.writer().poll_write_vectored(cx, slices)
        };
        let written = ready!(written)?;
        self.peer.wrote(written < length);
        self.activity.wrote();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.activity.awaits_answer() {
            this.peer.poll(cx, &this.stream, this.activity.interims())?;
        }
        self.stream.writer().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.stream.writer().poll_shutdown(cx))?;
        if self.activity.has_unread_body() {
            ready!(self.poll_discard(cx));
        }
        Poll::Ready(Ok(()))
    }
}
