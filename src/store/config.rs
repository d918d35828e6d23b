//! Where the store is, and how to be let in.

use std::path::PathBuf;
use std::time::Duration;

use super::address::Address;

/// How many times the configured timeout a slow store may take in the end.
pub(super) const MOST_PATIENT: u32 = 4;

/// Where the store is, and how to be let in. Files are read at every connection, so that what they
/// hold may change.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it is.
    pub address: Address,
    /// The longest wait for one answer.
    pub timeout: Duration,
    /// Holds the password, instead of the address.
    pub password_file: Option<PathBuf>,
    /// PEM: the only authorities to trust, instead of Mozilla's.
    pub ca_file: Option<PathBuf>,
    /// PEM: certificate and private key to show to a store that asks for them.
    pub certificate_file: Option<PathBuf>,
}

impl Config {
    /// A store that answers within `timeout` and needs no files.
    pub fn new(address: Address, timeout: Duration) -> Self {
        Self {
            address,
            timeout,
            password_file: None,
            ca_file: None,
            certificate_file: None,
        }
    }
}

/// What the names of all keys of one application begin with, as `prefix:tenant:application`. Case
/// does not matter in the names of the two, and nothing in them looks like another part of a key.
pub fn scope(prefix: &str, tenant: &str, application: &str) -> String {
    let plain = |name: &str| -> String {
        let allowed = |c: char| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c.to_ascii_lowercase()
            } else {
                '_'
            }
        };
        name.chars().map(allowed).collect()
    };
    format!("{prefix}:{}:{}", plain(tenant), plain(application))
}
