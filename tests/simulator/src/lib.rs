//! The simulated upstream: Entra's token endpoint and every region's Defender host, in one process,
//! on loopback.
//!
//! ```text
//!             ┌ Simulator ────────────────────────────────────────────────┐
//!  gateway ──►│ sign-in :P     entra::TokenService ────► token            │
//!          ──►│ region  :P+1 ┐                             │              │
//!          ──►│ region  :P+2 ├ defender ─ arrives ─► limit::Limiter (one) │──► Log, calls(), judge()
//!          ──►│ region  :P+3 ┘    └─► history                             │
//!             └ every host: latency, faults, resets, on and off ──────────┘
//! ```
//!
//! All tests rely on it, so it is as strict as the documentation of the real service, and where the
//! documentation is silent the test chooses. It shares no code with the gateway's parsers, so that
//! a mistake there is not repeated here: it is a package of its own, which knows nothing of the
//! gateway.
//!
//! # What counts
//!
//! A call counts from the moment its head has arrived, half a round trip after it was received,
//! whether or not its sender is still there; the answer, any fault and a rejection come after that.
//! A call whose token names no app is not counted. Requests for other paths, such as probes, use no
//! quota, and get only those faults that always happen.
//!
//! # In a test
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! use defender_gateway_simulator::{Action, Config, Fault, Often, Plan, Simulator};
//!
//! let simulator = Simulator::start(Config::instant())?;
//! let faults = Plan::of(Fault::Cut, Often::Times(1));
//! simulator.apply(Action::Faults { region: None, faults }).await?;
//! let gateway_toml = simulator.config_toml();
//! // … start a gateway with it, call it …
//! assert!(simulator.judge().is_satisfied());
//! assert!(simulator.violations().is_empty());
//! assert_eq!(simulator.stop().await, 0);
//! # Ok(())
//! # }
//! ```

mod config;
mod control;
mod defender;
mod entra;
mod fault;
pub mod history;
pub mod limit;
mod operation;
mod record;
mod rng;
pub mod scenario;
mod sim_state;
mod simulator;
pub mod span;
mod tasks;
#[cfg(test)]
mod tests;
mod wire;

pub use config::{
    Assertions, CLIENT_ID, CLIENT_SECRET, Config, IDENTITY_HEADER, Message, ROLE, Region, RetryAfter, SCOPE, TENANT_ID,
};
pub use control::Action;
pub use entra::{AadstsCode, Certificate};
pub use fault::{Fault, Often, Plan, SignInFault};
pub use history::EntityForm;
pub use limit::{Limit, Limiter, QuotaVerifier, Scope, Shape};
pub use operation::Operation;
pub use record::{CallRecord, Credential, Log, TokenRecord};
pub use secrecy::{ExposeSecret, SecretString};
pub use simulator::{Simulator, run};
pub use wire::Tls;
