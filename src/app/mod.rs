//! Configuration in, a running gateway out: builds the parts, starts their tasks, drains them.
//!
//! This is the only place that knows the configuration and the parts at the same time.

mod admin_thread;
mod changes;
mod error;
mod gateway;
mod ground;
mod history;
mod lane;
mod made;
mod outlet;
mod problems;
mod rate_limit;
mod reload;
mod replicas;
mod request_memory;
mod settings;
mod status;
mod surroundings;
mod swap;
mod tended;
mod token_proxy;

pub use error::Error;
pub use gateway::{Ended, Gateway};
pub use lane::{Lanes, Layer as LaneLayer};
pub use outlet::{NoAnswer, Outlet};
pub use reload::{Applied, Place, Refused, Reloader};
pub use request_memory::Layer as RequestMemoryLayer;
pub use settings::ledger;
pub use surroundings::Surroundings;
