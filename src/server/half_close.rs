//! Detects that the caller of a request in flight is gone, even if it has already sent all that it
//! will send.
//!
//! A caller that has closed its sending half and one that is gone look the same: no more bytes
//! come. They differ in what happens to bytes that are sent to them: one reads them, and the system
//! of the other rejects them. So the caller gets an interim response (RFC 9110 §15.2: every
//! HTTP/1.1 client can parse one, expected or not), and if it is rejected, the caller is gone.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::time::{Instant, Sleep, sleep_until};

use super::socket::Stream;

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
