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
//! older copy, a flush or an eviction is noticed by the next step, whoever takes it. That begins a
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
//! # Versions
//!
//! The first replica that comes finds the ledger of the format before this one and takes it over as
//! it stands, charges in flight included; replicas of that version find the new format in its place
//! and grant nothing more. A ledger that may have lost calls is left to those who have the copies.

mod clock_guard;
mod config;
mod ledger_replica;
mod messages;
mod metrics;
mod protocol;
mod replica;
mod sync_task;
#[cfg(test)]
mod tests;
mod wants;

pub use config::{Config, Timing};
pub use messages::SyncReply;
pub use metrics::Metrics;
pub use protocol::Protocol;
pub(super) use replica::{Replica, SharedCharge};
