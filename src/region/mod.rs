//! Picks the host that a call goes to: the nearest healthy one.
//!
//! ```text
//! probes ─► round-trip time ─┐
//!                            ├─► HostSelector: the current host ─► layer: pick, call, report, next host if nothing was sent
//! calls ──► health ──────────┘
//! ```
//!
//! The round-trip time is the time to set up a connection, measured in the background without any
//! request, token or quota. How long answers take does not count: it depends on the request, and
//! comparing hosts by it would cost calls at hosts that are not in use. A host that connects fast
//! and answers slowly stays; one that makes no progress, or sends invalid responses, is ejected
//! (outlier ejection, see `outlier`). Health is derived from probes and from the calls themselves.
//! Nothing here costs a second call: the layer tries another host only when provably nothing was
//! processed. Other repetitions are made by the retry layer, are charged, and avoid the failed
//! host.

mod config;
mod fault;
mod health;
mod host;
mod host_selector;
mod layer;
mod metrics;
mod outlier;
mod probe;
mod rtt;

#[cfg(test)]
mod tests;

pub use config::{Backoff, Candidate, Config};
pub use fault::{Error, Fault};
pub use host_selector::{HostSelector, HostStatus, SelectedHost};
pub use metrics::Metrics;
pub use probe::Probe;
