//! One attempt of an upstream call: the values that go down the lower half of the stack, and the
//! error that comes back up.
//!
//! ```text
//! retry ─ Attempt ─► queue ─ Admitted ─► quota ─ Charged ─► region ─ Routed ─► token ─ Authorized ─► client
//! ```
//!
//! Every service below `retry` fails with [`Failure`], which carries two facts that only the place
//! of failure knows: whether the upstream can have counted the call ([`Delivery`]), and whether
//! another attempt is worth a second call ([`RetryHint`]).

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use ring::digest::{SHA256, digest};
use tokio::time::Instant;
use url::Url;

use crate::BoxError;
use crate::caller::{Caller, Name, Urgency};
use crate::scan::{Payer, Request, UpstreamResponse};
use crate::secret::Secret;
use crate::telemetry::trace;

/// A request that is bound when its slot is granted. Binding late lets a batch include the requests
/// that wait at that moment.
pub trait LateBoundRequest: Send + Sync + fmt::Debug {
    /// The request to send; `None` when no call is needed any more, and the slot goes back. Called
    /// when a slot has been granted, just before the call leaves, and again for every further
    /// attempt.
    fn bind(&self) -> Option<Arc<Request>>;

    /// Called when it is in the queue: its slot is predicted for `start`, if no other request comes
    /// or leaves before.
    fn queues(self: Arc<Self>, position: QueuePosition, start: Instant) {
        let _ = (position, start);
    }

    /// Called when the queue has no slot for it in time. Whoever lets it join another call instead
    /// of telling its caller withdraws the refusal.
    fn refused(&self, refusal: Box<dyn Refusal>) {
        drop(refusal);
    }

    /// What its call is charged to. Known from the start, whatever is bound later.
    fn payer(&self) -> Payer;

    /// The callers that share the slot's cost equally: those of the request that was last returned.
    /// An empty list: it costs nobody. `None`: the attempt's caller pays.
    fn cost_sharers(&self) -> Option<Vec<Name>> {
        None
    }

    /// The call's span in a trace. Called after [`LateBoundRequest::bind`], which binds the
    /// requests of the call.
    fn trace(&self) -> trace::Call {
        trace::Call::None
    }
}

/// A refusal by the queue that its caller has not been told yet. It counts once it is dropped.
pub trait Refusal: Send + Sync + fmt::Debug {
    /// The caller is not told: nothing was refused, and nobody is expected back.
    fn withdraw(self: Box<Self>);
}

/// A request that is sent as it is; the attempt's caller pays.
impl LateBoundRequest for Request {
    fn bind(&self) -> Option<Arc<Request>> {
        Some(Arc::new(self.clone()))
    }

    fn payer(&self) -> Payer {
        Request::payer(self)
    }
}

/// How scarce slots are for calls that need nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scarcity {
    /// How long a call that could leave now should wait for others to share it, so that slots
    /// remain for later requests; `None` while slots are plentiful.
    pub gather: Option<Duration>,
    /// The interval between slots once saved-up slots are used.
    pub interval: Duration,
}

/// What one caller needs in one urgency class: a flow of the fair queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowDemand {
    /// The urgency class.
    pub urgency: Urgency,
    /// The caller.
    pub caller: Name,
    /// Its weight among the flows of its class.
    pub weight: u32,
    /// The number of its waiting requests.
    pub waiting: usize,
    /// By when they can use a slot, ascending; only the first few.
    pub deadlines: Vec<Instant>,
    /// The number of its requests that were refused, were told when to come back, and are not here
    /// now: of those that claim slots, and of one that does not where none does.
    pub returning: usize,
    /// The number of all others of them: their places in the order are kept as well.
    pub kept: usize,
    /// When those of them are due that claim slots, ascending; only the first few.
    pub dues: VecDeque<Instant>,
    /// Whether it sends a request whenever one is answered, so that forecasts count it as always
    /// waiting.
    pub asks_again: bool,
    /// Where its next service ends, after the clock of its class, if a [`SharedOrder`] says so.
    pub position: Option<i64>,
}

/// The fair order over all replicas, as far as it concerns one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedOrder {
    /// Every class that has demand or was served recently; the others start at the clock of the
    /// classes.
    pub classes: Vec<ClassPosition>,
    /// The flows of this replica in the order: class, caller and position.
    pub own: Vec<(Urgency, Name, i64)>,
    /// The demand at the other replicas.
    pub others: Vec<FlowDemand>,
    /// The latest requests that were told to come back here and came to another replica, numbered.
    pub back: VecDeque<(u64, Urgency, Name)>,
}

/// The position of a class in a [`SharedOrder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassPosition {
    /// The urgency class.
    pub urgency: Urgency,
    /// Where its next service starts, after the clock of the classes, in services of the most
    /// urgent class.
    pub start: i64,
    /// The clock of its flows.
    pub clock: i64,
}

impl SharedOrder {
    /// One service of a flow of weight 1, in the unit of positions and clocks.
    pub const SERVICE: i64 = 1 << 20;

    /// A flow of the order: its class, and a digest, because nobody need know elsewhere who asks.
    pub fn flow(urgency: Urgency, caller: &Name) -> String {
        Self::flow_at("", urgency, caller)
    }

    /// The same for a caller who is another one at each `place`.
    pub fn flow_at(place: &str, urgency: Urgency, caller: &Name) -> String {
        let digest = digest(&SHA256, format!("{place}{caller}").as_bytes());
        let first = digest.as_ref().first_chunk().copied().map_or(0, u64::from_be_bytes);
        format!("{}{first:016x}", urgency.level())
    }

    /// What a caller of that flow is called where it has not asked: no caller has such a name.
    pub fn alias(flow: &str) -> Name {
        Name::new(&format!("\u{2026}{flow}"))
    }
}

/// What the waiting requests need of the quota: the flows that need slots, in the order of their
/// turns.
pub trait FlowOrder {
    /// The number of waiting requests.
    fn waiting(&self) -> usize;

    /// The first `most`: the flows with waiting requests, then those that are only expected to send
    /// some.
    fn flows(&self, most: usize) -> Vec<FlowDemand>;
}

impl FlowOrder for Vec<FlowDemand> {
    fn waiting(&self) -> usize {
        self.iter().map(|flow| flow.waiting).sum()
    }

    fn flows(&self, most: usize) -> Vec<FlowDemand> {
        self.iter().take(most).cloned().collect()
    }
}

/// One attempt that needs a slot.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The request, bound late.
    pub request: Arc<dyn LateBoundRequest>,
    /// The caller and its deadline.
    pub caller: Arc<Caller>,
    /// Its place in the queue, which is the same for all attempts of one request.
    pub position: QueuePosition,
    /// Whether another attempt may follow.
    pub retries: Retries,
}

impl Attempt {
    /// How long after its deadline a request may still be sent to another host because its host was
    /// given up: it had started in time.
    pub const GRACE: Duration = Duration::from_secs(5);
}

/// A place in the queue. A request that has to queue again (after a 429, or after a failed batch)
/// keeps its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueuePosition {
    order: u64,
    entered: Instant,
    asked: Asked,
}

/// Whether the queue has been asked for a place before, and what became of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    /// It has not.
    #[default]
    Never,
    /// It refused.
    Refused,
    /// The request had a slot, or left.
    Ended,
}

impl QueuePosition {
    /// The last place.
    pub fn new(now: Instant) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            order: NEXT.fetch_add(1, Ordering::Relaxed),
            entered: now,
            asked: Asked::Never,
        }
    }

    /// The same place, for asking once more: the caller has not sent another request by that.
    #[must_use]
    pub fn again(self, asked: Asked) -> Self {
        Self { asked, ..self }
    }

    /// What became of it when the queue was asked for this place before.
    pub fn asked(self) -> Asked {
        self.asked
    }

    /// A number that is smaller for earlier places.
    pub fn order(self) -> u64 {
        self.order
    }

    /// When the request first asked for a slot.
    pub fn entered(self) -> Instant {
        self.entered
    }
}

/// An attempt with its slot. `P` is the quota's permit, which the queue only passes on.
#[derive(Debug)]
pub struct Admitted<P> {
    /// The attempt that the slot was granted to.
    pub attempt: Attempt,
    /// The slot, which is returned when it is dropped unused.
    pub permit: P,
}

/// Whether an attempt without an answer may be followed by another one, at another host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retries {
    /// It may: a host that does not answer can be given up.
    #[default]
    Left,
    /// It is the last one, and may take all the time there is.
    Exhausted,
}

/// How long an exchange may make no progress. The layer that chose the host decides, and the client
/// asks.
#[derive(Clone, Default)]
pub struct StallTimeout(Option<Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>>);

impl StallTimeout {
    /// The timeout of `watch`. It is called at each sign of progress, beginning with the request
    /// being sent, and its future is awaited: when the future resolves the exchange is given up,
    /// and when it is dropped there was progress.
    pub fn new(watch: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(watch)))
    }

    /// Resolves when the time is over. The default never resolves.
    ///
    /// # Cancel safety
    ///
    /// Safe: dropping it means that there was progress.
    pub fn elapsed(&self) -> BoxFuture<'static, ()> {
        match &self.0 {
            Some(watch) => watch(),
            None => Box::pin(std::future::pending()),
        }
    }
}

impl fmt::Debug for StallTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StallTimeout").field(&self.0.is_some()).finish()
    }
}

/// A charged call that needs a host.
#[derive(Clone, Debug)]
pub struct Charged {
    /// The request to send.
    pub request: Arc<Request>,
    /// The caller, for the request id and the deadline.
    pub caller: Arc<Caller>,
    /// Whether another attempt may follow.
    pub retries: Retries,
    /// Its span in a trace.
    pub trace: trace::Call,
}

/// A call with its host.
#[derive(Clone, Debug)]
pub struct Routed {
    /// The call.
    pub charged: Charged,
    /// The region's base address, without a path.
    pub base: Arc<Url>,
    /// How long the host may make no progress.
    pub stall_timeout: StallTimeout,
}

/// A call with its host and token, which is all that the client needs.
#[derive(Clone, Debug)]
pub struct Authorized {
    /// The call and its host.
    pub routed: Routed,
    /// The access token.
    pub bearer: Secret,
}

/// Whether the upstream can have counted a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// There was no slot for it, so nobody has tried: that says nothing about the upstream, and
    /// nothing about a request that may wait longer.
    NoSlot,
    /// The upstream has provably processed nothing of it, mostly because no byte was written, so
    /// the slot can be used again.
    NotSent,
    /// It may have arrived, and may still arrive until its timeout.
    Unknown,
    /// It was answered: it arrived no later than now.
    Answered,
}

/// Whether another attempt is worth its cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryHint {
    /// It would fail in the same way.
    Never,
    /// There is no slot in time for one more call, but the request could still be part of another
    /// call.
    InBatch,
    /// One more attempt may help: after a lost connection, a renewed token, or a
    /// response that is none of Defender's. A 5xx is an answer, and the retry layer repeats it.
    Once,
    /// At another host, which may have the answer that this one did not give in time. The region
    /// layer passes it on only while there is another one.
    OtherHost,
    /// As soon as the quota allows it, until the deadline: the upstream answered 429, or there was
    /// no token yet.
    WhenAllowed,
}

/// Why an attempt has no good answer.
#[derive(Debug, thiserror::Error)]
#[error("the upstream call brought no answer")]
pub struct Failure {
    /// For the ledger.
    pub delivery: Delivery,
    /// For the retry layer.
    pub again: RetryHint,
    /// The upstream's answer, if there was one; it passes through when there is no further attempt.
    pub answer: Option<UpstreamResponse>,
    /// The cause, for people and for `response`.
    pub source: BoxError,
}
