//! The proof of identity, as files hold it and as the wire wants it.

mod assertion;
mod certificate;
mod file;
mod provider;

pub(super) use provider::{ClientAuth, CredentialProvider};

#[cfg(test)]
mod tests;
