//! `[credentials]`: how the gateway signs in.
//!
//! There are four kinds of credential, one of which is chosen here before anything starts, with the
//! reason. The secret itself is never part of a file that is copied: it comes from the environment,
//! or from a file of its own.

mod choice;
mod key;
mod managed;
mod pem;
mod resolved;
mod secret;
mod token_proxy;

pub(super) use self::key::KEYS;
pub use resolved::{Credential, Credentials};
pub use token_proxy::{TokenProxy, TrustedRoots};
