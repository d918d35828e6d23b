//! The source of the Entra app token, and the layer that attaches it.
//!
//! Only one background task asks for tokens, so there is never more than one request under way. It
//! renews the token well before expiry, and a caller waits only while there is no valid token. When
//! sign-in is down, the old token is used until it expires, never after. A rejection is remembered,
//! so that wrong credentials do not flood sign-in.
//!
//! A token's life is measured with the monotonic clock from the moment of the request, so steps of
//! the wall clock do not matter. A machine that was suspended may have a token that expired
//! meanwhile; the first 401 renews it.
//!
//! This part never validates tokens. Its one invariant: no secret, token or assertion appears in a
//! log, an error or a `Debug` output.

mod aadsts;
mod access_token;
mod config;
mod credential;
mod error;
mod layer;
mod metrics;
mod sign_in;
#[cfg(test)]
mod testing;
mod token_source;

pub use access_token::{Bearer, Roles};
pub use config::{App, CertificateFiles, Config, Credential, Identity, IdentityHost, Kind, Scope, SecretSource};
pub use error::{Code, Error, Problem, Reason};
pub use layer::MAX_PERMIT_HOLD;
pub use metrics::Metrics;
pub use token_source::{Snapshot, TokenSource, Warning};
