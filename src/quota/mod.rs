//! The upstream's quota: never exceeded as the upstream counts, and all of it usable.
//!
//! Two things decide when a call may leave. The [`Ledger`] is the guarantee: it remembers every
//! call of the longest window and lets another go only while each window has room, counting a call
//! until one window after it was *answered*. The [`Pacer`] is what callers feel: a bucket that lets
//! a burst go at once and then spreads what is left of the long window evenly, so that the hour is
//! not gone after 15 minutes. [`QuotaState`] joins the two, and also forecasts: the same state, run
//! ahead, says when each of the next slots comes.
//!
//! Why the windows hold: were L + 1 calls to arrive at the upstream within one window W, the
//! earliest of them was answered at or after its arrival, so its charge was still inside W when the
//! last of them was let go; but then L charges were inside, and the ledger would not have let it
//! go. Latency, jitter and reordering do not enter the argument.
//!
//! Limits change, by a reload or a restart, and what those before did not need to know the next ones
//! may. So at least what the documented limits need is remembered, whatever the limits are, in
//! memory, in the state file and in the store; and a window that reaches further back than memory is
//! taken to be full there.
//!
//! Not here: who gets a slot (`queue`), and per-caller limits, which are a courtesy, not a
//! guarantee.

mod config;
mod forecast;
mod foreign;
mod handle;
mod layer;
mod ledger;
mod local;
mod long_window;
mod pacer;
pub mod shared;
mod slow_start;
mod snapshot;
mod state;
mod state_file;
mod state_folder;
mod state_lines;
mod state_reach;
#[cfg(test)]
mod tests;
mod throttle_hint;
mod trial;

pub use config::{Config, Limit, Pacing, UnknownPast};
pub use forecast::Forecast;
pub use handle::{Permit, Quota};
pub use layer::{Charging, SlotEnded};
pub use ledger::Ledger;
pub use pacer::Pacer;
pub use snapshot::{Metrics, OtherLimits, PaceState, Snapshot, Window};
pub use state::QuotaState;
pub use state_file::StateFile;
pub use throttle_hint::ThrottleHint;
