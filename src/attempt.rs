//! One try at the upstream: what goes down the lower half of the stack, and what comes back up.
//!
//! ```text
//! retry ─ Try ─► queue ─ Granted ─► quota ─ Outgoing ─► region ─ Routed ─► token ─ Signed ─► client
//! ```
//!
//! Every service below `retry` fails with [`Failure`], which says two facts that only the place of failure knows: whether the
//! upstream can have counted the call ([`Delivery`]), and whether trying again is worth a second call ([`Again`]).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use url::Url;

use crate::BoxError;
use crate::caller::{Caller, Name, Urgency};
use crate::scan::{Answer, Payer, Request};
use crate::secret::Secret;
use crate::telemetry::trace;

/// What will be asked once a slot is there. Binding late lets a merged call take in whoever waits at that moment.
pub trait Load: Send + Sync + fmt::Debug {
    /// Called when a slot has been granted, just before the call leaves; again for every further attempt.
    fn request(&self) -> Arc<Request>;

    /// Called when it has a place in the queue: at `start` comes its slot, if nobody comes or leaves before.
    fn queues(&self, place: Place, start: Instant) {
        let _ = (place, start);
    }

    /// Whose calls it counts with. Known from the start, whatever is bound later.
    fn payer(&self) -> Payer;

    /// The callers who benefit from the request last returned; the slot's cost is shared equally among them.
    fn beneficiaries(&self) -> Vec<Name>;

    /// The call's place in a trace. Asked after [`Load::request`], which settles for whom the call is made.
    fn trace(&self) -> trace::Call {
        trace::Call::None
    }
}

/// How scarce slots are for calls that wait for nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scarcity {
    /// How long a call that could leave now should wait for others to share it, so that those who come after it find slots too; `None`
    /// while there are plenty of them.
    pub gather: Option<Duration>,
    /// How far slots lie apart once those saved up are used.
    pub interval: Duration,
}

/// What those who wait want of the quota.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand<'a> {
    /// How many requests wait.
    pub waiting: usize,
    /// How many callers they are of.
    pub callers: usize,
    /// By when each can use its slot, ascending; which ticket it is does not matter here.
    pub promised: &'a [(Instant, u64)],
    /// Whether more would wait if there were more slots: somebody was refused for want of them.
    pub turns_away: bool,
    /// Whose requests these are, for a quota that others draw on too.
    pub flows: Option<&'a dyn FlowOrder>,
}

/// What one caller wants in one urgency class: a flow of the fair order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowDemand {
    /// The class.
    pub urgency: Urgency,
    /// Who asks.
    pub caller: Name,
    /// Its share beside others of the class.
    pub weight: u32,
    /// Its requests that wait.
    pub waiting: usize,
    /// By when they can use a slot, ascending; only the first few.
    pub deadlines: Vec<Instant>,
    /// Its requests that were refused and told when to come back, and are not here now.
    pub returning: usize,
    /// Whether it asks again whenever it is answered: a forecast counts it as always waiting.
    pub asks_again: bool,
    /// Where its next service ends, after the clock of its class, if a [`SharedOrder`] says so.
    pub position: Option<i64>,
}

/// The fair order of all replicas, as far as it concerns one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedOrder {
    /// Every class that is wanted, or that was served lately; the others start at the clock of the classes.
    pub classes: Vec<ClassPosition>,
    /// The flows of this replica that the order knows: class, caller, and position.
    pub own: Vec<(Urgency, Name, i64)>,
    /// What is wanted at the other replicas.
    pub others: Vec<FlowDemand>,
}

/// Where a class stands in a [`SharedOrder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassPosition {
    /// The class.
    pub urgency: Urgency,
    /// Where its next service starts, after the clock of the classes, in services of the most urgent class.
    pub start: i64,
    /// The clock of its flows.
    pub clock: i64,
}

impl SharedOrder {
    /// One service of a flow of weight 1, in the unit of positions and clocks.
    pub const SERVICE: i64 = 1 << 20;
}

/// Those who want slots, by whose turn is next.
pub trait FlowOrder: fmt::Debug {
    /// The first `most`: those who wait, then those who are only expected to ask.
    fn flows(&self, most: usize) -> Vec<FlowDemand>;
}

impl FlowOrder for Vec<FlowDemand> {
    fn flows(&self, most: usize) -> Vec<FlowDemand> {
        self.iter().take(most).cloned().collect()
    }
}

/// One attempt that wants a slot.
#[derive(Clone, Debug)]
pub struct Try {
    /// What to ask.
    pub load: Arc<dyn Load>,
    /// On whose behalf, and until when.
    pub caller: Arc<Caller>,
    /// Where in the queue; the same for all attempts of one request.
    pub place: Place,
    /// Whether another attempt may follow.
    pub retries: Retries,
}

impl Try {
    /// How long after its deadline a request may still start anew whose host was given up: it did start in time.
    pub const GRACE: Duration = Duration::from_secs(5);
}

/// A place in the queue. A request that has to queue again (after a 429, after a merge in doubt) comes back with its old place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    order: u64,
    entered: Instant,
}

impl Place {
    /// The place behind everybody who has one now.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            order: NEXT.fetch_add(1, Ordering::Relaxed),
            entered: now,
        }
    }

    /// Smaller came earlier.
    #[must_use]
    pub fn order(self) -> u64 {
        self.order
    }

    /// When the request first asked for a slot.
    #[must_use]
    pub fn entered(self) -> Instant {
        self.entered
    }
}

/// A try with its slot. `P` is the quota's permit; the queue only passes it on.
#[derive(Debug)]
pub struct Granted<P> {
    /// The try that the slot was granted to.
    pub attempt: Try,
    /// The slot. Dropped unused, it goes back.
    pub permit: P,
}

/// Whether an attempt that brings no answer may be followed by another one, at another host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retries {
    /// It may: a host that says nothing can be given up.
    #[default]
    Left,
    /// It is the last one: it may take all the time there is.
    Exhausted,
}

/// How long an exchange may stand still. Whoever chose the host decides, and whoever makes the call asks.
#[derive(Clone, Default)]
pub struct StallTimeout(Option<Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>>);

impl StallTimeout {
    /// The patience that `watch` has. It is called, and its future awaited, from each sign of progress on, the sending of the request
    /// included; when the future resolves, the exchange is to be given up, and when it is dropped, there was progress.
    #[must_use]
    pub fn new(watch: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(watch)))
    }

    /// Resolves when it is over. The default has no end.
    ///
    /// # Cancel safety
    /// Safe: dropping it says that there was progress.
    #[must_use]
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

/// A paid call that needs a host.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The question, as it goes on the wire.
    pub request: Arc<Request>,
    /// For the request id and the deadline.
    pub caller: Arc<Caller>,
    /// Whether another attempt may follow.
    pub retries: Retries,
    /// Its place in a trace.
    pub trace: trace::Call,
}

/// A call with its host.
#[derive(Clone, Debug)]
pub struct Routed {
    /// The call.
    pub outgoing: Outgoing,
    /// The region's base address, without a path.
    pub base: Arc<Url>,
    /// How long the host may say nothing.
    pub stall_timeout: StallTimeout,
}

/// A call with its host and token: all that the client needs.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The call and its host.
    pub routed: Routed,
    /// The access token.
    pub bearer: Secret,
}

/// Whether the upstream can have counted a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Provably the upstream has processed nothing of it, mostly because no byte was written: the slot can be used again.
    Unsent,
    /// It may have arrived, and may still arrive until its timeout.
    Unknown,
    /// It was answered: it arrived no later than now.
    Answered,
}

/// Whether another attempt is worth paying for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// It would fail in the same way.
    Never,
    /// There is no slot in time for one more call; as part of another call, the question could still be asked.
    InCompany,
    /// Once more may help: a connection lost, a token just renewed, a 5xx.
    Once,
    /// At another host, which may bring the answer that this one keeps to itself.
    OtherHost,
    /// As soon as the quota allows it, for as long as the deadline allows it: the upstream said 429, or there was no token yet.
    WhenAllowed,
}

/// Why an attempt brought no good answer.
#[derive(Debug)]
pub struct Failure {
    /// For the ledger.
    pub delivery: Delivery,
    /// For the retry layer.
    pub again: Again,
    /// The upstream's answer, if there was one; it passes through when there is no further attempt.
    pub answer: Option<Answer>,
    /// For people and for `response`.
    pub source: BoxError,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the upstream call brought no answer")
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.source.as_ref())
    }
}
