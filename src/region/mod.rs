//! Which of Defender's hosts a call goes to: the nearest one that works.
//!
//! ```text
//! probes ─► nearness ─┐
//!                     ├─► Table: the current host ─► Region (layer): pick, call, report, next host if nothing was sent
//! calls ──► health ───┘
//! ```
//!
//! Nearness is the time a connection takes to set up, measured in the background without any request, token or quota. How long answers
//! take is no part of it: that depends on what was asked, and comparing hosts by it would cost calls at hosts that are not in use. A host
//! that connects fast and answers slowly stays; one that makes no progress, or sends invalid responses, is ejected (`outlier`).
//! Health comes from probes and from the calls themselves. Nothing here costs a second call: the layer tries another host only when
//! provably nothing was processed; other repetitions are the retry layer's, paid for, and find the failed host avoided.

mod config;
mod fault;
mod health;
mod host;
mod latency_percentile;
mod layer;
mod metrics;
mod outlier;
mod probe;
mod rtt;
mod table;

#[cfg(test)]
mod tests;

pub use config::{Backoff, Candidate, Config, ConfigError};
pub use fault::{Classify, Error, Fault, classify};
pub use layer::{Region, RegionLayer};
pub use metrics::Metrics;
pub use probe::Probe;
pub use table::{HostSelector, HostStatus, SelectedHost};
