//! The program under the memory limits that the manifests set, and callers who want all of it.
//!
//! A control group made by the test holds the limit where the machine allows that, and the kernel
//! kills whatever goes above it. Elsewhere `server.memory` says the same, and the peak is read from
//! `/proc`. Run the long form by hand:
//! `cargo test --release --test it memory:: -- --ignored --nocapture`.

mod greed;
mod group;
mod limit;
mod manifest;
mod upstream;

use tokio::sync::Mutex;

/// Two at once would measure each other.
static ALONE: Mutex<()> = Mutex::const_new(());
