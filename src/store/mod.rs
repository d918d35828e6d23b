//! The link to Redis or Valkey. It knows nothing of what is stored there.
//!
//! Every wait is bounded, and nothing is tried twice: whoever asks must know whether its step may have been taken. A link that failed
//! closes its connection, so that a late answer is never taken for the answer to a later question.

mod config;
mod error;
mod hub;
mod link;
mod wakes;

pub use config::Config;
pub use error::{Error, Invalid};
pub use hub::Hub;
pub use link::{Link, Script};
pub use wakes::Wakes;
