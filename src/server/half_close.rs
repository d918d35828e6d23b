//! Whether the caller of a request in flight is still there, once it has sent all that it will send.
//!
//! A caller that has closed its sending half and one that has gone look the same: its bytes have ended. They differ in what becomes of
//! bytes for them: those for the one are taken, those for the other are refused by its system. So a caller that may be told gets an
//! interim answer (RFC 9110 §15.2: every client of HTTP/1.1 can read one, expected or not), and whoever refuses it is gone.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::time::{Instant, Sleep, sleep_until};

use super::socket::Stream;

/// To tell whether somebody is there.
const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How long a refusal of those bytes may take, the first time; then twice as long, up to the longest.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// Whether an interim answer may be sent: callers that speak HTTP/1.0 do not know any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interims {
    Understood,
    Unknown,
}

/// What is known of the peer of one connection.
#[derive(Debug, Default)]
pub(super) struct PeerWatch {
    /// An answer is on its way, and not all of it was written.
    is_writing: bool,
    closed: Option<HalfClosed>,
}

/// Since the end of the peer's bytes was seen.
#[derive(Debug)]
struct HalfClosed {
    next: Pin<Box<Sleep>>,
    pause: Duration,
}

impl PeerWatch {
    /// Bytes were written; `partly` when not all that there were.
    pub(super) fn wrote(&mut self, partly: bool) {
        self.is_writing = partly;
    }

    /// Looks after the peer while a request is in flight. Wakes the task when there is news.
    ///
    /// # Errors
    /// It is gone.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, stream: &Stream, interims: Interims) -> io::Result<()> {
        if let Some(closed) = &mut self.closed {
            return closed.poll(context, stream);
        }
        if stream.poll_read_ready(context).is_pending() || !has_ended(stream)? {
            return Ok(());
        }
        if interims == Interims::Understood && !self.is_writing {
            // So few bytes fit, or others wait to be taken, and then the peer's system will refuse those.
            match stream.try_write(INTERIM) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        let closed = HalfClosed {
            next: Box::pin(sleep_until(Instant::now() + FIRST_LOOK)),
            pause: FIRST_LOOK,
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
            self.pause = (self.pause * 2).min(LONGEST_LOOK);
            self.next.as_mut().reset(Instant::now() + self.pause);
        }
        Ok(())
    }
}

/// Whether the next thing to be read is the end. What comes before it is left for HTTP to read.
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
