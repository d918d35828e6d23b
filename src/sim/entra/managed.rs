//! Managed identity: the metadata service of a virtual machine, and the form of App Service.

use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::json;

use super::endpoint::{JSON, Outcome};
use super::form::Form;
use crate::sim::config::{Config, IDENTITY_HEADER};
use crate::sim::record::Credential;
use crate::sim::sim_state::SimState;
use crate::sim::wire::Reply;

/// The path of a virtual machine's metadata service.
pub(super) const IMDS_PATH: &str = "/metadata/identity/oauth2/token";

/// The path of the simulated App Service; the real one is named in `IDENTITY_ENDPOINT`.
pub(super) const APP_SERVICE_PATH: &str = "/msi/token";

/// Versions of the metadata service's interface that are in use.
const IMDS_VERSIONS: [&str; 3] = ["2018-02-01", "2019-08-01", "2021-02-01"];

/// The version of the App Service form.
const APP_SERVICE_VERSION: &str = "2019-08-01";

/// Handles a request for a token of the identity.
pub(super) fn answer(sim_state: &SimState, head: &Parts) -> Outcome {
    let credential = match head.uri.path() {
        IMDS_PATH => Credential::Imds,
        _ => Credential::AppService,
    };
    let mut state = sim_state.state();
    let state = &mut *state;
    if let Err((status, error, text)) = check(&state.config, credential, head) {
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
    Outcome {
        reply: Reply::new(StatusCode::OK, JSON, document.to_string()),
        code: None,
        issued: Some(issued),
    }
}

type Refused = (StatusCode, &'static str, &'static str);

fn check(config: &Config, credential: Credential, head: &Parts) -> Result<(), Refused> {
    let bad = |text| (StatusCode::BAD_REQUEST, "invalid_request", text);
    if head.method != Method::GET {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "invalid_request", "only GET is allowed"));
    }
    if head.headers.contains_key("x-forwarded-for") {
        return Err(bad("a request that came through a proxy is refused"));
    }
    let query = Form::parse(head.uri.query().unwrap_or_default().as_bytes()).map_err(|_| bad("a field came twice"))?;
    let version = query.get("api-version").unwrap_or_default();
    let field = |name: &str| head.headers.get(name).map(http::HeaderValue::as_bytes);
    if credential == Credential::Imds {
        if field("metadata") != Some(b"true") {
            return Err(bad("the required field Metadata: true is missing"));
        }
        if !IMDS_VERSIONS.contains(&version) {
            return Err(bad("the api-version is missing or not supported"));
        }
    } else {
        if field("x-identity-header") != Some(IDENTITY_HEADER.as_bytes()) {
            return Err((
                StatusCode::UNAUTHORIZED,
                "unauthorized_client",
                "X-IDENTITY-HEADER is missing or wrong",
            ));
        }
        if version != APP_SERVICE_VERSION {
            return Err(bad("the api-version is missing or not supported"));
        }
    }
    if query.get("resource") != Some(config.sign_in.resource()) {
        return Err((
            StatusCode::BAD_REQUEST,
            "invalid_resource",
            "the resource is missing or unknown",
        ));
    }
    if query
        .get("client_id")
        .is_some_and(|id| !id.eq_ignore_ascii_case(&config.client_id))
    {
        return Err(bad("identity not found"));
    }
    Ok(())
}
