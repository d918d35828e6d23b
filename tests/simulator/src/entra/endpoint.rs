//! Sign-in over HTTP: the token endpoint, and managed identity as the metadata service of a virtual
//! machine and App Service have it.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{Method, Request, StatusCode, header};
use hyper::body::Incoming;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::config::{Config, IDENTITY_HEADER};
use crate::entra::Form;
use crate::entra::discovery;
use crate::entra::refusal::{AadstsCode, Refusal};
use crate::entra::{Issued, credential};
use crate::fault::SignInFault;
use crate::record::{Credential, TokenRecord};
use crate::sim_state::SimState;
use crate::wire::{Handler, Manner, Reply, Unread, field, read};

/// Far above any honest form; the real bound is not documented.
const LONGEST_FORM: usize = 64 * 1024;

pub(super) const JSON: &str = "application/json; charset=utf-8";

/// The sign-in host.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) sim_state: Arc<SimState>,
    /// Its own address, set when it listens: certificate assertions name it as their audience.
    pub(crate) addr: OnceLock<SocketAddr>,
}

/// A response, and what is recorded about it.
struct Outcome {
    reply: Reply,
    code: Option<u32>,
    issued: Option<Issued>,
}

/// The form, or why it is invalid.
type Read = Result<Form, Refusal>;

impl Outcome {
    /// A response with a token.
    fn token(document: &Value, issued: Issued) -> Self {
        Self {
            reply: Reply::new(StatusCode::OK, JSON, document.to_string()),
            code: None,
            issued: Some(issued),
        }
    }

    /// A response without a token.
    fn refused(reply: Reply) -> Self {
        Self {
            reply,
            code: None,
            issued: None,
        }
    }
}

impl Handler for Endpoint {
    fn answer(self: Arc<Self>, request: Request<Incoming>) -> BoxFuture<'static, Reply> {
        Box::pin(async move { self.respond(request).await })
    }

    fn setup(&self) -> Duration {
        self.sim_state.state().config.sign_in.latency
    }
}

impl Endpoint {
    async fn respond(&self, request: Request<Incoming>) -> Reply {
        let (head, body) = request.into_parts();
        let at = self.sim_state.elapsed();
        let body = match read(body, LONGEST_FORM).await {
            Ok(body) => body,
            Err(Unread::TooLong) => return Reply::front_end_page(StatusCode::PAYLOAD_TOO_LARGE),
            Err(Unread::Broken) => return Reply::front_end_page(StatusCode::BAD_REQUEST).delivered(Manner::Cut),
        };
        let form = if is_form(&head) {
            Form::parse(&body)
        } else {
            Ok(Form::default())
        };
        let (latency, fault) = {
            let mut state = self.sim_state.state();
            let state = &mut *state;
            let sign_in = &mut state.config.sign_in;
            (sign_in.latency, sign_in.faults.draw(&mut state.rng))
        };
        let credential = presented(&head, &form);
        self.sim_state.rest(latency).await;
        if fault.is_none()
            && let Some(reply) = self.discovered(&head)
        {
            return reply;
        }
        let mut outcome = match fault {
            Some(fault) => self.faulty(fault, &head, form),
            None => self.route(&head, form),
        };
        if let Some(SignInFault::Slow(over)) = fault {
            self.sim_state.rest(over).await;
        }
        outcome.reply = outcome.reply.with(header::CACHE_CONTROL, "no-store, no-cache");
        let issued = outcome
            .issued
            .map(|issued| (issued.claims.uti, SecretString::from(issued.token)));
        let (token_id, token) = issued.unzip();
        self.sim_state.journal.signed_in(TokenRecord {
            at,
            credential,
            status: outcome.reply.status(),
            code: outcome.code,
            token_id,
            token,
            user_agent: field(&head, "user-agent"),
        });
        outcome.reply
    }

    fn faulty(&self, fault: SignInFault, head: &Parts, form: Read) -> Outcome {
        let nothing = || Reply::front_end_page(StatusCode::SERVICE_UNAVAILABLE);
        let reply = match fault {
            SignInFault::Slow(_) => return self.route(head, form),
            SignInFault::Refuse(code) => return self.refuse(&code.into()),
            SignInFault::Throttle => Reply::new(StatusCode::TOO_MANY_REQUESTS, "text/plain", "Too Many Requests")
                .with(header::RETRY_AFTER, "60"),
            SignInFault::Status(status) => Reply::front_end_page(status),
            SignInFault::Hang => nothing().delivered(Manner::Never),
            SignInFault::Cut => nothing().delivered(Manner::Cut),
            SignInFault::Rubbish => Reply::new(StatusCode::OK, JSON, "<!DOCTYPE html><title>Sign in</title>"),
            SignInFault::NoToken => Reply::new(StatusCode::OK, JSON, r#"{"token_type":"Bearer","expires_in":3599}"#),
            SignInFault::Redirect => Reply::redirect(),
        };
        Outcome::refused(reply)
    }

    fn route(&self, head: &Parts, form: Read) -> Outcome {
        let path = head.uri.path();
        if path == IMDS_PATH || path == APP_SERVICE_PATH {
            return managed_identity(&self.sim_state, head);
        }
        match path.strip_prefix('/').and_then(|path| path.split_once('/')) {
            Some((tenant, "oauth2/v2.0/token")) => self.token(tenant, head, form),
            _ => Outcome::refused(Reply::front_end_page(StatusCode::NOT_FOUND)),
        }
    }

    /// The response to a request for a discovery document; `None` for other requests.
    fn discovered(&self, head: &Parts) -> Option<Reply> {
        if !matches!(head.method, Method::GET | Method::HEAD) {
            return None;
        }
        let mut state = self.sim_state.state();
        Some(
            match discovery::answer(head, &self.base(head), &state.config.tenant_id)? {
                Ok(document) => Reply::new(StatusCode::OK, JSON, document.to_string()),
                Err(refusal) => refusal.reply(&mut state),
            },
        )
    }

    /// The address by which the client reached this host.
    fn base(&self, head: &Parts) -> String {
        let own = self.addr.get().map_or_else(String::new, ToString::to_string);
        discovery::base(head, &own)
    }

    fn token(&self, tenant: &str, head: &Parts, form: Read) -> Outcome {
        if head.method != Method::POST {
            return self.refuse(&AadstsCode::ONLY_POST.into());
        }
        let endpoint = format!("{}{}", self.base(head), head.uri.path());
        let verdict = form.and_then(|form| {
            let mut state = self.sim_state.state();
            let state = &mut *state;
            state
                .token_service
                .decide(&state.config, (tenant, &endpoint), &form, &mut state.rng)
        });
        match verdict {
            Ok(issued) => Outcome::token(&document(&issued), issued),
            Err(refusal) => self.refuse(&refusal),
        }
    }

    fn refuse(&self, refusal: &Refusal) -> Outcome {
        Outcome {
            reply: refusal.reply(&mut self.sim_state.state()),
            code: Some(refusal.code.number()),
            issued: None,
        }
    }
}

/// The credential that the client presents, valid or not.
fn presented(head: &Parts, form: &Read) -> Credential {
    match (head.uri.path(), form) {
        (IMDS_PATH, _) => Credential::Imds,
        (APP_SERVICE_PATH, _) => Credential::AppService,
        (_, Ok(form)) => credential(form),
        (_, Err(_)) => Credential::None,
    }
}

/// If the content type is not a form's, the service sees none of the fields.
fn is_form(head: &Parts) -> bool {
    let content_type = field(head, "content-type").unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// The JSON of a token, with numbers as numbers.
fn document(issued: &Issued) -> Value {
    let lifetime = issued.expires_in;
    let mut document = json!({
        "token_type": "Bearer",
        "expires_in": lifetime,
        "ext_expires_in": lifetime,
        "access_token": issued.token,
    });
    if let Some(refresh_in) = issued.refresh_in {
        document["refresh_in"] = refresh_in.into();
    }
    document
}

/// The path of a virtual machine's metadata service.
const IMDS_PATH: &str = "/metadata/identity/oauth2/token";

/// The path of the simulated App Service; the real one is named in `IDENTITY_ENDPOINT`.
const APP_SERVICE_PATH: &str = "/msi/token";

/// Versions of the metadata service's interface that are in use.
const IMDS_VERSIONS: [&str; 3] = ["2018-02-01", "2019-08-01", "2021-02-01"];

/// The version of the App Service form.
const APP_SERVICE_VERSION: &str = "2019-08-01";

/// Handles a request for a token of the identity.
fn managed_identity(sim_state: &SimState, head: &Parts) -> Outcome {
    let mut state = sim_state.state();
    let state = &mut *state;
    if let Err((status, error, text)) = check_managed(&state.config, head) {
        let document = json!({"error": error, "error_description": text});
        return Outcome::refused(Reply::new(status, JSON, document.to_string()));
    }
    let issued = state.token_service.issue(&state.config, &mut state.rng);
    let claims = &issued.claims;
    let document = json!({
        "access_token": issued.token,
        "client_id": claims.appid,
        "expires_in": issued.expires_in.to_string(),
        "expires_on": claims.exp.to_string(),
        "ext_expires_in": issued.expires_in.to_string(),
        "not_before": claims.nbf.to_string(),
        "resource": claims.aud,
        "token_type": "Bearer",
    });
    Outcome::token(&document, issued)
}

type Refused = (StatusCode, &'static str, &'static str);

fn check_managed(config: &Config, head: &Parts) -> Result<(), Refused> {
    let bad = |text| (StatusCode::BAD_REQUEST, "invalid_request", text);
    if head.method != Method::GET {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "invalid_request", "only GET is allowed"));
    }
    if head.headers.contains_key("x-forwarded-for") {
        return Err(bad("a request that came through a proxy is refused"));
    }
    let query = Form::parse(head.uri.query().unwrap_or_default().as_bytes()).map_err(|_| bad("a field came twice"))?;
    let version = query.get("api-version").unwrap_or_default();
    let is_imds = head.uri.path() == IMDS_PATH;
    if is_imds && field(head, "metadata").as_deref() != Some("true") {
        return Err(bad("the required field Metadata: true is missing"));
    }
    if !is_imds && field(head, "x-identity-header").as_deref() != Some(IDENTITY_HEADER) {
        let text = "X-IDENTITY-HEADER is missing or wrong";
        return Err((StatusCode::UNAUTHORIZED, "unauthorized_client", text));
    }
    let versions = if is_imds {
        &IMDS_VERSIONS[..]
    } else {
        &[APP_SERVICE_VERSION]
    };
    if !versions.contains(&version) {
        return Err(bad("the api-version is missing or not supported"));
    }
    if query.get("resource") != Some(config.sign_in.resource()) {
        let text = "the resource is missing or unknown";
        return Err((StatusCode::BAD_REQUEST, "invalid_resource", text));
    }
    if query
        .get("client_id")
        .is_some_and(|id| !id.eq_ignore_ascii_case(&config.client_id))
    {
        return Err(bad("identity not found"));
    }
    Ok(())
}
