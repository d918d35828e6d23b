//! Every operation, from callers to the simulated tenant.

mod callers;
mod differential;
mod journey;
mod keeping;
mod readme;
mod secrets;
mod writes;
