//! What a connection is doing, and whether it has done nothing for too long.
//!
//! hyper's own header timeout also runs between two requests, so it cannot tell a slow head from a pooled connection; and neither
//! it nor hyper-util bounds the first byte, an HTTP/2 connection without streams, or an answer that nobody takes. This does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::half_close::Interims;
use super::pending_responses::Untaken;
use crate::response::Body;

/// How long a connection may take for each thing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) header: Duration,
    pub(super) idle: Duration,
    /// Others wait for the memory of large answers.
    pub(super) memory_is_wanted: bool,
}

/// How long a connection that was asked to close may do nothing before it is closed. Long enough to ride out a lost packet.
const CLOSING: Duration = Duration::from_secs(5);

/// How long a connection without a request may still bring its first after the drain began: it may have been on its way.
pub(super) const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// How long a connection may take to fetch its answers: all of them after its last request, and a large one whatever it asks meanwhile.
/// However it keeps busy (pings on HTTP/2, a byte now and then), it holds them no longer; 64 MiB need 110 kB/s.
pub(super) const TAKING: Duration = Duration::from_mins(10);

/// How long a connection may take nothing of a large answer while others wait for its memory.
pub(super) const STALLED: Duration = Duration::from_secs(10);

/// How often a connection whose answer is not taken looks whether its memory is wanted.
const LOOK: Duration = Duration::from_secs(1);

/// Never the value of a moment.
const NEVER: u64 = u64::MAX;

/// The traces that a connection leaves. Moments are milliseconds since it was accepted.
#[derive(Debug)]
pub(super) struct ConnectionState {
    accepted: Instant,
    requests: AtomicU64,
    in_flight: AtomicUsize,
    last_ms: AtomicU64,
    ended_ms: AtomicU64,
    head_since_ms: AtomicU64,
    http2: AtomicBool,
    http10: AtomicBool,
    unread_body: AtomicBool,
    taking_leave: AtomicBool,
    /// Something was taken by the peer, or a request ended, since the last stamp.
    progressed: AtomicBool,
    /// A request ended since the last stamp.
    ended: AtomicBool,
    /// Bytes came in between requests since the last stamp.
    begun: AtomicBool,
    untaken: Arc<Untaken>,
    /// What is reserved for long heads, in bytes.
    head_memory: AtomicUsize,
    /// It is closed whatever it does.
    cut: AtomicBool,
    /// Somebody else needs the place.
    makes_way: AtomicBool,
    way: Notify,
}

/// What to do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Look again then.
    Wait(Instant),
    /// Ask it to close: it is idle, or the gateway is.
    Close,
    /// Cut it: it was asked, or it sends a head too slowly.
    Cut,
}

impl ConnectionState {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            accepted: Instant::now(),
            requests: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            last_ms: AtomicU64::new(0),
            ended_ms: AtomicU64::new(0),
            head_since_ms: AtomicU64::new(0),
            http2: AtomicBool::new(false),
            http10: AtomicBool::new(false),
            unread_body: AtomicBool::new(false),
            taking_leave: AtomicBool::new(false),
            progressed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            begun: AtomicBool::new(false),
            untaken: Arc::default(),
            head_memory: AtomicUsize::new(0),
            cut: AtomicBool::new(false),
            makes_way: AtomicBool::new(false),
            way: Notify::new(),
        })
    }

    /// Bytes came in. Between requests they are the beginning of a head.
    pub(super) fn read(&self) {
        if self.in_flight.load(Ordering::Relaxed) == 0 {
            self.begun.store(true, Ordering::Relaxed);
        }
    }

    /// The peer took bytes of an answer.
    pub(super) fn wrote(&self) {
        self.progressed.store(true, Ordering::Relaxed);
    }

    /// Notes when it was that something happened: now. Called once for all that happens at a time, because looking at the clock costs
    /// more than all else here.
    pub(super) fn stamp(&self) {
        let (progressed, begun) = (
            self.progressed.load(Ordering::Relaxed),
            self.begun.load(Ordering::Relaxed),
        );
        if !progressed && !begun {
            return;
        }
        let now = self.now_ms();
        if progressed {
            self.progressed.store(false, Ordering::Relaxed);
            self.last_ms.store(now, Ordering::Relaxed);
            if self.ended.load(Ordering::Relaxed) {
                self.ended.store(false, Ordering::Relaxed);
                self.ended_ms.store(now, Ordering::Relaxed);
            }
        }
        if begun {
            self.begun.store(false, Ordering::Relaxed);
            let _ = self
                .head_since_ms
                .compare_exchange(NEVER, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Every answer from now on asks for the connection to be closed.
    pub(super) fn start_closing(&self) {
        self.taking_leave.store(true, Ordering::Relaxed);
    }

    /// Whether answers ask for the connection to be closed.
    pub(super) fn takes_leave(&self) -> bool {
        self.taking_leave.load(Ordering::Relaxed)
    }

    /// Since when the connection has had neither a request in flight nor a byte of an answer taken; `None` while a request is in flight.
    /// The beginning of a head changes nothing: it may never end.
    pub(super) fn quiet_since(&self) -> Option<Instant> {
        let is_quiet = self.in_flight.load(Ordering::Relaxed) == 0;
        is_quiet.then(|| self.moment(self.last_ms.load(Ordering::Relaxed)))
    }

    /// Somebody else needs the place: the connection closes as soon as it can, and what it still answers says so.
    pub(super) fn evict(&self) {
        self.makes_way.store(true, Ordering::Relaxed);
        self.start_closing();
        self.way.notify_one();
    }

    /// Notes how much is reserved for this connection's heads.
    pub(super) fn set_head_memory(&self, bytes: usize) {
        self.head_memory.store(bytes, Ordering::Relaxed);
    }

    /// Whether memory could be gained by closing it, besides what every connection takes.
    pub(super) fn holds_head_memory(&self) -> bool {
        self.head_memory.load(Ordering::Relaxed) > 0
    }

    /// There is no memory left even to refuse its requests: the connection is closed, with all that is in flight on it.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
        self.way.notify_one();
    }

    /// Whether the next bytes are those of a head: no request is in flight, nor can bytes be anything else.
    pub(super) fn expects_head(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0 && !self.http2.load(Ordering::Relaxed)
    }

    /// Whether HTTP/2 is spoken, as far as is known.
    pub(super) fn is_http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }

    /// Whether a request over HTTP/1.1 is in flight.
    pub(super) fn awaits_answer(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0 && !self.http2.load(Ordering::Relaxed)
    }

    /// Whether the caller of the request in flight knows interim answers.
    pub(super) fn interims(&self) -> Interims {
        if self.http10.load(Ordering::Relaxed) {
            Interims::Unknown
        } else {
            Interims::Understood
        }
    }

    /// Waits until the connection has to make way; once for each time that it is asked. Cancel safe.
    pub(super) async fn asked_to_make_way(&self) {
        self.way.notified().await;
    }

    /// A request has its head; it is in flight until the guard is dropped.
    pub(super) fn request(self: &Arc<Self>, version: http::Version) -> InFlight {
        let is_http2 = version == http::Version::HTTP_2;
        if is_http2 {
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.in_flight.fetch_add(1, Ordering::Relaxed);
        } else {
            // One after the other, and nobody else writes: this needs no agreement between cores.
            let before = self.requests.load(Ordering::Relaxed);
            self.requests.store(before + 1, Ordering::Relaxed);
            self.in_flight.store(1, Ordering::Relaxed);
        }
        self.head_since_ms.store(NEVER, Ordering::Relaxed);
        self.begun.store(false, Ordering::Relaxed);
        self.http2.store(is_http2, Ordering::Relaxed);
        self.http10.store(version < http::Version::HTTP_11, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// The request was refused before its body was read.
    pub(super) fn leave_body_unread(&self) {
        self.unread_body.store(true, Ordering::Relaxed);
    }

    /// Whether the peer may still be sending a body that nobody wants.
    pub(super) fn has_unread_body(&self) -> bool {
        self.unread_body.load(Ordering::Relaxed)
    }

    /// An answer goes out: it is held against the peer until it is taken.
    pub(super) fn watch(&self, answer: &mut Body) {
        self.untaken.watch(answer);
    }

    /// What to do now. `closing` is since when the connection is asked to close; `draining` whether the gateway stops.
    pub(super) fn verdict(&self, limits: Limits, closing: Option<Instant>, draining: Draining) -> Verdict {
        let now = Instant::now();
        if self.cut.load(Ordering::Relaxed) {
            return Verdict::Cut;
        }
        let oldest = self.untaken.oldest();
        if let Some(since) = oldest {
            let stalled = self.moment(self.last_ms.load(Ordering::Relaxed)).max(since) + STALLED;
            if limits.memory_is_wanted && stalled <= now {
                return Verdict::Cut;
            }
            // Whether memory is wanted is looked at then.
            let look = stalled.max(now + LOOK);
            return match self.verdict_by_time(now, limits, closing, draining, oldest) {
                Verdict::Wait(until) => Verdict::Wait(until.min(look)),
                other => other,
            };
        }
        self.verdict_by_time(now, limits, closing, draining, None)
    }

    fn verdict_by_time(
        &self,
        now: Instant,
        limits: Limits,
        closing: Option<Instant>,
        draining: Draining,
        oldest: Option<Instant>,
    ) -> Verdict {
        let untaken = oldest.map(|since| since + TAKING);
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            // The request has its own deadlines. Look again later for the sake of the drain, and of earlier answers.
            return match (closing, draining) {
                (None, Draining::Since(_)) => Verdict::Close,
                (None, Draining::No) if untaken.is_some_and(|due| due <= now) => Verdict::Close,
                // A peer that does not confirm the farewell can go on asking.
                (Some(since), Draining::No) if untaken.is_some_and(|due| due.max(since) + TAKING <= now) => {
                    Verdict::Cut
                }
                _ => Verdict::Wait(now + CLOSING),
            };
        }
        let last = self.moment(self.last_ms.load(Ordering::Relaxed));
        let unless = |due: Instant, verdict| if due <= now { verdict } else { Verdict::Wait(due) };
        let taking = self.moment(self.ended_ms.load(Ordering::Relaxed)) + TAKING;
        let taking = untaken.map_or(taking, |due| due.min(taking));
        if let Some(since) = closing {
            let due = last.max(since) + CLOSING;
            return unless(due.min(taking.max(since) + CLOSING), Verdict::Cut);
        }
        let head = self.head_since_ms.load(Ordering::Relaxed);
        let fresh = self.requests.load(Ordering::Relaxed) == 0;
        if self.makes_way.load(Ordering::Relaxed) {
            // Without a request so far there is no answer that could still be on its way.
            return if fresh { Verdict::Cut } else { Verdict::Close };
        }
        if let Draining::Since(since) = draining {
            return unless(if fresh { since + FIRST_REQUEST } else { now }, Verdict::Close);
        }
        if head != NEVER && (fresh || !self.http2.load(Ordering::Relaxed)) {
            // On HTTP/2 bytes between requests may be pings: only the idle timeout applies there.
            return unless(self.moment(head) + limits.header, Verdict::Cut);
        }
        unless((last + limits.idle).min(taking), Verdict::Close)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(NEVER - 1)
    }

    fn moment(&self, ms: u64) -> Instant {
        self.accepted + Duration::from_millis(ms)
    }
}

/// Whether the gateway stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Draining {
    No,
    Since(Instant),
}

/// A request in flight; it has ended when this is dropped.
#[derive(Debug)]
pub(super) struct InFlight(Arc<ConnectionState>);

impl InFlight {
    /// Of the request's connection.
    pub(super) fn activity(&self) -> &ConnectionState {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
        self.0.wrote();
        if self.0.http2.load(Ordering::Relaxed) {
            self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.0.in_flight.store(0, Ordering::Relaxed);
        }
    }
}
