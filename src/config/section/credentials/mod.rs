//! `[credentials]`: how the gateway signs in.
//!
//! There are four kinds of credential, one of which is chosen here before anything starts, with the
//! reason. The secret itself is never part of a file that is copied: it comes from the environment,
//! or from a file of its own.

mod choice;
mod material;

use url::Url;

use super::defender;
use crate::config::cloud::Cloud;
use crate::config::config_error::Origin;
use crate::config::env::variable;
use crate::config::key::Key;
use crate::config::reader::{Read, Reader};
use crate::config::value::address;
use crate::token::Credential;

pub use material::{TokenProxy, TrustedRoots};

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
    client_id = Key::text("an application's id, which is a GUID in Entra ID, or \"\"", "")
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
    scope = Key::text("the resource's address (https:// or another scheme) followed by /.default, or \"\" for the cloud's", "")
        .hidden()
        .live();

    /// Whether a caller's own bearer token goes upstream in place of the gateway's, with cache,
    /// calls and quota of its own, at each replica. Otherwise what callers send in `Authorization`
    /// is dropped.
    passthrough = Key::flag(false).live();
}

/// How the gateway signs in.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// What proves who the gateway is.
    pub credential: Credential,
    /// The address that token requests with a Kubernetes token are sent to, instead of the authority.
    pub token_proxy: Option<TokenProxy>,
    /// The tenant, as a path segment; an identity that the platform assigns needs none.
    pub tenant_id: Option<String>,
    /// The application or user-assigned identity; `None`: the system-assigned one.
    pub client_id: Option<String>,
    /// Where the credential comes from, and why it was chosen; for people.
    pub why: String,
    /// The sign-in host, without a slash at its end as far as the type allows. The tenant follows
    /// as a path segment.
    pub authority: Url,
    /// The scope of tokens, which ends with `/.default`.
    pub scope: String,
    /// Whether a caller's own token is used upstream instead of the gateway's.
    pub passthrough: bool,
}

impl Credentials {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Read<Self> {
        // The section of the cloud has its error already; what it does not say is not compared.
        let cloud = defender::cloud(reader).ok();
        let authority = authority(reader, cloud);
        let scope = scope(reader, cloud);
        choice::choose(reader, authority, scope)
    }
}

/// Client credentials request all granted permissions (AADSTS70011 and 1002012 otherwise).
const DEFAULT: &str = "/.default";

fn authority(reader: &mut Reader<'_>, cloud: Option<Cloud>) -> Read<Url> {
    // The Azure libraries accept a bare host in their variable.
    let variables = key::authority.borrowed;
    let borrowed = matches!(reader.origin(&key::authority), Origin::Variable(name) if variables.contains(&&*name));
    reader.parsed(&key::authority, |text| {
        let text = match text {
            "" => cloud.unwrap_or(Cloud::Public).authority().to_owned(),
            host if borrowed && !host.contains("://") => format!("https://{host}"),
            text => text.to_owned(),
        };
        let url = address::trusted(text.trim_end_matches('/'))?;
        if let (Some(cloud), Some(host)) = (cloud, url.host_str()) {
            cloud.accepts_authority(host)?;
        }
        Ok(url)
    })
}

fn scope(reader: &mut Reader<'_>, cloud: Option<Cloud>) -> Read<String> {
    reader.parsed(&key::scope, |text| {
        let text = match text {
            "" => cloud.unwrap_or(Cloud::Public).scope(),
            text => text,
        };
        let resource = text
            .strip_suffix(DEFAULT)
            .ok_or("does not end with /.default, the only scope an application can ask for")?;
        if text.contains(char::is_whitespace) {
            return Err("holds more than one scope; a token is for one resource".into());
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("holds a character that no scope has".into());
        }
        // Other schemes (api://…) name resources too.
        let url = Url::parse(resource).map_err(|error| format!("names no resource ({error})"))?;
        if let (Some(cloud), Some(host)) = (cloud, url.host_str()) {
            cloud.accepts_api(host, url.path())?;
        }
        Ok(text.to_owned())
    })
}
