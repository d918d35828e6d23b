//! The whole simulator over real sockets, seen as a client sees it.

mod certificate;
mod client;
mod control;
mod defender;
mod discovery;
mod entra;
mod faults;
mod quota;
mod scenario;
mod transport;
