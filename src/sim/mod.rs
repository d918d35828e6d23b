//! The simulated upstream: Entra's token endpoint and every region's Defender host, in one process, on loopback.
//!
//! It is what all tests believe, so it is as strict as the documentation of the real thing, and where the documentation is silent it
//! lets the test choose. It shares no code with the gateway's parsers, so that a mistake there is not mirrored here.

mod action;
mod config;
mod control;
mod defender;
mod dice;
mod entra;
mod fault;
pub mod history;
mod hosts;
pub mod limit;
mod record;
pub mod scenario;
mod simulator;
pub mod span;
#[cfg(test)]
mod tests;
mod wire;
mod world;

pub use action::{Action, Event};
pub use config::{
    Behaviour, CLIENT_ID, CLIENT_SECRET, Config, IDENTITY_HEADER, Message, ROLE, Region, RetryAfter, SCOPE, SignIn,
    TENANT_ID, Throttle,
};
pub use entra::{AadstsCode, Certificate, NotACertificate};
pub use fault::{Fault, Often, Plan, SignInFault};
pub use history::History;
pub use limit::{Finding, Judge, Limit, Limiter, Rejected, Rejection, Shape};
pub use record::{CallRecord, Credential, Log, TimedOut, TokenRecord, Violation};
pub use scenario::ScenarioError;
pub use simulator::Simulator;
