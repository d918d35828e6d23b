//! The sections: each file holds one section's keys, its resolved values, and the rules between
//! them.

mod admin;
mod cache;
mod callers;
mod credentials;
mod defender;
mod definitions;
mod merge;
mod queue;
mod quota;
mod server;
mod store;
mod table;
mod telemetry;
mod traces;

pub use admin::Admin;
pub use cache::Cache;
pub use callers::Callers;
pub use credentials::{Credential, Credentials, TokenProxy, TrustedRoots};
pub(super) use defender::cloud;
pub use defender::{Defender, Pin, Proxy};
pub use definitions::Definitions;
pub use merge::{Merge, Merging};
pub use queue::Queue;
pub use quota::{Quota, Scope};
pub use server::Server;
pub use store::Store;
pub(super) use table::SECTIONS;
pub use telemetry::Telemetry;
pub use traces::{Sampling, Traces};
