//! A gateway in front of Defender for Endpoint's authenticated scans: their definitions, scanners
//! and history.
//!
//! ```text
//! caller ─► server ─► trace ─► access log ─► response ─► guard ─► route ─► read ─┐
//!                                     (error → answer)     bytes → scan::Request │
//!      ┌─────────────────────────────────────────────────────────────────────────┘
//!      └─► fair use ─► cache ─► request memory ─► shared cache ─► single flight ─┐
//!                                                                                ▼
//! Defender ◄─ upstream ◄─ token ◄─ region ◄─ quota ◄─ queue (one per token) ◄─ retry
//! ```
//!
//! `stack.rs` is that drawing in code; `app` makes the parts and joins them.
//!
//! # Floors
//!
//! A module imports only modules from the same or a lower floor; parts (floor 2) never import each
//! other. `tests/floors.rs` fails when one does.
//!
//! | floor | modules |
//! |---|---|
//! | 6 | `app` `stack` `cli` `config` |
//! | 5 | `admin`, served by `server`'s listeners |
//! | 4 | `server` |
//! | 3 | `response` |
//! | 2 | `cache` `shared_cache` `single_flight` `queue` `quota` `token` `region` `upstream` |
//! | 1 | `scan` `caller` `attempt` `middleware` |
//! | 0 | `operation` `clock` `secret` `plain_text` `task` `resources` `memory` `net` `store` `telemetry` |
//! | aside | `sim`: the simulated upstream, imported by `cli` and tests only |
//! | aside | `testing`: what integration tests and benches use of the rest, which is private |

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
mod sim;
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
