//! The section's values, and the rules that do not depend on the kind.

use std::path::PathBuf;

use url::Url;

use super::choice;
use super::key;
use super::token_proxy::TokenProxy;
use crate::config::cloud::Cloud;
use crate::config::config_error::Origin;
use crate::config::reader::{Read, Reader};
use crate::config::section::defender;
use crate::config::value::address;
use crate::token::{IdentityHost, SecretSource};

/// How the gateway signs in.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The credential.
    pub credential: Credential,
    /// Where it comes from, and why it was chosen; for people.
    pub why: String,
    /// The sign-in host, without a slash at its end as far as the type allows. The tenant follows
    /// as a path segment.
    pub authority: Url,
    /// The scope of tokens, which ends with `/.default`.
    pub scope: String,
    /// Whether a caller's own token is used upstream instead of the gateway's.
    pub passthrough: bool,
}

/// The credential of the gateway.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A shared secret.
    ClientSecret {
        /// The tenant, as a path segment.
        tenant_id: String,
        /// The application.
        client_id: String,
        /// The secret, or where it is.
        secret: SecretSource,
    },
    /// A certificate whose key signs an assertion.
    Certificate {
        /// The tenant, as a path segment.
        tenant_id: String,
        /// The application.
        client_id: String,
        /// PEM: the certificate, and the key unless there is a `private_key_file`.
        certificate_file: PathBuf,
        /// PEM: the key.
        private_key_file: Option<PathBuf>,
    },
    /// A Kubernetes token that Entra trusts.
    WorkloadIdentity {
        /// The tenant, as a path segment.
        tenant_id: String,
        /// The application or user-assigned identity.
        client_id: String,
        /// The projected token, rewritten by the kubelet.
        token_file: PathBuf,
        /// The address that token requests are sent to, instead of the authority.
        proxy: Option<TokenProxy>,
    },
    /// An identity that the platform assigns.
    ManagedIdentity {
        /// The user-assigned identity; `None`: the system-assigned one.
        client_id: Option<String>,
        /// The endpoint of its tokens.
        endpoint: IdentityHost,
    },
}

impl Credential {
    /// The name of the kind in a configuration, in `/status` and in metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ClientSecret { .. } => "client_secret",
            Self::Certificate { .. } => "certificate",
            Self::WorkloadIdentity { .. } => "workload_identity",
            Self::ManagedIdentity { .. } => "managed_identity",
        }
    }

    /// The application or user-assigned identity, where it is known.
    pub fn client_id(&self) -> Option<&str> {
        match self {
            Self::ClientSecret { client_id, .. }
            | Self::Certificate { client_id, .. }
            | Self::WorkloadIdentity { client_id, .. } => Some(client_id),
            Self::ManagedIdentity { client_id, .. } => client_id.as_deref(),
        }
    }

    /// The tenant, where it is known.
    pub fn tenant_id(&self) -> Option<&str> {
        match self {
            Self::ClientSecret { tenant_id, .. }
            | Self::Certificate { tenant_id, .. }
            | Self::WorkloadIdentity { tenant_id, .. } => Some(tenant_id),
            Self::ManagedIdentity { .. } => None,
        }
    }
}

impl Credentials {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Read<Self> {
        // The section of the cloud has its error already; what it does not say is not compared.
        let cloud = defender::cloud(reader).ok();
        let authority = authority(reader, cloud);
        let scope = scope(reader, cloud);
        let chosen = choice::choose(reader);
        let passthrough = reader.flag(&key::passthrough);
        let (credential, why) = chosen?;
        Ok(Self {
            credential,
            why,
            authority: authority?,
            scope: scope?,
            passthrough: passthrough?,
        })
    }

    /// The scope for metadata services: the resource without `/.default`.
    pub fn resource(&self) -> &str {
        self.scope.strip_suffix(DEFAULT).unwrap_or(&self.scope)
    }
}

/// Client credentials request all granted permissions (AADSTS70011 and 1002012 otherwise).
const DEFAULT: &str = "/.default";

fn authority(reader: &mut Reader<'_>, cloud: Option<Cloud>) -> Read<Url> {
    // The Azure libraries accept a bare host in their variable.
    let borrowed = matches!(reader.origin(&key::authority), Origin::Variable(name) if key::authority.borrowed.contains(&name.as_str()));
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
        // Other schemes (api://…) name resources too.
        let url = Url::parse(resource).map_err(|error| format!("names no resource ({error})"))?;
        if let (Some(cloud), Some(host)) = (cloud, url.host_str()) {
            cloud.accepts_api(host, url.path())?;
        }
        Ok(text.to_owned())
    })
}
