//! Discovery: the documents that clients fetch before they ask for a token, with the endpoints and
//! the trusted hosts.

use http::request::Parts;
use serde_json::{Value, json};
use url::Url;

use super::Form;
use super::refusal::{AadstsCode, Refusal};
use crate::wire;

/// The path where clients ask whether a host belongs to the service.
const INSTANCE_PATH: &str = "/common/discovery/instance";

/// The path of a provider's configuration (`OpenID` Connect Discovery 1.0 §4), behind the tenant.
const CONFIGURATION: &str = "v2.0/.well-known/openid-configuration";

/// The path of the public keys of tokens, behind the tenant. There are none, because clients do not
/// verify access tokens.
const KEYS: &str = "discovery/v2.0/keys";

/// Names that mean any tenant.
const ANY_TENANT: [&str; 3] = ["common", "organizations", "consumers"];

/// The document for a GET; `None` when it is for something else.
pub(super) fn answer(head: &Parts, base: &str, tenant_id: &str) -> Option<Result<Value, Refusal>> {
    if head.uri.path() == INSTANCE_PATH {
        return Some(instance(head, base));
    }
    let (tenant, rest) = head.uri.path().strip_prefix('/')?.split_once('/')?;
    let known = tenant.eq_ignore_ascii_case(tenant_id) || ANY_TENANT.contains(&tenant);
    let document = match rest {
        KEYS => json!({"keys": []}),
        CONFIGURATION => configuration(base, tenant),
        _ => return None,
    };
    Some(if known {
        Ok(document)
    } else {
        Err(Refusal::about(AadstsCode::UNKNOWN_TENANT, tenant))
    })
}

/// The provider's configuration, as far as it exists here.
fn configuration(base: &str, tenant: &str) -> Value {
    // The form that the service uses when the tenant is not known yet.
    let issuer = if ANY_TENANT.contains(&tenant) {
        "{tenantid}"
    } else {
        tenant
    };
    json!({
        "issuer": format!("{base}/{issuer}/v2.0"),
        "authorization_endpoint": format!("{base}/{tenant}/oauth2/v2.0/authorize"),
        "token_endpoint": format!("{base}/{tenant}/oauth2/v2.0/token"),
        "device_authorization_endpoint": format!("{base}/{tenant}/oauth2/v2.0/devicecode"),
        "end_session_endpoint": format!("{base}/{tenant}/oauth2/v2.0/logout"),
        "jwks_uri": format!("{base}/{tenant}/{}", KEYS),
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": ["PS256", "RS256"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "fragment", "form_post"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "scopes_supported": ["openid"],
        "request_uri_parameter_supported": false,
        "tenant_region_scope": "EU",
        "cloud_instance_name": "microsoftonline.com",
    })
}

/// The aliases of this host; for another host, the service answers that it does not know it.
fn instance(head: &Parts, base: &str) -> Result<Value, Refusal> {
    let query = Form::parse(head.uri.query().unwrap_or_default().as_bytes())?;
    let asked = query.require("authorization_endpoint")?;
    let unknown = || Refusal::about(AadstsCode::UNKNOWN_INSTANCE, asked);
    let (Ok(address), Ok(own)) = (Url::parse(asked), Url::parse(base)) else {
        return Err(unknown());
    };
    let tenant = address.path_segments().and_then(|mut segments| segments.next());
    let tenant = tenant.filter(|tenant| !tenant.is_empty()).ok_or_else(unknown)?;
    // MSAL for Python names the host without its port.
    if address.host() != own.host() {
        return Err(unknown());
    }
    let host = base.split_once("://").map_or(base, |(_, host)| host);
    Ok(json!({
        "tenant_discovery_endpoint": format!("{base}/{tenant}/{}", CONFIGURATION),
        "api-version": query.get("api-version").unwrap_or("1.1"),
        "metadata": [{"preferred_network": host, "preferred_cache": host, "aliases": [host]}],
    }))
}

/// The address by which a client reached the host, without a slash at its end, which assertions and
/// documents contain. A name other than loopback's is not repeated.
pub(super) fn base(head: &Parts, own: &str) -> String {
    let authority = wire::authority(head).filter(|authority| is_loopback(authority));
    format!("{}://{}", wire::scheme(head), authority.as_deref().unwrap_or(own))
}

fn is_loopback(authority: &str) -> bool {
    let parsed = authority.parse::<http::uri::Authority>();
    parsed.is_ok_and(|authority| matches!(authority.host(), "localhost" | "127.0.0.1" | "[::1]"))
}
