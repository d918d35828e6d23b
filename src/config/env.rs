//! The process environment: the only place that reads it, and every name that is read.
//!
//! The names of our own keys are generated ([`super::Key::variable`]); all others are constants in [`variable`].

use std::collections::BTreeMap;
use std::fmt;

use super::key::Key;
use crate::secret::Secret;

/// The names of the variables that are no twin of a key.
pub mod variable {
    /// Ours: the configuration file, when `--config` is absent.
    pub const CONFIG: &str = "DEFENDER_GATEWAY_CONFIG";
    /// The Entra tenant; set by the workload-identity webhook.
    pub const TENANT_ID: &str = "AZURE_TENANT_ID";
    /// The application or user-assigned identity; set by the workload-identity webhook.
    pub const CLIENT_ID: &str = "AZURE_CLIENT_ID";
    /// The application's secret.
    pub const CLIENT_SECRET: &str = "AZURE_CLIENT_SECRET";
    /// A PEM file with the application's certificate and key.
    pub const CLIENT_CERTIFICATE_PATH: &str = "AZURE_CLIENT_CERTIFICATE_PATH";
    /// The projected Kubernetes token; set by the workload-identity webhook.
    pub const FEDERATED_TOKEN_FILE: &str = "AZURE_FEDERATED_TOKEN_FILE";
    /// The sign-in host, with or without scheme and trailing slash; set by the workload-identity webhook.
    pub const AUTHORITY_HOST: &str = "AZURE_AUTHORITY_HOST";
    /// App Service's managed-identity endpoint.
    pub const IDENTITY_ENDPOINT: &str = "IDENTITY_ENDPOINT";
    /// The secret that App Service's endpoint wants to see.
    pub const IDENTITY_HEADER: &str = "IDENTITY_HEADER";
    /// Replaces the metadata service's address `http://169.254.169.254`.
    pub const POD_IDENTITY_AUTHORITY_HOST: &str = "AZURE_POD_IDENTITY_AUTHORITY_HOST";
    /// Where workload-identity token requests go instead of the sign-in host.
    pub const TOKEN_PROXY: &str = "AZURE_KUBERNETES_TOKEN_PROXY";
    /// A PEM file that the token proxy's certificate is checked against.
    pub const TOKEN_PROXY_CA_FILE: &str = "AZURE_KUBERNETES_CA_FILE";
    /// The same as PEM text.
    pub const TOKEN_PROXY_CA_DATA: &str = "AZURE_KUBERNETES_CA_DATA";
    /// The server name that the token proxy is asked for.
    pub const TOKEN_PROXY_SNI_NAME: &str = "AZURE_KUBERNETES_SNI_NAME";
    /// The proxy for `https` connections; the lower-case name is read too.
    pub const HTTPS_PROXY: &str = "HTTPS_PROXY";
    /// See [`HTTPS_PROXY`].
    pub const HTTPS_PROXY_LOWER: &str = "https_proxy";
    /// Hosts that are reached without the proxy; the lower-case name is read too.
    pub const NO_PROXY: &str = "NO_PROXY";
    /// See [`NO_PROXY`].
    pub const NO_PROXY_LOWER: &str = "no_proxy";
    /// Where traces go.
    pub const OTLP_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    /// How many threads serve; tokio's own name for it.
    pub const WORKER_THREADS: &str = "TOKIO_WORKER_THREADS";

    /// All of the above.
    pub const ALL: [&str; 20] = [
        CONFIG,
        TENANT_ID,
        CLIENT_ID,
        CLIENT_SECRET,
        CLIENT_CERTIFICATE_PATH,
        FEDERATED_TOKEN_FILE,
        AUTHORITY_HOST,
        IDENTITY_ENDPOINT,
        IDENTITY_HEADER,
        POD_IDENTITY_AUTHORITY_HOST,
        TOKEN_PROXY,
        TOKEN_PROXY_CA_FILE,
        TOKEN_PROXY_CA_DATA,
        TOKEN_PROXY_SNI_NAME,
        HTTPS_PROXY,
        HTTPS_PROXY_LOWER,
        NO_PROXY,
        NO_PROXY_LOWER,
        OTLP_ENDPOINT,
        WORKER_THREADS,
    ];
}

/// The variables that matter here, as they were at one moment. Values are kept as secrets, because some are.
#[derive(Clone, Default)]
pub struct Environment {
    values: BTreeMap<String, Option<Secret>>,
}

impl Environment {
    /// The process's own environment. Variables that nobody here reads are not copied.
    #[must_use]
    pub fn real() -> Self {
        let values = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            let ours = name.starts_with(Key::PREFIX) || variable::ALL.contains(&name.as_str());
            ours.then(|| (name, value.into_string().ok().map(Secret::new)))
        });
        Self {
            values: values.collect(),
        }
    }

    /// The value of `name`; `None` when it is not set, empty, or not UTF-8.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&Secret> {
        let value = self.values.get(name)?.as_ref()?;
        (!value.expose().is_empty()).then_some(value)
    }

    /// How many worker threads the operator wants: tokio's own `TOKIO_WORKER_THREADS`.
    #[must_use]
    pub fn workers(&self) -> Option<usize> {
        self.value(variable::WORKER_THREADS)?.expose().parse().ok()
    }

    /// All variables in order of their names; a value is `None` when it is not UTF-8.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.values
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_ref().map(Secret::expose)))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let values = variables
            .into_iter()
            .map(|(name, value)| (name.into(), Some(Secret::new(value.into()))));
        Self {
            values: values.collect(),
        }
    }
}

/// Names only.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_names_only_and_empty_is_absent() {
        let env = Environment::from_iter([("AZURE_CLIENT_SECRET", "hunter2"), ("NO_PROXY", "")]);
        assert_eq!(format!("{env:?}"), r#"{"AZURE_CLIENT_SECRET", "NO_PROXY"}"#);
        assert!(env.value("NO_PROXY").is_none());
        assert_eq!(env.value("AZURE_CLIENT_SECRET").map(Secret::expose), Some("hunter2"));
    }
}
