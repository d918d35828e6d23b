//! A gateway in front of Defender for Endpoint's authenticated scans: their definitions, scanners and history.
//!
//! ```text
//! caller ─► server ─► request id ─► trace ─► count ─► respond ─► panic ─► guard ─► route ─► read ─► fair use ─► cache ─► fleet ─► coalesce
//!                                   (error → answer)                  bytes → scan::Request                     │
//!                                                                                                               ▼
//!        Defender ◄─ client ◄─ token ◄─ region ◄─ quota ◄─ fair queue (a lane per token) ◄─ retry ◄─────────────┘
//! ```
//!
//! `stack.rs` is that drawing in code; `app` makes the parts and joins them.
//!
//! # Floors
//!
//! A module imports only modules from the same or a lower floor; parts (floor 2) never import each other.
//! `tests/floors.rs` fails when one does.
//!
//! | floor | modules |
//! |---|---|
//! | 6 | `app` `stack` `cli` `config` |
//! | 5 | `admin`, served by `server`'s listeners |
//! | 4 | `server` |
//! | 3 | `respond` |
//! | 2 | `cache` `fleet` `coalesce` `queue` `quota` `token` `region` `upstream` |
//! | 1 | `scan` `caller` `attempt` |
//! | 0 | `operation` `clock` `secret` `plain_text` `task` `machine` `memory` `net` `store` `telemetry` |
//! | aside | `sim`: the simulated upstream, imported by `cli` and tests only |

pub mod admin;
pub mod app;
pub mod attempt;
pub mod cache;
pub mod caller;
pub mod cli;
pub mod clock;
pub mod coalesce;
pub mod config;
pub mod fleet;
pub mod machine;
pub mod memory;
pub mod net;
pub mod operation;
pub mod plain_text;
pub mod queue;
pub mod quota;
pub mod region;
pub mod respond;
pub mod scan;
pub mod secret;
pub mod server;
pub mod sim;
pub mod stack;
pub mod store;
pub mod task;
pub mod telemetry;
pub mod token;
pub mod upstream;

/// An error of any part, on its way up the stack to [`respond`], which finds the cause in its source chain.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
