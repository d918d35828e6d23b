//! `[credentials]`: how the gateway signs in.
//!
//! There are four kinds of credential, one of which is chosen here before anything starts, with the
//! reason. The secret itself is never part of a file that is copied: it comes from the environment,
//! or from a file of its own.

mod choice;
mod managed;
mod pem;
mod resolved;
mod secret;
mod token_proxy;

pub use resolved::{Credential, Credentials};
pub use token_proxy::{TokenProxy, TrustedRoots};

use super::declare::keys;
use crate::config::env::variable;
use crate::config::key::Key;

/// A key with the path of a file.
const fn path() -> Key {
    Key::text("the path of a readable file, or \"\" for none", "").live()
}

keys! {
    "credentials", "how the gateway signs in";

    /// How to prove who the gateway is. `auto` takes what is present: our own settings before
    /// Azure's variables, then in the order listed. The metadata service of a virtual machine has
    /// to be chosen by name.
    kind = Key::choice(&choice::KINDS, "auto").live_alone();

    /// The Entra tenant. Needed by all kinds but `managed_identity`, for which it is part of the
    /// names in the store and nothing else. Replicas that share a store have to write it alike,
    /// best as the GUID: each way of writing it has a quota of its own.
    tenant_id = Key::text("a tenant's GUID or domain, or \"\"", "")
        .borrows(&[variable::TENANT_ID])
        .hidden()
        .live_alone();

    /// The application (client) id; for `managed_identity` the user-assigned identity, or empty for
    /// the system-assigned one.
    client_id = Key::text("an application's GUID, or \"\"", "")
        .borrows(&[variable::CLIENT_ID])
        .hidden()
        .live_alone();

    /// The application's secret. Environment only; a file would be copied and committed.
    client_secret = Key::text("the secret's value (not its id)", "")
        .borrows(&[variable::CLIENT_SECRET])
        .hidden()
        .environment_only();

    /// A file that holds only the secret. Read again when it changes.
    client_secret_file = path();

    /// A PEM file with the application's certificate, and its private key unless that has a file of
    /// its own. Read again when it changes.
    certificate_file = path().borrows(&[variable::CLIENT_CERTIFICATE_PATH]);

    /// A PEM file with the certificate's private key (RSA), when `certificate_file` does not hold
    /// it.
    private_key_file = path();

    /// The projected Kubernetes token of `workload_identity`. Read at every sign-in. The Azure
    /// webhook sets it.
    federated_token_file = path().borrows(&[variable::FEDERATED_TOKEN_FILE]);

    /// Where to sign in; empty: where `defender.cloud` does, `https://login.microsoftonline.com`
    /// for the public cloud.
    authority = Key::text("an https:// address, or \"\" for the cloud's", "")
        .borrows(&[variable::AUTHORITY_HOST])
        .hidden()
        .live();

    /// What to ask a token for; empty: what `defender.cloud` needs,
    /// `https://api.securitycenter.microsoft.com/.default` for the public cloud. Another audience
    /// is answered 403.
    scope = Key::text("the resource's https:// address followed by /.default, or \"\" for the cloud's", "")
        .hidden()
        .live();

    /// Whether a caller's own bearer token goes upstream in place of the gateway's, with cache,
    /// calls and quota of its own. Otherwise what callers send in `Authorization` is dropped.
    passthrough = Key::flag(false).live();
}
