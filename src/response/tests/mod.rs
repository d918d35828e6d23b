//! Tests of the table row by row, and of whole responses.

mod layer;
mod rate_limit;
mod table;
