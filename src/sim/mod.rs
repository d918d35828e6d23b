//! x
pub mod limit;
pub mod span;
pub use limit::*;
