//! The bench that tests of the whole gateway stand on: a simulated upstream, a gateway in front of
//! it, and a caller.
//!
//! ```text
//! Setup ──► Running   gateway in this process          Caller ──► gateway ──► Simulator
//!       └─► Spawned   gateway as the real program
//! ```
//!
//! Nothing here sleeps for luck: [`until`] and the waits of [`Controls`] look for a condition and
//! give up after a bound.

mod caller;
#[path = "../../simulator/src/tests/controls.rs"]
mod controls;
mod process_usage;
mod program;
pub(crate) mod redis;
mod setup;
mod wait;

// For `controls`.
use defender_gateway::testing::sim;

pub(crate) use caller::{Answer, Caller, PATH, ask_at_socket, body, id, ids};
pub(crate) use controls::Controls;
pub(crate) use process_usage::ProcessUsage;
pub(crate) use program::Program;
pub(crate) use setup::{Running, Setup, Spawned, with};
pub(crate) use wait::{until, within};
