//! A connection's stream, which reports to its [`ConnectionState`] and detects that the caller of a
//! request in flight is gone, even if it has already sent all that it will send.
//!
//! A caller that has closed its sending half and one that is gone look the same: no more bytes
//! come. They differ in what happens to bytes that are sent to them: one reads them, and the system
//! of the other rejects them. So the caller gets an interim response (RFC 9110 §15.2: every
//! HTTP/1.1 client can parse one, expected or not), and if it is rejected, the caller is gone.

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep, sleep_until};

use super::connection_limit::{Address, ConnectionLimiter};
use super::connection_memory::HeadMemory;
use super::connection_state::ConnectionState;

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
pub(super) struct Socket {
    stream: Stream,
    state: Arc<ConnectionState>,
    head: HeadMemory,
    peer: PeerWatch,
    discard: Option<Discard>,
}

/// Reads and discards until the peer has sent everything, or too much, or for too long.
#[derive(Debug)]
struct Discard {
    until: Pin<Box<Sleep>>,
    left: usize,
}

impl Discard {
    fn new() -> Self {
        Self {
            until: Box::pin(tokio::time::sleep(DISCARD)),
            left: DISCARD_BYTES,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<()> {
        let mut buffer = [0; 8192];
        while self.left > 0 && self.until.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut buffer);
            match ready!(stream.reader().poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    self.left = self.left.saturating_sub(buffer.filled().len());
                }
                _ => break,
            }
        }
        Poll::Ready(())
    }
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
}

impl Drop for Socket {
    /// A connection whose last request offered an upgrade (`Upgrade: h2c`) is dropped by hyper and
    /// not shut down, as if it had been upgraded.
    fn drop(&mut self) {
        if self.discard.is_none() && self.state.has_unread_body() {
            // Without a descriptor for it, the response may be lost.
            self.state.leave_open(self.stream.try_clone().ok());
        }
    }
}

impl Stream {
    /// Says that nothing more will be sent, and discards what still comes.
    pub(super) async fn close(mut self) {
        if poll_fn(|cx| self.writer().poll_shutdown(cx)).await.is_ok() {
            let mut discard = Discard::new();
            poll_fn(|cx| discard.poll(cx, &mut self)).await;
        }
    }

    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(TcpStream::from_std(stream.as_fd().try_clone_to_owned()?.into())?),
            Self::Unix(stream) => Self::Unix(UnixStream::from_std(stream.as_fd().try_clone_to_owned()?.into())?),
        })
    }

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
        let this = &mut *self;
        ready!(this.stream.writer().poll_shutdown(cx))?;
        if this.state.has_unread_body() {
            let discard = this.discard.get_or_insert_with(Discard::new);
            ready!(discard.poll(cx, &mut this.stream));
        }
        Poll::Ready(Ok(()))
    }
}

/// The interim response that finds out whether the caller is there.
const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How long to wait for a rejection of those bytes at first; each wait is twice as long, up to
/// [`LONGEST_CHECK`].
const FIRST_CHECK: Duration = Duration::from_millis(20);
const LONGEST_CHECK: Duration = Duration::from_secs(5);

/// Whether an interim response may be sent: callers that speak HTTP/1.0 do not understand it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interims {
    Understood,
    Unknown,
}

/// What is known about the peer of one connection.
#[derive(Debug, Default)]
pub(super) struct PeerWatch {
    /// A response is being written, and part of it is left.
    is_writing: bool,
    closed: Option<HalfClosed>,
}

/// The state since the end of the peer's bytes was seen.
#[derive(Debug)]
struct HalfClosed {
    next: Pin<Box<Sleep>>,
    pause: Duration,
}

impl PeerWatch {
    /// Records that bytes were written; `partly` when some are left.
    pub(super) fn wrote(&mut self, partly: bool) {
        self.is_writing = partly;
    }

    /// Checks on the peer while a request is in flight, and wakes the task for the next check.
    ///
    /// # Errors
    ///
    /// The peer is gone.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, stream: &Stream, interims: Interims) -> io::Result<()> {
        if let Some(closed) = &mut self.closed {
            return closed.poll(context, stream);
        }
        if stream.poll_read_ready(context).is_pending() || !has_ended(stream)? {
            return Ok(());
        }
        if interims == Interims::Understood && !self.is_writing {
            // So few bytes fit into the buffer, or other bytes wait there, which the peer's system
            // will reject as well.
            match stream.try_write(INTERIM) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        let closed = HalfClosed {
            next: Box::pin(sleep_until(Instant::now() + FIRST_CHECK)),
            pause: FIRST_CHECK,
        };
        self.closed.insert(closed).poll(context, stream)
    }
}

impl HalfClosed {
    fn poll(&mut self, context: &mut Context<'_>, stream: &Stream) -> io::Result<()> {
        while self.next.as_mut().poll(context).is_ready() {
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
            self.pause = (self.pause * 2).min(LONGEST_CHECK);
            self.next.as_mut().reset(Instant::now() + self.pause);
        }
        Ok(())
    }
}

/// Whether the next thing to be read is the end. Bytes before it are left for hyper.
fn has_ended(stream: &Stream) -> io::Result<bool> {
    let look = || {
        let mut byte = [MaybeUninit::uninit()];
        match stream {
            Stream::Tcp(stream) => SockRef::from(stream).peek(&mut byte),
            Stream::Unix(stream) => SockRef::from(stream).peek(&mut byte),
        }
    };
    match stream.try_io(Interest::READABLE, look) {
        Ok(read) => Ok(read == 0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

impl Stream {
    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(context),
            Self::Unix(stream) => stream.poll_read_ready(context),
        }
    }

    fn try_io<T>(&self, interest: Interest, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self {
            Self::Tcp(stream) => stream.try_io(interest, work),
            Self::Unix(stream) => stream.try_io(interest, work),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Self::Tcp(stream) => stream.take_error(),
            Self::Unix(stream) => stream.take_error(),
        }
    }
}
