//! The proof of identity, as files hold it and as the wire wants it.

mod assertion;
mod certificate;
mod file;
mod vault;

pub(super) use vault::{Proof, Vault};

#[cfg(test)]
mod tests;
