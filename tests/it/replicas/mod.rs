//! Several gateways as real processes, one real redis-server, one quota, counted where a simulator
//! in a process of its own counts.
//!
//! The forms that `tests/run` runs have windows of 1 s and 10 s, so a hundredth of the long one is
//! 0.1 s, which a busy machine loses in waking processes: they count what is wrong, not how much
//! got done. The long forms measure that, with the documented limits sixty times as fast, on a
//! machine with nothing else to do: `cargo test --test it -- --ignored --nocapture --test-threads 1
//! replicas`.

mod chaos;
mod gateways;
mod leave;
pub(crate) mod line;
mod probe;
mod share;
mod stored;
mod user;

use tokio::sync::Mutex;

/// The tests load the machine; two at once would measure each other.
static ALONE: Mutex<()> = Mutex::const_new(());
