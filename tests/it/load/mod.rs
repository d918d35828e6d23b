//! More than the gateway can serve, for long: overload, crowds of connections, and all faults at
//! once.
//!
//! The real program in front of a simulated upstream. Each test has a short form, and a long one
//! that is run by hand: `cargo test --release --test it load:: -- --ignored --nocapture
//! --test-threads 1`, 22 minutes. What came of it stands in `deploy/threat-model.md`.

mod crowd;
mod overload;
mod soak;
mod tally;
mod watch;

use tokio::sync::Mutex;

/// Two at once would measure each other.
static ALONE: Mutex<()> = Mutex::const_new(());
