//! Sign-in: Entra's token endpoint, and the two local forms of managed identity.

pub mod assertion;
mod discovery;
mod endpoint;
mod refusal;
mod token;

use secrecy::ExposeSecret as _;

use crate::config::Config;
use crate::entra::assertion::UsedAssertions;
use crate::entra::refusal::Refusal;
use crate::entra::token::Mint;
use crate::record::Credential;
use crate::rng::Rng;

pub use assertion::Certificate;
pub(super) use endpoint::Endpoint;
pub use refusal::AadstsCode;
pub(super) use token::Claims;

/// The assertion type of RFC 7523.
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The state of sign-in, besides the settings: one tenant with one app registration.
#[derive(Debug)]
pub(super) struct TokenService {
    used_assertions: UsedAssertions,
    pub(super) mint: Mint,
}

/// A token, and the values in its response.
#[derive(Debug)]
struct Issued {
    token: String,
    claims: Claims,
    /// In whole seconds from now; the token itself ends at a whole second, up to one second later.
    expires_in: i64,
    refresh_in: Option<u64>,
}

impl TokenService {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            used_assertions: UsedAssertions::default(),
            mint: Mint::new(config.seed),
        }
    }

    /// Handles a `POST {tenant}/oauth2/v2.0/token` to `endpoint`.
    fn decide(
        &mut self,
        config: &Config,
        (tenant, endpoint): (&str, &str),
        form: &Form,
        rng: &mut Rng,
    ) -> Result<Issued, Refusal> {
        check(config, tenant, form)?;
        self.check_credential(config, endpoint, form)?;
        Ok(self.issue(config, rng))
    }

    fn check_credential(&mut self, config: &Config, endpoint: &str, form: &Form) -> Result<(), Refusal> {
        match credential(form) {
            Credential::Secret => {
                let secret = form.require("client_secret")?;
                if secret == config.client_secret.expose_secret() {
                    return Ok(());
                }
                let expired = config
                    .expired_secret
                    .as_ref()
                    .is_some_and(|old| old.expose_secret() == secret);
                let code = if expired {
                    AadstsCode::EXPIRED_SECRET
                } else {
                    AadstsCode::INVALID_SECRET
                };
                Err(Refusal::about(code, &config.client_id))
            }
            Credential::Certificate | Credential::Federated => {
                if form.get("client_assertion_type") != Some(JWT_BEARER) {
                    return Err(Refusal::about(AadstsCode::MISSING_FIELD, "client_assertion_type"));
                }
                let assertion = form.require("client_assertion")?;
                assertion::check(assertion, endpoint, config, &mut self.used_assertions)
            }
            _ => Err(AadstsCode::NO_CREDENTIAL.into()),
        }
    }

    /// A token for the app, from now on.
    fn issue(&self, config: &Config, rng: &mut Rng) -> Issued {
        let (now, sign_in) = (jiff::Timestamp::now(), &config.sign_in);
        let at = now.as_second();
        let lifetime = i64::try_from(config.token_lifetime.as_secs()).unwrap_or(i64::MAX);
        // A token never ends earlier than its response says; one without any life has expired at
        // once.
        let rounding = lifetime > 0 && now.subsec_nanosecond() > 0;
        let claims = Claims {
            aud: sign_in.audience.clone().unwrap_or_else(|| sign_in.resource().into()),
            iss: format!("https://sts.windows.net/{}/", config.tenant_id),
            iat: at,
            nbf: at,
            exp: at.saturating_add(lifetime).saturating_add(rounding.into()),
            appid: config.client_id.clone(),
            tid: config.tenant_id.clone(),
            roles: sign_in.roles.clone(),
            uti: rng.hex(22),
            ver: "1.0".into(),
            xms_era: self.mint.era,
        };
        Issued {
            token: self.mint.issue(&claims),
            claims,
            expires_in: lifetime,
            refresh_in: sign_in.refresh_in.map(|span| span.as_secs()),
        }
    }
}

fn check(config: &Config, tenant: &str, form: &Form) -> Result<(), Refusal> {
    if matches!(tenant, "common" | "organizations" | "consumers") {
        return Err(AadstsCode::NOT_MULTI_TENANT.into());
    }
    if !tenant.eq_ignore_ascii_case(&config.tenant_id) {
        return Err(Refusal::about(AadstsCode::UNKNOWN_TENANT, tenant));
    }
    let grant = form.require("grant_type")?;
    if grant != "client_credentials" {
        return Err(Refusal::about(AadstsCode::UNSUPPORTED_GRANT, grant));
    }
    if form.get("resource").is_some() {
        return Err(AadstsCode::RESOURCE_NOT_SUPPORTED.into());
    }
    let client = form.require("client_id")?;
    if !client.eq_ignore_ascii_case(&config.client_id) {
        return Err(Refusal::about(AadstsCode::UNKNOWN_APP, client));
    }
    check_scope(&config.sign_in.scope, form.require("scope")?)
}

fn check_scope(known: &str, scope: &str) -> Result<(), Refusal> {
    let code = match scope {
        scope if scope == known => return Ok(()),
        scope if scope.split_ascii_whitespace().count() > 1 => AadstsCode::TWO_RESOURCES,
        scope if !scope.ends_with("/.default") => AadstsCode::SCOPE_WITHOUT_DEFAULT,
        _ => AadstsCode::UNKNOWN_RESOURCE,
    };
    Err(Refusal::about(code, scope))
}

fn credential(form: &Form) -> Credential {
    match (form.get("client_secret"), form.get("client_assertion")) {
        // An assertion that cannot be parsed is treated as a certificate's, whose errors are
        // clearer.
        (None, Some(text)) if assertion::is_self_signed(text) => Credential::Certificate,
        (None, Some(_)) => Credential::Federated,
        (Some(_), _) => Credential::Secret,
        (None, None) => Credential::None,
    }
}

/// Decoded fields in order, without duplicates.
#[derive(Debug, Default)]
struct Form(Vec<(String, String)>);

impl Form {
    /// Reads `application/x-www-form-urlencoded`, or a query.
    fn parse(encoded: &[u8]) -> Result<Self, Refusal> {
        let fields: Vec<(String, String)> = url::form_urlencoded::parse(encoded).into_owned().collect();
        let mut names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Refusal::about(AadstsCode::DUPLICATED_FIELD, twice[0]));
        }
        Ok(Self(fields))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// A field that must be there and not be empty.
    fn require(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| Refusal::about(AadstsCode::MISSING_FIELD, name))
    }
}
