//! The section's keys.

use crate::config::env::variable;
use crate::config::key::{DefaultValue, Key, Kind};

const PATH: Kind = Kind::Text("the path of a readable file, or \"\" for none");
const NONE: DefaultValue = DefaultValue::Text("");

pub(super) static KIND: Key = Key::new(
    "credentials",
    "kind",
    Kind::Choice(&[
        "auto",
        "client_secret",
        "certificate",
        "workload_identity",
        "managed_identity",
    ]),
    DefaultValue::Text("auto"),
    "How to prove who the gateway is. `auto` takes what is present: our own settings before Azure's variables, then in the order \
     listed. The metadata service of a virtual machine has to be chosen by name.",
)
.live_alone();
pub(super) static TENANT_ID: Key = Key::new(
    "credentials",
    "tenant_id",
    Kind::Text("a tenant's GUID or domain, or \"\""),
    NONE,
    "The Entra tenant. Needed by all kinds but `managed_identity`.",
)
.borrows(&[variable::TENANT_ID])
.hidden()
.live_alone();
pub(super) static CLIENT_ID: Key = Key::new(
    "credentials",
    "client_id",
    Kind::Text("an application's GUID, or \"\""),
    NONE,
    "The application (client) id; for `managed_identity` the user-assigned identity, or empty for the system-assigned one.",
)
.borrows(&[variable::CLIENT_ID])
.hidden()
.live_alone();
pub(super) static CLIENT_SECRET: Key = Key::new(
    "credentials",
    "client_secret",
    Kind::Text("the secret's value (not its id)"),
    NONE,
    "The application's secret. Environment only; a file would be copied and committed.",
)
.borrows(&[variable::CLIENT_SECRET])
.hidden()
.environment_only();
pub(super) static CLIENT_SECRET_FILE: Key = Key::new(
    "credentials",
    "client_secret_file",
    PATH,
    NONE,
    "A file that holds only the secret. Read again when it changes.",
)
.live();
pub(super) static CERTIFICATE_FILE: Key = Key::new(
    "credentials",
    "certificate_file",
    PATH,
    NONE,
    "A PEM file with the application's certificate, and its private key unless that has a file of its own. Read again when it \
     changes.",
)
.borrows(&[variable::CLIENT_CERTIFICATE_PATH])
.live();
pub(super) static PRIVATE_KEY_FILE: Key = Key::new(
    "credentials",
    "private_key_file",
    PATH,
    NONE,
    "A PEM file with the certificate's private key (RSA), when `certificate_file` does not hold it.",
)
.live();
pub(super) static FEDERATED_TOKEN_FILE: Key = Key::new(
    "credentials",
    "federated_token_file",
    PATH,
    NONE,
    "The projected Kubernetes token of `workload_identity`. Read at every sign-in. The Azure webhook sets it.",
)
.borrows(&[variable::FEDERATED_TOKEN_FILE])
.live();
pub(super) static AUTHORITY: Key = Key::new(
    "credentials",
    "authority",
    Kind::Text("an https:// address, or \"\" for the cloud's"),
    NONE,
    "Where to sign in; empty: where `defender.cloud` does, `https://login.microsoftonline.com` for the public cloud.",
)
.borrows(&[variable::AUTHORITY_HOST])
.hidden()
.live();
pub(super) static SCOPE: Key = Key::new(
    "credentials",
    "scope",
    Kind::Text("the resource's https:// address followed by /.default, or \"\" for the cloud's"),
    NONE,
    "What to ask a token for; empty: what `defender.cloud` needs, `https://api.securitycenter.microsoft.com/.default` for the \
     public cloud. Another audience is answered 403.",
)
.hidden()
.live();

pub(super) static PASSTHROUGH: Key = Key::new(
    "credentials",
    "passthrough",
    Kind::Flag,
    DefaultValue::Flag(false),
    "Whether a caller's own bearer token goes upstream in place of the gateway's, with cache, calls and quota of its own. Otherwise \
     what callers send in `Authorization` is dropped.",
)
.live();

pub(in crate::config::section) static KEYS: &[&Key] = &[
    &KIND,
    &TENANT_ID,
    &CLIENT_ID,
    &CLIENT_SECRET,
    &CLIENT_SECRET_FILE,
    &CERTIFICATE_FILE,
    &PRIVATE_KEY_FILE,
    &FEDERATED_TOKEN_FILE,
    &AUTHORITY,
    &SCOPE,
    &PASSTHROUGH,
];
