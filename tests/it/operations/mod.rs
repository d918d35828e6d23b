//! Every operation, from callers to the simulated tenant.

mod callers;
mod journey;
mod keeping;
mod secrets;
mod writes;
