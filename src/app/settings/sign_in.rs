//! Whose token the gateway has, and how it is obtained.

use std::time::Duration;

use url::Url;

use crate::config::{self, Credential, Resolved};
use crate::token;

/// Longest token exchange. Sign-in answers in well under a second; ten cover a bad day and keep
/// callers from waiting in vain.
pub(in crate::app) const SIGN_IN_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest sign-in answer. A token has a few kB.
pub(in crate::app) const SIGN_IN_BYTES: usize = 256 * 1024;

pub(in crate::app) fn token(config: &config::Credentials) -> token::Config {
    token::Config {
        credential: credential(config),
        scope: token::Scope::new(&config.scope),
    }
}

/// Whose token the gateway has: what it is answered is meant for that application alone.
pub(in crate::app) fn identity(config: &Resolved) -> (&Url, Option<&str>, Option<&str>) {
    let credentials = &config.credentials;
    let (tenant_id, client_id) = (&credentials.tenant_id, &credentials.client_id);
    (&credentials.authority, tenant_id.as_deref(), client_id.as_deref())
}

fn credential(config: &config::Credentials) -> token::Credential {
    let id = |id: &Option<String>| id.clone().unwrap_or_default();
    let app = token::App::new(&config.authority, &id(&config.tenant_id), &id(&config.client_id));
    match &config.credential {
        Credential::ClientSecret(secret) => token::Credential::ClientSecret {
            app,
            secret: secret.clone(),
        },
        Credential::Certificate(files) => token::Credential::Certificate {
            app,
            files: files.clone(),
        },
        Credential::WorkloadIdentity { token_file, proxy } => token::Credential::WorkloadIdentity {
            app: match proxy {
                Some(proxy) => app.through_token_proxy(&proxy.url),
                None => app,
            },
            token_file: token_file.clone(),
        },
        Credential::ManagedIdentity(host) => token::Credential::ManagedIdentity(token::Identity {
            client_id: config.client_id.clone(),
            host: host.clone(),
        }),
    }
}
