//! Every operation, from callers to the simulated tenant.

mod callers;
mod differential;
mod keeping;
mod readme;
mod scope;
mod secrets;
mod whole_way;
mod writes;
