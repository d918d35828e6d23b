//! The rules of sign-in, without HTTP.

use std::time::Duration;

use jiff::Timestamp;

use super::assertion::{self, Federation};
use super::code::AadstsCode;
use super::form::Form;
use super::refusal::Refusal;
use super::token::{Claims, Mint};
use crate::secret::Secret;
use crate::sim::config::SignIn;
use crate::sim::record::Credential;
use crate::sim::rng::Rng;

/// The assertion type of RFC 7523.
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The state of sign-in: one tenant with one app registration.
#[derive(Debug)]
pub(in crate::sim) struct TokenService {
    pub(in crate::sim) tenant_id: String,
    pub(in crate::sim) client_id: String,
    pub(in crate::sim) secret: Secret,
    /// The previous secret, which is rejected as expired and not as unknown.
    pub(in crate::sim) old_secret: Option<Secret>,
    pub(in crate::sim) federation: Federation,
    pub(in crate::sim) rules: SignIn,
    pub(in crate::sim) lifetime: Duration,
    pub(in crate::sim) mint: Mint,
}

/// A token, and the values in its response.
#[derive(Debug)]
pub(in crate::sim) struct Issued {
    pub(in crate::sim) token: String,
    pub(in crate::sim) claims: Claims,
    /// In whole seconds from now; the token itself ends at a whole second, up to one second later.
    pub(in crate::sim) expires_in: i64,
    pub(in crate::sim) refresh_in: Option<u64>,
}

impl TokenService {
    /// Replaces the app's secret.
    pub(in crate::sim) fn change_secret(&mut self, secret: Secret) {
        self.old_secret = Some(std::mem::replace(&mut self.secret, secret));
    }

    /// The audience of a token: the scope without `/.default`.
    pub(in crate::sim) fn resource(&self) -> &str {
        self.rules.scope.strip_suffix("/.default").unwrap_or(&self.rules.scope)
    }

    /// Handles a `POST {tenant}/oauth2/v2.0/token` to `endpoint`.
    pub(super) fn decide(
        &mut self,
        (tenant, endpoint): (&str, &str),
        form: &Form,
        now: Timestamp,
        rng: &mut Rng,
    ) -> Result<Issued, Refusal> {
        self.check(tenant, form)?;
        self.check_credential(endpoint, form, now)?;
        Ok(self.issue(now, rng))
    }

    fn check(&self, tenant: &str, form: &Form) -> Result<(), Refusal> {
        if matches!(tenant, "common" | "organizations" | "consumers") {
            return Err(AadstsCode::NOT_MULTI_TENANT.into());
        }
        if !tenant.eq_ignore_ascii_case(&self.tenant_id) {
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
        if !client.eq_ignore_ascii_case(&self.client_id) {
            return Err(Refusal::about(AadstsCode::UNKNOWN_APP, client));
        }
        self.check_scope(form.require("scope")?)
    }

    fn check_scope(&self, scope: &str) -> Result<(), Refusal> {
        let code = match scope {
            scope if scope == self.rules.scope => return Ok(()),
            scope if scope.split_ascii_whitespace().count() > 1 => AadstsCode::TWO_RESOURCES,
            scope if !scope.ends_with("/.default") => AadstsCode::SCOPE_WITHOUT_DEFAULT,
            _ => AadstsCode::UNKNOWN_RESOURCE,
        };
        Err(Refusal::about(code, scope))
    }

    fn check_credential(&mut self, endpoint: &str, form: &Form, now: Timestamp) -> Result<(), Refusal> {
        match credential(form) {
            Credential::Secret => {
                let secret = form.require("client_secret")?;
                if secret == self.secret.expose() {
                    return Ok(());
                }
                let expired = self.old_secret.as_ref().is_some_and(|old| old.expose() == secret);
                let code = if expired {
                    AadstsCode::EXPIRED_SECRET
                } else {
                    AadstsCode::INVALID_SECRET
                };
                Err(Refusal::about(code, &self.client_id))
            }
            Credential::Certificate | Credential::Federated => {
                if form.get("client_assertion_type") != Some(JWT_BEARER) {
                    return Err(Refusal::about(AadstsCode::MISSING_FIELD, "client_assertion_type"));
                }
                let expected = assertion::Expected {
                    endpoint,
                    client_id: &self.client_id,
                    uses: self.rules.assertions,
                    now,
                };
                self.federation.check(form.require("client_assertion")?, &expected)
            }
            _ => Err(AadstsCode::NO_CREDENTIAL.into()),
        }
    }

    /// A token for the app, from now on.
    pub(super) fn issue(&self, now: Timestamp, rng: &mut Rng) -> Issued {
        let at = now.as_second();
        let lifetime = i64::try_from(self.lifetime.as_secs()).unwrap_or(i64::MAX);
        // A token never ends earlier than its response says; one without any life has expired at
        // once.
        let rounding = lifetime > 0 && now.subsec_nanosecond() > 0;
        let claims = Claims {
            aud: self.rules.audience.clone().unwrap_or_else(|| self.resource().into()),
            iss: format!("https://sts.windows.net/{}/", self.tenant_id),
            iat: at,
            nbf: at,
            exp: at.saturating_add(lifetime).saturating_add(rounding.into()),
            appid: self.client_id.clone(),
            tid: self.tenant_id.clone(),
            roles: self.rules.roles.clone(),
            uti: rng.hex(22),
            ver: "1.0".into(),
            xms_era: self.mint.era(),
        };
        Issued {
            token: self.mint.issue(&claims),
            claims,
            expires_in: lifetime,
            refresh_in: self.rules.refresh_in.map(|span| span.as_secs()),
        }
    }
}

pub(super) fn credential(form: &Form) -> Credential {
    match (form.get("client_secret"), form.get("client_assertion")) {
        // An assertion that cannot be parsed is treated as a certificate's, whose errors are
        // clearer.
        (None, Some(text)) if assertion::is_self_signed(text) => Credential::Certificate,
        (None, Some(_)) => Credential::Federated,
        (Some(_), _) => Credential::Secret,
        (None, None) => Credential::None,
    }
}
