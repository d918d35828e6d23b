//! Credentials: reading them from files, and the forms in which they are sent.

mod assertion;
mod certificate;
mod file;
mod provider;

pub(super) use provider::{ClientAuth, CredentialProvider};

#[cfg(test)]
mod tests;
