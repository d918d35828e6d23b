//! Tokens of a managed identity: a plain GET to a service that knows the machine.

use bytes::Bytes;
use http::Request;
use jiff::Timestamp;
use tower::ServiceExt as _;
use url::Url;

use super::answer::{Endpoint, Received, unreachable_because};
use super::issued::Issued;
use crate::net::Exchange;
use crate::secret::Secret;
use crate::token::{Error, Identity, IdentityHost, Reason, Scope};

/// Asks the host of `identity` for a token.
pub(super) async fn ask(
    identity: &Identity,
    scope: &Scope,
    exchange: Exchange,
    now: Timestamp,
) -> Result<Issued, Error> {
    let (endpoint, request) = match &identity.host {
        IdentityHost::Imds { address } => (Endpoint::Imds, imds(address, identity, scope)),
        IdentityHost::AppService { endpoint, header } => {
            (Endpoint::Entra, app_service(endpoint, header, identity, scope))
        }
    };
    let Some(request) = request else {
        return Err(Error::unavailable(Reason::Unreachable));
    };
    let answer = exchange.oneshot(request).await.map_err(unreachable_because)?;
    let none = Secret::new(String::new());
    let received = Received {
        endpoint,
        answer: &answer,
        now,
        proof: match &identity.host {
            IdentityHost::AppService { header, .. } => header,
            IdentityHost::Imds { .. } => &none,
        },
    };
    received.issued()
}

fn imds(address: &Url, identity: &Identity, scope: &Scope) -> Option<Request<Bytes>> {
    let mut url = address.clone();
    url.set_path("/metadata/identity/oauth2/token");
    let url = with_query(url, "2018-02-01", identity, scope);
    // The header proves that no browser or redirect was tricked into making the request.
    Request::get(url.as_str())
        .header("Metadata", "true")
        .body(Bytes::new())
        .ok()
}

fn app_service(endpoint: &Url, header: &Secret, identity: &Identity, scope: &Scope) -> Option<Request<Bytes>> {
    let url = with_query(endpoint.clone(), "2019-08-01", identity, scope);
    let mut header = http::HeaderValue::from_str(header.expose()).ok()?;
    header.set_sensitive(true);
    Request::get(url.as_str())
        .header("X-IDENTITY-HEADER", header)
        .body(Bytes::new())
        .ok()
}

fn with_query(mut url: Url, api_version: &str, identity: &Identity, scope: &Scope) -> Url {
    let mut query = url.query_pairs_mut();
    query
        .append_pair("api-version", api_version)
        .append_pair("resource", scope.resource());
    if let Some(client_id) = &identity.client_id {
        query.append_pair("client_id", client_id);
    }
    drop(query);
    url
}
