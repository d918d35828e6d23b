//! A gateway in front of Defender for Endpoint's authenticated scans: their definitions, scanners
//! and history.
//!
//! ```text
//! caller ─► server ─► request id ─► trace ─► count ─► response ─► panic ─► guard ─► route ─► read ─┐
//!                                             (error → answer)           bytes → scan::Request     │
//!      ┌───────────────────────────────────────────────────────────────────────────────────────────┘
//!      └─► fair use ─► cache ─► shared cache ─► single flight ─┐
//!                                                             ▼
//! Defender ◄─ client ◄─ token ◄─ region ◄─ quota ◄─ fair queue (one per token) ◄─ retry
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
//! | 1 | `scan` `caller` `attempt` |
//! | 0 | `operation` `clock` `secret` `plain_text` `task` `resources` `memory` `net` `store` `telemetry` |
//! | aside | `sim`: the simulated upstream, imported by `cli` and tests only |

pub mod admin;
pub mod app;
pub mod attempt;
pub mod cache;
pub mod caller;
pub mod cli;
pub mod clock;
pub mod config;
pub mod memory;
pub mod net;
pub mod operation;
pub mod plain_text;
pub mod queue;
pub mod quota;
pub mod region;
pub mod resources;
pub mod response;
pub mod scan;
pub mod secret;
pub mod server;
pub mod shared_cache;
pub mod sim;
pub mod single_flight;
pub mod stack;
pub mod store;
pub mod task;
pub mod telemetry;
pub mod token;
pub mod upstream;

/// An error of any part, on its way up the stack to [`response`], which finds the cause in its
/// source chain.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
