//! Tests of the whole simulator over real sockets, as a client.

mod certificate;
mod client;
mod control;
mod controls;
mod defender;
mod discovery;
mod entra;
mod faults;
mod quota;
mod scenario;
mod transport;

use controls::Controls;

// For `controls`.
use crate as sim;
