//! The state of a connection, and the timeouts that follow from it.
//!
//! hyper's own header timeout also runs between two requests, so it cannot tell a slow head from a
//! pooled connection. Neither it nor hyper-util bounds the first byte, an HTTP/2 connection without
//! streams, or a response that is not read. This module does.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::pending_responses::PendingResponses;
use super::socket::{Interims, Stream};
use crate::response::Body;

/// The timeouts of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) header: Duration,
    pub(super) idle: Duration,
    /// Requests wait for the memory of large responses.
    pub(super) memory_is_wanted: bool,
}

/// How long a connection that was asked to close may be idle before it is closed: long enough for a
/// lost packet to be sent again.
const CLOSING: Duration = Duration::from_secs(5);

/// How long a connection without a request may still send its first one after the drain began,
/// because it may have been on its way.
pub(super) const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// How long a connection may take to read its responses: all of them after its last request, and a
/// large one whatever it requests meanwhile. However it stays busy (pings on HTTP/2, a byte now and
/// then), it holds them no longer; 64 MiB need 110 kB/s.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_mins(10);

/// How long a connection may read nothing of a large response while requests wait for its memory.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a connection with an unread response checks whether its memory is wanted.
const RECHECK: Duration = Duration::from_secs(1);

/// What can happen between two stamps: the peer read something or a request ended; a request ended;
/// bytes arrived between requests.
const PROGRESSED: u8 = 1;
const ENDED: u8 = 2;
const BEGUN: u8 = 4;

/// Marks a moment that is not set.
const NEVER: u64 = u64::MAX;

/// The state of one connection. Moments are milliseconds since it was accepted.
#[derive(Debug)]
pub(super) struct ConnectionState {
    accepted: Instant,
    requests: AtomicU64,
    in_flight: AtomicUsize,
    /// When the peer last read something, or a request ended.
    last_ms: AtomicU64,
    /// When a request last ended.
    ended_ms: AtomicU64,
    /// When the head under way began; [`NEVER`] when there is none.
    head_since_ms: AtomicU64,
    http2: AtomicBool,
    http10: AtomicBool,
    unread_body: AtomicBool,
    closing: AtomicBool,
    /// What has happened since the last stamp.
    events: AtomicU8,
    pending_responses: Arc<PendingResponses>,
    /// The bytes reserved for long heads.
    head_memory: AtomicUsize,
    /// It is closed, even with requests in flight.
    cut: AtomicBool,
    /// Its slot is needed for another connection.
    evicted: AtomicBool,
    eviction: Notify,
    /// The stream, when the connection was dropped while a body may still come.
    left_open: Mutex<Option<Stream>>,
}

/// What to do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Check again at this moment.
    Wait(Instant),
    /// Ask it to close: it is idle, or the gateway stops.
    Close,
    /// Close it: it was asked to, or it sends a head too slowly.
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
            closing: AtomicBool::new(false),
            events: AtomicU8::new(0),
            pending_responses: Arc::default(),
            head_memory: AtomicUsize::new(0),
            cut: AtomicBool::new(false),
            evicted: AtomicBool::new(false),
            eviction: Notify::new(),
            left_open: Mutex::default(),
        })
    }

    /// Records that bytes arrived. Between requests they are the beginning of a head.
    pub(super) fn bytes_arrived(&self) {
        if self.in_flight.load(Ordering::Relaxed) == 0 {
            self.events.fetch_or(BEGUN, Ordering::Relaxed);
        }
    }

    /// Records that the peer read bytes of a response, or a request ended.
    pub(super) fn progressed(&self) {
        self.events.fetch_or(PROGRESSED, Ordering::Relaxed);
    }

    /// Sets the time of what was recorded to now. Called once for all events of a poll, because
    /// reading the clock costs more than everything else here.
    pub(super) fn stamp(&self) {
        let events = self.events.swap(0, Ordering::Relaxed);
        if events == 0 {
            return;
        }
        let now = self.now_ms();
        if events & PROGRESSED > 0 {
            self.last_ms.store(now, Ordering::Relaxed);
        }
        if events & ENDED > 0 {
            self.ended_ms.store(now, Ordering::Relaxed);
        }
        if events & BEGUN > 0 {
            let _ = self
                .head_since_ms
                .compare_exchange(NEVER, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// From now on every response asks for the connection to be closed.
    pub(super) fn start_closing(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Whether responses ask for the connection to be closed.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Since when no request has been in flight and no byte of a response was read; `None` while a
    /// request is in flight. The beginning of a head does not count, because it may never end.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let is_quiet = self.in_flight.load(Ordering::Relaxed) == 0;
        is_quiet.then(|| self.moment(self.last_ms.load(Ordering::Relaxed)))
    }

    /// Evicts the connection: it closes as soon as it can, and responses until then say so.
    pub(super) fn evict(&self) {
        self.evicted.store(true, Ordering::Relaxed);
        self.start_closing();
        self.eviction.notify_one();
    }

    /// Records how much is reserved for this connection's heads.
    pub(super) fn set_head_memory(&self, bytes: usize) {
        self.head_memory.store(bytes, Ordering::Relaxed);
    }

    /// Whether closing it would free memory of heads.
    pub(super) fn holds_head_memory(&self) -> bool {
        self.head_memory.load(Ordering::Relaxed) > 0
    }

    /// Closes the connection with all that is in flight, because there is not even memory to refuse
    /// its requests.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
        self.eviction.notify_one();
    }

    /// Whether the connection is closed for that reason. For any other, it is the peer that reads
    /// nothing.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// Whether the next bytes belong to a head: no request is in flight, and they cannot be
    /// anything else.
    pub(super) fn expects_head(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0 && !self.http2.load(Ordering::Relaxed)
    }

    /// How many requests there were.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Whether the last request used HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }

    /// Whether a request over HTTP/1.1 is in flight.
    pub(super) fn awaits_answer(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0 && !self.http2.load(Ordering::Relaxed)
    }

    /// Whether the caller of the request in flight understands interim responses.
    pub(super) fn interims(&self) -> Interims {
        if self.http10.load(Ordering::Relaxed) {
            Interims::Unknown
        } else {
            Interims::Understood
        }
    }

    /// Waits until the connection is evicted; it resolves once for each eviction. Cancel safe.
    pub(super) async fn eviction_requested(&self) {
        self.eviction.notified().await;
    }

    /// Records a complete head. The request is in flight until the guard is dropped.
    pub(super) fn request(self: &Arc<Self>, version: http::Version) -> InFlight {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.head_since_ms.store(NEVER, Ordering::Relaxed);
        self.events.fetch_and(!BEGUN, Ordering::Relaxed);
        self.http2.store(version == http::Version::HTTP_2, Ordering::Relaxed);
        self.http10.store(version < http::Version::HTTP_11, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// Records that the request was refused before its body was read.
    pub(super) fn leave_body_unread(&self) {
        self.unread_body.store(true, Ordering::Relaxed);
    }

    /// Whether the peer may still be sending a body that is not wanted.
    pub(super) fn has_unread_body(&self) -> bool {
        self.unread_body.load(Ordering::Relaxed)
    }

    /// Keeps the stream of a connection that was dropped while an unwanted body may still come.
    pub(super) fn leave_open(&self, stream: Option<Stream>) {
        *self.left_open.lock().unwrap_or_else(PoisonError::into_inner) = stream;
    }

    /// That stream, which is to be closed in order.
    pub(super) fn take_left_open(&self) -> Option<Stream> {
        self.left_open.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Watches a response until the peer has read it.
    pub(super) fn watch(&self, answer: &mut Body) {
        self.pending_responses.watch(answer);
    }

    /// What to do now. `closing_since` is when the connection was asked to close; `draining` tells
    /// whether the gateway stops.
    pub(super) fn action(&self, limits: Limits, closing_since: Option<Instant>, draining: Draining) -> Action {
        let now = Instant::now();
        if self.cut.load(Ordering::Relaxed) {
            return Action::Cut;
        }
        let oldest = self.pending_responses.oldest();
        if let Some(since) = oldest {
            let stalled = self.moment(self.last_ms.load(Ordering::Relaxed)).max(since) + STALL_TIMEOUT;
            if limits.memory_is_wanted && stalled <= now {
                return Action::Cut;
            }
            // Whether the memory is wanted is checked again then.
            let look = stalled.max(now + RECHECK);
            return match self.action_by_time(now, limits, closing_since, draining, oldest) {
                Action::Wait(until) => Action::Wait(until.min(look)),
                other => other,
            };
        }
        self.action_by_time(now, limits, closing_since, draining, None)
    }

    fn action_by_time(
        &self,
        now: Instant,
        limits: Limits,
        closing_since: Option<Instant>,
        draining: Draining,
        oldest: Option<Instant>,
    ) -> Action {
        let overdue = oldest.map(|since| since + RESPONSE_TIMEOUT);
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            // The request has its own deadlines. The connection is checked again later because of
            // the drain and of earlier responses.
            return match (closing_since, draining) {
                (None, Draining::Since(_)) => Action::Close,
                (None, Draining::No) if overdue.is_some_and(|due| due <= now) => Action::Close,
                // A peer that does not confirm the GOAWAY can go on sending requests.
                (Some(since), Draining::No) if overdue.is_some_and(|due| due.max(since) + RESPONSE_TIMEOUT <= now) => {
                    Action::Cut
                }
                _ => Action::Wait(now + CLOSING),
            };
        }
        let last = self.moment(self.last_ms.load(Ordering::Relaxed));
        let when_due = |due: Instant, action| if due <= now { action } else { Action::Wait(due) };
        let response_due = self.moment(self.ended_ms.load(Ordering::Relaxed)) + RESPONSE_TIMEOUT;
        let response_due = overdue.map_or(response_due, |due| due.min(response_due));
        if let Some(since) = closing_since {
            let due = last.max(since) + CLOSING;
            return when_due(due.min(response_due.max(since) + CLOSING), Action::Cut);
        }
        let head = self.head_since_ms.load(Ordering::Relaxed);
        let fresh = self.requests.load(Ordering::Relaxed) == 0;
        if self.evicted.load(Ordering::Relaxed) {
            // Without a request so far no response can still be on its way.
            return if fresh { Action::Cut } else { Action::Close };
        }
        if let Draining::Since(since) = draining {
            return when_due(if fresh { since + FIRST_REQUEST } else { now }, Action::Close);
        }
        if head != NEVER && (fresh || !self.http2.load(Ordering::Relaxed)) {
            // On HTTP/2 bytes between requests may be pings, so only the idle timeout applies.
            return when_due(self.moment(head) + limits.header, Action::Cut);
        }
        when_due((last + limits.idle).min(response_due), Action::Close)
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

/// A request in flight, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct InFlight(Arc<ConnectionState>);

impl InFlight {
    /// The state of the request's connection.
    pub(super) fn state(&self) -> &ConnectionState {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.events.fetch_or(PROGRESSED | ENDED, Ordering::Relaxed);
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
