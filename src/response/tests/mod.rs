//! The table row by row, and whole answers.

mod layer;
mod table;
