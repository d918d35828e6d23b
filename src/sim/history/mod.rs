//! The simulated tenant: definitions, scanners and their history, always the same for the same id
//! and seed.

mod entities;
mod rows;
mod settings;
mod spelling;
#[cfg(test)]
mod tests;

pub(in crate::sim) use entities::Kind;
pub(in crate::sim) use rows::By;

pub use settings::{Casing, Duplicates, EntityForm, Envelope, History, Layout, Matching, NextLink, Order, Unknown};

/// An id that is always unknown, although it has the form of a GUID.
pub const UNKNOWN_ID: &str = "00000000-0000-0000-0000-000000000000";
