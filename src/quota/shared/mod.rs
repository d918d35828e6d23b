//! One quota for many replicas, through a store.
//!
//! The ledger lives in the store, and one script there (`script/`) decides, atomically and with the server's clock. A replica takes
//! *steps*, one at a time: each says what has become of its calls and how many requests wait, and brings back the slots it is granted and
//! what is new in the ledger. So every replica has a copy of the ledger, and the store may lose it.
//!
//! # Why the windows hold
//!
//! The argument of [`quota`](super) with the store's clock: a charge counts in every window from its grant, which is before the call
//! leaves, and then from a moment that is not before its answer: the replica reports how long ago the answer came, so delay and other
//! clocks do not matter. A charge that is never reported counts until after the call's timeout, and then from there. A step whose
//! answer did not come in time may have been taken: its slots are never used, and given back by the next step.
//!
//! # What happens when the store forgets
//!
//! The state names the server's run and counts its own parts, so that a restart, a failover to an older copy, a flush or an eviction is
//! noticed by the next step, whoever takes it. That begins a new *epoch*, in which nothing is granted until the replicas have merged
//! their copies back. It ends when every charge is provably known, or after a time in which every living replica can have come.
//!
//! Every charge is known when the freshest merged copy is younger than a lease and every replica that it names has merged: a charge granted
//! before that copy was taken is in it; one granted later went to a replica that it names, which has brought it, or to a newcomer. But a
//! newcomer is granted nothing until every replica with a lease has said that it knows of it, so the copy would name it.
//!
//! Otherwise some charges may be known to nobody, and the most that the bucket can have granted since the freshest copy is charged. When no
//! replica has a copy at all, `on_unknown_past` decides.
//!
//! A store whose clock jumps ahead would forget calls too early. Replicas compare it with their own stopwatches before they use a slot,
//! and a jump begins a new epoch as well: the copies hold ages by the replicas' own clocks.
//!
//! # Whose turn it is
//!
//! Replicas take turns as callers do within one (stride scheduling), in proportion to the callers who wait at each. A free slot is kept for the
//! replica whose turn it is for [`Timing::claim`], and passes on when it does not come. Replicas are told when their turn comes, and woken
//! when it comes earlier.
//!
//! # What callers are promised
//!
//! Each step says by when callers here were promised their slots, and brings back what the others want and have promised. A forecast (`outlook`)
//! takes turns as the script does, with each of the others only for as many slots as it wants, or for ever if it turns callers away; and leaves
//! out the slots that the others' promises need. The script in turn yields a slot out of turn when a promise would be late without it. So
//! who was told to wait is served in time although others come to want more later.
//!
//! A promise is made on what the last step told, which is at most a heartbeat old. Of what several replicas promise within that time more than
//! there is, the promises due last are taken back at once, by the same rule everywhere.

mod client;
mod clock;
mod coming;
mod config;
mod copy;
mod metrics;
mod permit;
mod state;
mod step;
#[cfg(test)]
mod tests;
mod unsaid;
mod wants;

pub use config::{Config, Timing};
pub use metrics::Metrics;
pub use permit::{Permit, Quota};
pub use state::{Change, Slot, State};
pub use step::Reply;
