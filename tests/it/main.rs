//! The integration tests: one binary, a module per behaviour.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and some print a table; the lints' exemption covers #[test] functions only"
)]

mod admin;
mod answers;
mod cache;
mod caller_token;
mod command_line;
mod config;
mod crash;
mod drain;
mod faults;
mod flights;
mod fuzz_smoke;
mod happy_path;
mod hostile;
mod load;
mod memory;
mod openapi;
mod operations;
mod problems;
mod process;
mod quota;
mod quota_proof;
mod regions;
mod reload;
mod replicas;
mod secrets;
mod shared_cache;
mod sharing;
mod sign_in;
mod sign_in_kinds;
mod store;
mod support;
mod terminal;
mod threat;
mod traces;
mod upstream;
