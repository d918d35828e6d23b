//! Callers, and a store, that mean harm, over real sockets, against the real program in front of a
//! simulated upstream.
//!
//! Each attack is a row of a table: what is sent, and what is the right answer. After every row an
//! honest caller is served, the journal of the upstream holds nothing but honest requests, and in
//! the end the program has the open files, threads and memory that it had before.

mod bench;
mod conformance;
mod conformance_cases;
mod flood;
mod frame;
mod http1;
mod http1_framing;
mod json;
mod store;
mod wire;
