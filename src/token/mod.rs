//! The keeper of the Entra app token, and the layer that attaches it.
//!
//! One background task asks for tokens; nobody else does, so there is never more than one request under way. It renews well before
//! expiry, and a caller waits only while there is no valid token at all. When sign-in is down, the old token serves until it
//! expires, never after. What sign-in refuses is remembered, so that wrong credentials do not hammer it.
//!
//! A token's life is counted with the monotonic clock from the moment it was asked for: jumps of the wall clock do not matter. A
//! machine that was suspended may hold a token that expired meanwhile; the first 401 renews it.
//!
//! This part never validates tokens, and its one invariant is that no secret, token or assertion appears in a log, an error or a
//! `Debug` output.

mod aadsts;
mod access_token;
mod claims;
mod config;
mod credential;
mod error;
#[cfg(test)]
mod fake;
mod keeper;
mod layer;
mod metrics;
mod sign_in;
mod snapshot;

pub use access_token::Bearer;
pub use claims::Roles;
pub use config::{
    App, CertificateFiles, Config, Credential, Identity, IdentityHost, Invalid, Kind, Scope, SecretSource,
};
pub use error::{Code, Error, Problem, Reason};
pub use keeper::{TokenSource, Verdict};
pub use layer::{Attach, Layer, MAX_PERMIT_HOLD, Rejected};
pub use metrics::{Metrics, Outcome};
pub use snapshot::{LastError, Snapshot, Warning};
