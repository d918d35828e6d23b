//! A gateway in front of Defender for Endpoint's authenticated scans: their definitions, scanners
//! and history.
//!
//! `src/README.md` is the map: the layers that a request passes, the floors that imports go down,
//! what the words mean, and where to find things. `stack.rs` is the way of a request in code; `app`
//! makes the parts and joins them. `tests/floors.rs` fails when an import points up.

mod admin;
mod app;
mod attempt;
mod cache;
mod caller;
mod cli;
mod clock;
mod config;
mod memory;
mod middleware;
mod net;
mod operation;
mod plain_text;
mod queue;
mod quota;
mod region;
mod resources;
mod response;
mod scan;
mod secret;
mod server;
mod shared_cache;
mod single_flight;
mod stack;
mod store;
mod task;
mod telemetry;
#[doc(hidden)]
pub mod testing;
mod token;
mod upstream;

pub use cli::main;

/// An error of any part, on its way up the stack to [`response`], which finds the cause in its
/// source chain.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
