//! One try at the upstream: what goes down the lower half of the stack, and what comes back up.
//!
//! ```text
//! retry ─ Try ─► queue ─ Granted ─► hedge ─ Granted ─► quota ─ Outgoing ─► region ─ Routed ─► token ─ Signed ─► client
//! ```
//!
//! Every service below `retry` fails with [`Failure`], which says two facts that only the place of failure knows: whether the
//! upstream can have counted the call ([`Fate`]), and whether trying again is worth a second call ([`Again`]).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;
use url::Url;

use crate::BoxError;
use crate::caller::{Caller, Name, Urgency};
use crate::scan::{Answer, Holder, Request};
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

    /// Who holds the token that it will be asked with; `None`: the gateway. Known from the start, whatever is bound later.
    fn holder(&self) -> Option<Holder>;

    /// The callers who benefit from the request last returned; the slot's cost is shared equally among them.
    fn beneficiaries(&self) -> Vec<Name>;

    /// The call's place in a trace. Asked after [`Load::request`], which settles for whom the call is made.
    fn trace(&self) -> trace::Call {
        trace::Call::None
    }
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
    /// Where it is on its way.
    pub route: Route,
}

/// Which way an attempt goes: the region layer says where it is, and who watches from above can say where it must not go.
///
/// Clones are the same way.
#[derive(Clone, Debug, Default)]
pub struct Route {
    avoided: Option<Arc<Url>>,
    /// Where it is; `None` when nobody watches.
    way: Option<Arc<Way>>,
}

#[derive(Debug, Default)]
struct Way {
    leg: Mutex<Option<Leg>>,
    turned: Notify,
}

/// One host on the way. There are several only when the earlier ones provably got nothing.
#[derive(Clone, Debug)]
pub struct Leg {
    /// The region's base address.
    pub base: Arc<Url>,
    /// When the attempt turned to this host; a connection may have had to be set up first.
    pub since: Instant,
}

impl Route {
    /// A way that leads past the host at `base`, to hosts that nothing is known against, or else nowhere.
    #[must_use]
    pub fn avoiding(base: Arc<Url>) -> Self {
        Self {
            avoided: Some(base),
            way: Some(Arc::default()),
        }
    }

    /// The same for somebody who watches from above.
    #[must_use]
    pub fn watched(self) -> Self {
        Self {
            way: Some(Arc::default()),
            ..self
        }
    }

    /// The host that it must not go to.
    #[must_use]
    pub fn avoided(&self) -> Option<&Url> {
        self.avoided.as_deref()
    }

    /// The attempt turns to the host at `base`.
    pub fn turn(&self, base: &Arc<Url>, now: Instant) {
        if let Some(way) = &self.way {
            let base = Arc::clone(base);
            *way.lock() = Some(Leg { base, since: now });
            way.turned.notify_one();
        }
    }

    /// Where it is; `None` before it has a host, or when nobody watches.
    #[must_use]
    pub fn leg(&self) -> Option<Leg> {
        self.way.as_ref()?.lock().clone()
    }

    /// Resolves when it has turned to a host since this was last asked. For one who asks.
    ///
    /// # Cancel safety
    /// Safe: no turn is lost.
    pub async fn turned(&self) {
        match &self.way {
            Some(way) => way.turned.notified().await,
            None => std::future::pending().await,
        }
    }
}

impl Way {
    fn lock(&self) -> MutexGuard<'_, Option<Leg>> {
        // A change is one assignment.
        self.leg.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A paid call that needs a host.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The question, as it goes on the wire.
    pub request: Arc<Request>,
    /// For the request id and the deadline.
    pub caller: Arc<Caller>,
    /// Where it has to go, and is.
    pub route: Route,
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
pub enum Fate {
    /// Provably no byte of it was written: the slot can be used again.
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
    /// As soon as the quota allows it, for as long as the deadline allows it: the upstream said 429.
    WhenAllowed,
}

/// Why an attempt brought no good answer.
#[derive(Debug)]
pub struct Failure {
    /// For the ledger.
    pub fate: Fate,
    /// For the retry layer.
    pub again: Again,
    /// The upstream's answer, if there was one; it passes through when there is no further attempt.
    pub answer: Option<Answer>,
    /// For people and for `respond`.
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
