//! One quota for many replicas, through a store.
//!
//! The ledger lives in the store, and one script there (`script/`) decides, atomically and with the
//! server's clock. A replica takes *steps*, one at a time: each says what has become of its calls
//! and what waits, as far as the store does not know it, and brings back the slots it is granted
//! and what is new in the ledger. So every replica has a copy of the ledger, and the store may lose
//! it.
//!
//! A step reads and writes what it concerns: the store keeps members, flows and what waits in
//! hashes and ordered sets, so that a step costs about the same among eight replicas and among five
//! hundred.
//!
//! # Why the windows hold
//!
//! The argument of [`quota`](super) with the store's clock: a charge counts in every window from
//! its grant, which is before the call leaves, and then from a moment that is not before its
//! answer: the replica reports how long ago the answer came, so delay and other clocks do not
//! matter. A charge that is never reported counts until after the call's timeout, and then from
//! there. A step whose answer did not come in time may have been taken: its slots are never used,
//! and given back by the next step.
//!
//! # What happens when the store forgets
//!
//! The state names the server's run and counts its own parts, so that a restart, a failover to an
//! older copy, a flush or an eviction is noticed by the next step, whoever takes it. Older data of
//! the same run is noticed by the next step of a replica that has heard of newer. That begins a
//! new *epoch*, in which nothing is granted until the replicas have merged their copies back. It
//! ends when every charge is provably known, or after a time in which every living replica can have
//! come.
//!
//! Each replica brings the charges of its own calls; of many replicas only the few whose copies are
//! the freshest are asked for these. Every charge is known when a copy that is younger than a lease
//! was brought and every replica that it names has come: a charge granted before that copy was
//! taken is in it; one granted later went to a replica that it names, which has brought it, or to a
//! newcomer. But a newcomer is granted nothing until every replica with a lease has said that it
//! knows of it, so the copy would name it. While the copies are merged a replica is told nothing
//! that would make its own copy name members whose charges it does not hold.
//!
//! Replicas whose copies name the members after the same change of the membership know each other.
//! When a merge is complete and all copies do, they need not say so again before they are granted
//! slots in the new epoch.
//! And hundreds that are woken at once come one after another, each at its own moment: a store
//! that cannot answer all of them in time would be asked again by those who gave up.
//!
//! The bucket goes on from what the freshest copy saw in it, less what was granted since.
//!
//! Otherwise some charges may be known to nobody, and the most that the bucket can have granted
//! since the freshest copy is charged. When no replica has a copy at all, `on_unknown_past`
//! decides.
//!
//! A store whose clock jumps ahead would forget calls too early. Replicas compare it with their own
//! stopwatches before they use a slot, and when they come into a new epoch on the same server; a
//! jump begins a new epoch as well: the copies hold ages by the replicas' own clocks. A jump may
//! also end the leases of all. So a replica that comes when the last of them has ended waits for as
//! long as a living one takes to come. A jump goes unnoticed when no replica lives that had heard
//! from this server before.
//!
//! # Whose turn it is
//!
//! That of the queue: classes in proportion to 2^(7-u), callers within a class by their weights,
//! one caller's requests by deadline, wherever they wait (`script/order.lua`: start-time and
//! self-clocked fair queueing). A free slot is kept for the replica whose request is next, for
//! [`Timing::claim`] and longer where the store is slow, and passes on when it does not come. The
//! replica that is next is told when its slot comes, and looks at that moment by itself; others are
//! woken when that changes.
//!
//! A reply says for whom each slot is, and what callers of other replicas want: the next flows of
//! each class one by one, and the rest of the class as one. The queue plays the order forward over
//! all of them to foretell a slot.
//!
//! # Limits
//!
//! Each replica goes by its own limits, which are part of what each of its steps says. So nothing
//! keeps those of two replicas from being different, but their names tell it (`member_name`), and
//! it is a problem when it is still so after a rollout.
//!
//! # Versions
//!
//! The first replica that comes finds the ledger of the format before this one and takes it over as
//! it stands, charges in flight included; replicas of that version find the new format in its place
//! and grant nothing more. A ledger that may have lost calls is left to those who have the copies.

mod clock_guard;
mod ledger_replica;
mod member_name;
mod messages;
mod protocol;
mod replica;
#[cfg(test)]
mod tests;
mod wants;

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

pub use messages::SyncReply;
pub use protocol::Protocol;
pub(super) use replica::{Replica, SharedCharge};

use crate::telemetry::metrics;
use crate::{quota, store};

/// Something that nobody else has said.
fn random() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// How replicas share.
#[derive(Clone, Debug)]
pub struct Config {
    store: store::Client,
    /// What all keys begin with.
    key: String,
    timing: Timing,
}

/// The version of what is stored and said. Fields may be added without a new one, because nobody
/// minds those it does not know. While replicas with another one have calls in a window, nothing is
/// granted to those with this one.
const FORMAT: &str = "v2";

/// The one before it, whose ledger is taken over.
const BEFORE: &str = "v1";

/// How many keys the script works on.
const KEYS: usize = 21;

impl Config {
    /// `prefix` as configured; the quota counts per tenant and application, so their names are part
    /// of the keys.
    pub fn new(store: impl Into<store::Client>, timing: Timing, prefix: &str, tenant: &str, application: &str) -> Self {
        // The braces put all keys into one slot of a cluster, where one script may touch them.
        let key = format!("{{{}}}", store::scope(prefix, tenant, application));
        Self {
            store: store.into(),
            key,
            timing,
        }
    }

    /// The name of one key of the ledger; all are on the same server.
    pub fn ledger_key(&self) -> String {
        let [state, ..] = self.keys();
        state
    }

    /// The keys, in the order in which the script expects them.
    fn keys(&self) -> [String; KEYS] {
        let now = |part: &str| format!("{}:{FORMAT}:{part}", self.key);
        let before = |part: &str| format!("{}:{BEFORE}:{part}", self.key);
        [
            now("state"),
            now("past"),
            now("flying"),
            now("log"),
            // The one that all versions look at.
            format!("{}:format", self.key),
            now("members"),
            now("leases"),
            now("seen"),
            now("joined"),
            now("gone"),
            now("awaited"),
            now("waits"),
            now("flows"),
            now("infos"),
            now("idle"),
            now("offers"),
            before("state"),
            before("past"),
            before("flying"),
            before("log"),
            now("returns"),
        ]
    }

    /// The channels on which a replica of this name is woken: its own, and that of all.
    fn channels(&self, name: &str) -> [String; 2] {
        let [state, ..] = self.keys();
        [format!("{state}:{name}"), format!("{state}:*")]
    }
}

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The longest time between two steps of a replica where nobody waits.
    pub idle: Duration,
    /// The same of one where somebody waits, among few replicas; among many it is up to
    /// [`Timing::idle`].
    pub heartbeat: Duration,
    /// A replica not heard of for so long is gone.
    pub lease: Duration,
    /// How long replicas have to merge their copies.
    pub merge: Duration,
    /// How long a slot is kept for the replica whose turn it is.
    pub claim: Duration,
}

impl Timing {
    /// Times that fit a store which answers within `timeout`.
    pub fn new(timeout: Duration) -> Self {
        let (idle, heartbeat) = (Duration::from_secs(4), Duration::from_millis(500));
        // A replica that hears no call listens again and looks, may lose one answer, and has to
        // connect.
        let merge = heartbeat * 2 + timeout * 2;
        Self {
            idle,
            heartbeat,
            merge,
            // Its heartbeat may be lost, too; then it tries again at once.
            lease: idle + merge,
            claim: Duration::from_millis(150),
        }
    }
}

/// The shared quota's metrics, those of every quota included.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    quota: quota::Metrics,
    store: StoreMetrics,
}

metrics! {
    #[derive(Clone, Debug)]
    struct StoreMetrics {
        /// Whether the shared store answered last time
        up: Gauge = "store_up",
        /// Steps that the shared store took
        steps: Counter = "store_steps",
        /// Steps without an answer from the shared store
        failures: Counter = "store_failures",
        /// How often the shared store had lost what it knew, or its clock had jumped
        epochs: Counter = "store_epochs",
    }
}

impl Metrics {
    /// Registers the metrics; `quota` is registered already.
    pub fn register(registry: &mut Registry, quota: quota::Metrics) -> Self {
        Self {
            quota,
            store: StoreMetrics::register(registry),
        }
    }

    /// Shows the quota as it is at this moment, and whether the store answers.
    pub(super) fn show(&self, snapshot: &quota::Snapshot, is_up: bool) {
        self.quota.show(snapshot);
        self.store.up.set(i64::from(is_up));
    }
}
