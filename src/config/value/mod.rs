//! The formats of values: durations, sizes, limits, addresses. Each has one parser, whose error is
//! a phrase that follows the value in a message, such as `has no unit`.

pub(super) mod address;
mod quantity;

pub(super) use quantity::{MAX_CALLS, either};
pub use quantity::{parse_duration, parse_size, show_duration, show_size};
