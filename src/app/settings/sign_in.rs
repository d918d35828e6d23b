//! Whose token the gateway has, and how it is obtained.

use std::time::Duration;

use url::Url;

use crate::app::Error;
use crate::config::{self, Credential, Resolved};
use crate::token;

/// Longest token exchange. Sign-in answers in well under a second; ten cover a bad day and keep
/// callers from waiting in vain.
pub(in crate::app) const SIGN_IN_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest sign-in answer. A token has a few kB.
pub(in crate::app) const SIGN_IN_BYTES: usize = 256 * 1024;

pub(in crate::app) fn token(config: &config::Credentials) -> Result<token::Config, Error> {
    let scope = token::Scope::try_new(&config.scope).map_err(Error::of("the scope"))?;
    Ok(token::Config {
        credential: credential(config)?,
        scope,
    })
}

/// Whose token the gateway has: what it is answered is meant for that application alone.
pub(in crate::app) fn identity(config: &Resolved) -> (&Url, Option<&str>, Option<&str>) {
    let credentials = &config.credentials;
    let (tenant_id, client_id) = (&credentials.tenant_id, &credentials.client_id);
    (&credentials.authority, tenant_id.as_deref(), client_id.as_deref())
}

fn credential(config: &config::Credentials) -> Result<token::Credential, Error> {
    let app = || {
        let (tenant_id, client_id) = (config.tenant_id.as_deref(), config.client_id.as_deref());
        token::App::try_new(
            &config.authority,
            tenant_id.unwrap_or_default(),
            client_id.unwrap_or_default(),
        )
        .map_err(Error::of("the app registration"))
    };
    Ok(match &config.credential {
        Credential::ClientSecret(secret) => token::Credential::ClientSecret {
            app: app()?,
            secret: secret.clone(),
        },
        Credential::Certificate(files) => token::Credential::Certificate {
            app: app()?,
            files: files.clone(),
        },
        Credential::WorkloadIdentity { token_file, proxy } => {
            let app = match proxy {
                Some(proxy) => app()?
                    .through_token_proxy(&proxy.url)
                    .map_err(Error::of("the token proxy"))?,
                None => app()?,
            };
            token::Credential::WorkloadIdentity {
                app,
                token_file: token_file.clone(),
            }
        }
        Credential::ManagedIdentity(host) => token::Credential::ManagedIdentity(token::Identity {
            client_id: config.client_id.clone(),
            host: host.clone(),
        }),
    })
}
