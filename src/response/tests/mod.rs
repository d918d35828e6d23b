//! Tests of the table row by row, and of whole responses.

mod layer;
pub(crate) mod openapi;
mod rate_limit;
mod table;
