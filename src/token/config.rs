//! The settings of sign-in. They are checked: values that exist can work.

use std::path::PathBuf;

use url::Url;

use crate::secret::Secret;
use crate::telemetry::named_enum;

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
    client_id: String,
    endpoint: Url,
    sent_to: Url,
}

impl App {
    /// `authority` is the sign-in service's address, with or without a slash at its end:
    /// `https://login.microsoftonline.com`.
    ///
    /// # Errors
    ///
    /// When the authority is not `https` (or loopback), or when an id is empty, has characters that
    /// no id has, or names no single tenant.
    pub fn try_new(authority: &Url, tenant_id: &str, client_id: &str) -> Result<Self, InvalidApp> {
        check_address("authority", authority)?;
        check_id("tenant_id", tenant_id)?;
        check_id("client_id", client_id)?;
        // These names mean any tenant, in which an app cannot sign in by itself (AADSTS50194).
        if ["common", "organizations", "consumers"].contains(&tenant_id.to_ascii_lowercase().as_str()) {
            return Err(InvalidApp::NoTenant);
        }
        let endpoint = joined(authority, &format!("{tenant_id}/oauth2/v2.0/token"));
        Ok(Self {
            client_id: client_id.to_owned(),
            sent_to: endpoint.clone(),
            endpoint,
        })
    }

    /// Sends token requests to `proxy` instead (`AZURE_KUBERNETES_TOKEN_PROXY`): the endpoint's
    /// path is appended to the proxy's. The exchange handles the proxy's certificate authority and
    /// server name.
    ///
    /// # Errors
    ///
    /// When the address is not `https` (or loopback), or has a query, a fragment or a user name.
    pub fn through_token_proxy(mut self, proxy: &Url) -> Result<Self, InvalidApp> {
        check_address("token proxy", proxy)?;
        self.sent_to = joined(proxy, self.endpoint.path().trim_start_matches('/'));
        Ok(self)
    }

    /// The app's id.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// The token endpoint, which is also the audience of the gateway's assertions.
    pub fn endpoint(&self) -> &Url {
        &self.endpoint
    }

    /// The address that requests are sent to: the token endpoint, unless there is a token proxy.
    pub fn sent_to(&self) -> &Url {
        &self.sent_to
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

    /// A scope as Entra accepts it for apps.
    ///
    /// # Errors
    ///
    /// When it is not one resource followed by `/.default` (AADSTS70011, AADSTS700022).
    pub fn try_new(scope: &str) -> Result<Self, InvalidApp> {
        let resource = scope.strip_suffix(Self::SUFFIX).unwrap_or_default();
        if resource.is_empty() || !scope.chars().all(|c| c.is_ascii_graphic()) {
            return Err(InvalidApp::Scope {
                value: scope.to_owned(),
            });
        }
        Ok(Self(scope.to_owned()))
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

/// A value that could never work.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidApp {
    /// A required id is missing.
    #[error("{key} is empty")]
    Empty {
        /// The key.
        key: &'static str,
    },
    /// An id with characters that no id has.
    #[error("{key} may hold letters, digits, '-', '.' and '_' only, not {value:?}")]
    Characters {
        /// The key.
        key: &'static str,
        /// What was given.
        value: String,
    },
    /// `common` and similar names.
    #[error(
        "tenant_id must name one tenant by id or domain; an app cannot sign in to \"common\", \"organizations\" or \"consumers\""
    )]
    NoTenant,
    /// An address that a secret must not be sent to.
    #[error("the {key} must be an https address without user name, query and fragment, not {value:?}")]
    Address {
        /// The purpose of the address.
        key: &'static str,
        /// The address without user name and password.
        value: String,
    },
    /// A scope that Entra would reject.
    #[error("scope must be one resource followed by \"/.default\", not {value:?}")]
    Scope {
        /// What was given.
        value: String,
    },
}

/// Appends `path`, whether or not `base` ends with a slash.
fn joined(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url
}

fn check_id(key: &'static str, value: &str) -> Result<(), InvalidApp> {
    if value.is_empty() {
        return Err(InvalidApp::Empty { key });
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    // Dots alone would be path segments with a special meaning.
    if !value.chars().all(plain) || value.chars().all(|c| c == '.') {
        return Err(InvalidApp::Characters {
            key,
            value: value.to_owned(),
        });
    }
    Ok(())
}

fn check_address(key: &'static str, url: &Url) -> Result<(), InvalidApp> {
    let loopback = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    let safe = url.scheme() == "https" || (url.scheme() == "http" && loopback);
    let plain =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    if safe && plain {
        return Ok(());
    }
    let host = url.host_str().unwrap_or_default();
    Err(InvalidApp::Address {
        key,
        value: format!("{}://{host}{}", url.scheme(), url.path()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(authority: &str) -> Result<App, InvalidApp> {
        App::try_new(&Url::parse(authority).unwrap(), "contoso.com", "11aa")
    }

    #[test]
    fn an_authority_joins_the_same_with_and_without_a_slash() {
        for authority in [
            "https://login.example",
            "https://login.example/",
            "https://login.example//",
        ] {
            let endpoint = app(authority).unwrap().endpoint().to_string();
            assert_eq!(endpoint, "https://login.example/contoso.com/oauth2/v2.0/token");
        }
        let under_a_path = app("http://127.0.0.1:99/entra/").unwrap();
        assert_eq!(
            under_a_path.endpoint().as_str(),
            "http://127.0.0.1:99/entra/contoso.com/oauth2/v2.0/token"
        );
    }

    #[test]
    fn secrets_go_to_https_or_loopback_only() {
        assert!(app("http://localhost:1").is_ok());
        assert!(app("http://[::1]:1").is_ok());
        for bad in [
            "http://login.example",
            "ftp://login.example",
            "https://login.example/?a=b",
        ] {
            assert!(matches!(app(bad), Err(InvalidApp::Address { .. })), "{bad}");
        }
        let error = app("https://user:hunter2@login.example").unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_token_proxy_changes_the_address_but_not_the_audience() {
        let app = app("https://login.example").unwrap();
        let proxied = app
            .clone()
            .through_token_proxy(&Url::parse("https://10.0.0.1:443/base").unwrap());
        let proxied = proxied.unwrap();
        assert_eq!(proxied.endpoint(), app.endpoint());
        assert_eq!(
            proxied.sent_to().as_str(),
            "https://10.0.0.1/base/contoso.com/oauth2/v2.0/token"
        );
        assert!(
            app.through_token_proxy(&Url::parse("http://10.0.0.1").unwrap())
                .is_err()
        );
    }

    #[test]
    fn ids_that_cannot_be_ids_are_refused() {
        let authority = Url::parse("https://login.example").unwrap();
        let tenant = |id: &str| App::try_new(&authority, id, "app").unwrap_err();
        assert_eq!(tenant(""), InvalidApp::Empty { key: "tenant_id" });
        assert_eq!(tenant("Common"), InvalidApp::NoTenant);
        for bad in ["a/b", "..", "a b", "a?b", "tenant\n"] {
            assert!(matches!(tenant(bad), InvalidApp::Characters { .. }), "{bad:?}");
        }
        assert!(App::try_new(&authority, "tenant", "").is_err());
    }

    #[test]
    fn a_scope_is_one_resource_and_default() {
        let scope = Scope::try_new("https://api.securitycenter.microsoft.com/.default").unwrap();
        assert_eq!(scope.resource(), "https://api.securitycenter.microsoft.com");
        for bad in ["", "/.default", "https://a", "https://a/.default https://b/.default"] {
            assert!(Scope::try_new(bad).is_err(), "{bad:?}");
        }
    }
}
