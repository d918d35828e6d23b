//! The settings of sign-in, as the configuration has checked them.

use std::path::PathBuf;

use url::Url;

use crate::secret::Secret;
use crate::telemetry::named_enum;
use crate::token::error::Endpoint;

/// How the gateway signs in, and for what.
#[derive(Clone, Debug)]
pub struct Config {
    /// The credential.
    pub credential: Credential,
    /// What the token is for.
    pub scope: Scope,
}

/// One of the four kinds of credential.
#[derive(Clone, Debug)]
pub enum Credential {
    /// An app registration's client secret.
    ClientSecret {
        /// The app.
        app: App,
        /// The secret.
        secret: SecretSource,
    },
    /// An app registration's certificate: the gateway signs an assertion (PS256).
    Certificate {
        /// The app.
        app: App,
        /// The certificate and its key.
        files: CertificateFiles,
    },
    /// A token of another issuer, such as a Kubernetes service account's, that Entra trusts.
    WorkloadIdentity {
        /// The app.
        app: App,
        /// The file with the other issuer's token. It is read again for every request, because it
        /// is rotated.
        token_file: PathBuf,
    },
    /// An identity that Azure assigns to the machine or App Service plan.
    ManagedIdentity(Identity),
}

impl Credential {
    /// The kind of credential.
    pub fn kind(&self) -> Kind {
        match self {
            Self::ClientSecret { .. } => Kind::ClientSecret,
            Self::Certificate { .. } => Kind::Certificate,
            Self::WorkloadIdentity { .. } => Kind::WorkloadIdentity,
            Self::ManagedIdentity(_) => Kind::ManagedIdentity,
        }
    }

    /// What is asked for a token.
    pub(super) fn endpoint(&self) -> Endpoint {
        match self {
            Self::ManagedIdentity(identity) => match identity.host {
                IdentityHost::Imds { .. } => Endpoint::Imds,
                IdentityHost::AppService { .. } => Endpoint::AppService,
            },
            _ => Endpoint::Entra,
        }
    }
}

named_enum! {
    /// The four kinds, by the names of the configuration, in the order in which it prefers them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum Kind, as_str {
        /// A client secret.
        ClientSecret = "client_secret",
        /// A certificate.
        Certificate = "certificate",
        /// A federated token.
        WorkloadIdentity = "workload_identity",
        /// An Azure managed identity.
        ManagedIdentity = "managed_identity",
    }
}

/// Where the client secret comes from.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// The secret itself, from the environment.
    Value(Secret),
    /// A file with nothing else; trailing line breaks are dropped, and changes are noticed.
    File(PathBuf),
}

/// PEM files with an RSA certificate and its private key (PKCS#8 or PKCS#1, not encrypted). Changes
/// are noticed.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// The certificate, and the key too when there is no second file. Other certificates (a chain)
    /// are ignored.
    pub certificate: PathBuf,
    /// The private key.
    pub private_key: Option<PathBuf>,
}

/// An app registration and the endpoint where it signs in.
#[derive(Clone, Debug)]
pub struct App {
    pub(super) client_id: String,
    /// The token endpoint, which is also the audience of the gateway's assertions.
    pub(super) endpoint: Url,
    /// The address that requests are sent to: the token endpoint, unless there is a token proxy.
    pub(super) sent_to: Url,
}

impl App {
    /// `authority` is the sign-in service's address, with or without a slash at its end:
    /// `https://login.microsoftonline.com`.
    pub fn new(authority: &Url, tenant_id: &str, client_id: &str) -> Self {
        let endpoint = joined(authority, &format!("{tenant_id}/oauth2/v2.0/token"));
        Self {
            client_id: client_id.to_owned(),
            sent_to: endpoint.clone(),
            endpoint,
        }
    }

    /// Sends token requests to `proxy` instead (`AZURE_KUBERNETES_TOKEN_PROXY`): the endpoint's
    /// path is appended to the proxy's. The exchange handles the proxy's certificate authority and
    /// server name.
    pub fn through_token_proxy(mut self, proxy: &Url) -> Self {
        self.sent_to = joined(proxy, self.endpoint.path().trim_start_matches('/'));
        self
    }
}

/// An Azure managed identity.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The service that issues its tokens.
    pub host: IdentityHost,
    /// The client id of a user-assigned identity; `None` for the system-assigned one.
    pub client_id: Option<String>,
}

/// The service that issues a managed identity's tokens.
#[derive(Clone, Debug)]
pub enum IdentityHost {
    /// The instance metadata service of virtual machines.
    Imds {
        /// Without path: [`IdentityHost::IMDS`].
        address: Url,
    },
    /// App Service, Functions and Container Apps: `IDENTITY_ENDPOINT` and `IDENTITY_HEADER`.
    AppService {
        /// The whole address.
        endpoint: Url,
        /// Proves that the request comes from inside.
        header: Secret,
    },
}

impl IdentityHost {
    /// The address of the instance metadata service, the same on every machine.
    pub const IMDS: &'static str = "http://169.254.169.254";
}

/// What a token is for: one resource and `/.default`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope(String);

impl Scope {
    const SUFFIX: &'static str = "/.default";

    /// One resource followed by `/.default`, the only form that Entra accepts for apps
    /// (AADSTS70011, AADSTS700022).
    pub fn new(scope: &str) -> Self {
        Self(scope.to_owned())
    }

    /// As sent to the token endpoint.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The resource alone, for managed identities.
    pub fn resource(&self) -> &str {
        self.0.strip_suffix(Self::SUFFIX).unwrap_or(&self.0)
    }
}

/// Appends `path`, whether or not `base` ends with a slash.
fn joined(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(authority: &str) -> App {
        App::new(&Url::parse(authority).unwrap(), "contoso.com", "11aa")
    }

    #[test]
    fn an_authority_joins_the_same_with_and_without_a_slash() {
        for authority in [
            "https://login.example",
            "https://login.example/",
            "https://login.example//",
        ] {
            let endpoint = app(authority).endpoint.to_string();
            assert_eq!(endpoint, "https://login.example/contoso.com/oauth2/v2.0/token");
        }
        let under_a_path = app("http://127.0.0.1:99/entra/");
        assert_eq!(
            under_a_path.endpoint.as_str(),
            "http://127.0.0.1:99/entra/contoso.com/oauth2/v2.0/token"
        );
    }

    #[test]
    fn a_token_proxy_changes_the_address_but_not_the_audience() {
        let app = app("https://login.example");
        let proxied = app
            .clone()
            .through_token_proxy(&Url::parse("https://10.0.0.1:443/base").unwrap());
        assert_eq!(proxied.endpoint, app.endpoint);
        assert_eq!(
            proxied.sent_to.as_str(),
            "https://10.0.0.1/base/contoso.com/oauth2/v2.0/token"
        );
    }

    #[test]
    fn the_resource_of_a_scope_is_what_is_before_default() {
        let scope = Scope::new("https://api.securitycenter.microsoft.com/.default");
        assert_eq!(scope.resource(), "https://api.securitycenter.microsoft.com");
    }
}
