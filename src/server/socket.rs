//! A connection's stream, which reports to its [`ConnectionState`].

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

/// How long, and how many bytes of, an unwanted body are still read and discarded after the
/// response. Closing with unread bytes makes the kernel reset the connection, and the caller would
/// lose the response with the reason.
const DISCARD: Duration = Duration::from_secs(1);
const DISCARD_BYTES: usize = 16 * 1024 * 1024;

/// A head and a body of no more bytes together are copied into one buffer, because the kernel takes
/// longer to write two.
const GATHERED: usize = 4 * 1024;

thread_local! {
    /// It is empty between writes.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A stream of either kind. With one type, hyper is compiled only once.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A stream and its connection's state.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    state: Arc<ConnectionState>,
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
        state: Arc<ConnectionState>,
        limiter: Arc<ConnectionLimiter>,
    ) -> Self {
        Self {
            stream,
            head: HeadMemory::new(limiter, address),
            peer: PeerWatch::default(),
            state,
            discard: None,
        }
    }

    /// Reads and discards until the peer has sent everything, or too much, or for too long.
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
        ready!(this.head.poll_room(cx, &this.state, buffer.remaining()));
        let before = buffer.filled().len();
        ready!(this.stream.reader().poll_read(cx, buffer))?;
        let read = buffer.filled().len() - before;
        if read > 0 {
            this.head.add(read);
            this.state.bytes_arrived();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(self.stream.writer().poll_write(cx, bytes))?;
        self.peer.wrote(written < bytes.len());
        self.state.progressed();
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
        self.state.progressed();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.state.awaits_answer() {
            this.peer.poll(cx, &this.stream, this.state.interims())?;
        }
        self.stream.writer().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.stream.writer().poll_shutdown(cx))?;
        if self.state.has_unread_body() {
            ready!(self.poll_discard(cx));
        }
        Poll::Ready(Ok(()))
    }
}
