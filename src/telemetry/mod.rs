//! Logs, metrics and traces as they leave the process.
//!
//! Not here: what is measured. Each part owns its metrics and registers them; this module only
//! exports them. Invariant: nothing in here ever sees a header field (except those of W3C Trace
//! Context), a body, a token or a secret.

mod declare;
mod json_line;
pub mod log;
mod log_queue;
pub mod metrics;
pub mod trace;

mod exposition;

pub(crate) use declare::{Counters, Gauges, LabelValue, metrics, named_enum};
