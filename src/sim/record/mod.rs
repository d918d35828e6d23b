//! The records of what the simulator received.

mod entry;
mod journal;
mod log;

pub use entry::{CallRecord, Credential, TokenRecord, Violation};
pub(super) use journal::Journal;
pub use journal::TimedOut;
pub use log::Log;
