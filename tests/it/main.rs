//! The integration tests: one binary, a module per behaviour.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails; the lints' exemption covers #[test] functions only"
)]

mod config;
mod faults;
mod replicas;
