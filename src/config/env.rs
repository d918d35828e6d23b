//! The process environment: the only place that reads it, and every name that is read.
//!
//! The names of our own keys are generated ([`super::Key::variable`]); all others are constants in
//! [`variable`].

use std::collections::BTreeMap;
use std::fmt;

use super::key::Key;
use crate::secret::Secret;

/// The names of the variables that belong to no key.
pub mod variable {
    macro_rules! variables {
        ($($(#[$doc:meta])+ $name:ident = $value:literal,)+) => {
            $($(#[$doc])+ pub const $name: &str = $value;)+

            /// All of them.
            pub const ALL: [&str; [$($value),+].len()] = [$($value),+];
        };
    }

    variables! {
        /// Ours: the configuration file, when `--config` is absent.
        CONFIG = "DEFENDER_GATEWAY_CONFIG",
        /// The Entra tenant; set by the workload-identity webhook.
        TENANT_ID = "AZURE_TENANT_ID",
        /// The application or user-assigned identity; set by the workload-identity webhook.
        CLIENT_ID = "AZURE_CLIENT_ID",
        /// The application's secret.
        CLIENT_SECRET = "AZURE_CLIENT_SECRET",
        /// A PEM file with the application's certificate and key.
        CLIENT_CERTIFICATE_PATH = "AZURE_CLIENT_CERTIFICATE_PATH",
        /// The projected Kubernetes token; set by the workload-identity webhook.
        FEDERATED_TOKEN_FILE = "AZURE_FEDERATED_TOKEN_FILE",
        /// The sign-in host, with or without scheme and trailing slash; set by the
        /// workload-identity webhook.
        AUTHORITY_HOST = "AZURE_AUTHORITY_HOST",
        /// App Service's managed-identity endpoint.
        IDENTITY_ENDPOINT = "IDENTITY_ENDPOINT",
        /// The secret that App Service's endpoint requires.
        IDENTITY_HEADER = "IDENTITY_HEADER",
        /// Set by Service Fabric, whose managed-identity endpoint is another.
        IDENTITY_SERVER_THUMBPRINT = "IDENTITY_SERVER_THUMBPRINT",
        /// Replaces the metadata service's address `http://169.254.169.254`.
        POD_IDENTITY_AUTHORITY_HOST = "AZURE_POD_IDENTITY_AUTHORITY_HOST",
        /// The address that workload-identity token requests are sent to, instead of the sign-in
        /// host.
        TOKEN_PROXY = "AZURE_KUBERNETES_TOKEN_PROXY",
        /// A PEM file that the token proxy's certificate is checked against.
        TOKEN_PROXY_CA_FILE = "AZURE_KUBERNETES_CA_FILE",
        /// The same as PEM text.
        TOKEN_PROXY_CA_DATA = "AZURE_KUBERNETES_CA_DATA",
        /// The server name that is requested from the token proxy.
        TOKEN_PROXY_SNI_NAME = "AZURE_KUBERNETES_SNI_NAME",
        /// The proxy for `https` connections; the lower-case name is read too.
        HTTPS_PROXY = "HTTPS_PROXY",
        /// See [`HTTPS_PROXY`].
        HTTPS_PROXY_LOWER = "https_proxy",
        /// Hosts that are reached without the proxy; the lower-case name is read too.
        NO_PROXY = "NO_PROXY",
        /// See [`NO_PROXY`].
        NO_PROXY_LOWER = "no_proxy",
        /// The OTLP endpoint of all telemetry; `/v1/traces` is added.
        OTLP_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT",
        /// The OTLP endpoint of traces, used as it is.
        OTLP_TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        /// Header fields for the collector, such as an API key: `name=value,…`, percent-encoded.
        OTLP_HEADERS = "OTEL_EXPORTER_OTLP_HEADERS",
        /// The same for traces alone, which takes precedence.
        OTLP_TRACES_HEADERS = "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        /// How telemetry is sent; here always `http/protobuf`.
        OTLP_PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL",
        /// The same for traces alone, which takes precedence.
        OTLP_TRACES_PROTOCOL = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        /// `none` turns traces off.
        TRACES_EXPORTER = "OTEL_TRACES_EXPORTER",
        /// `true` turns traces off.
        OTEL_DISABLED = "OTEL_SDK_DISABLED",
        /// Which requests are traced.
        TRACES_SAMPLER = "OTEL_TRACES_SAMPLER",
        /// The part of all requests, 0 to 1, for the samplers that need it.
        TRACES_SAMPLER_ARG = "OTEL_TRACES_SAMPLER_ARG",
        /// `service.name` in traces.
        SERVICE_NAME = "OTEL_SERVICE_NAME",
        /// Further attributes of this process in traces: `name=value,…`, percent-encoded.
        RESOURCE_ATTRIBUTES = "OTEL_RESOURCE_ATTRIBUTES",
        /// The number of worker threads, by tokio's own name.
        WORKER_THREADS = "TOKIO_WORKER_THREADS",
    }
}

/// The relevant variables, as they were at one moment. Values are kept as secrets, because some
/// are.
#[derive(Clone, Default)]
pub struct Environment {
    values: BTreeMap<String, Option<Secret>>,
}

impl Environment {
    /// The process's own environment. Other variables are not copied.
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
    pub fn value(&self, name: &str) -> Option<&Secret> {
        let value = self.values.get(name)?.as_ref()?;
        (!value.expose().is_empty()).then_some(value)
    }

    /// The first of `names` that has a value, and its value.
    pub(super) fn first(&self, names: &[&'static str]) -> Option<(&'static str, &Secret)> {
        names.iter().find_map(|name| Some((*name, self.value(name)?)))
    }

    /// The number of worker threads that the operator set: tokio's own `TOKIO_WORKER_THREADS`.
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
