//! Tokens of a managed identity: a plain GET to a service that knows the machine.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use tower::ServiceExt as _;
use url::Url;

use super::answer::{self, Endpoint};
use super::entra::unreachable_because;
use super::issued::Issued;
use crate::net::Exchange;
use crate::secret::Secret;
use crate::token::{Error, Identity, IdentityHost, Reason, Scope};

#[derive(Deserialize)]
struct Body {
    access_token: String,
    #[serde(default, deserialize_with = "number")]
    expires_in: Option<u64>,
    #[serde(default, deserialize_with = "number")]
    expires_on: Option<u64>,
    #[serde(default, deserialize_with = "number")]
    refresh_in: Option<u64>,
}

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
    if answer.status() != StatusCode::OK {
        let secret = match &identity.host {
            IdentityHost::AppService { header, .. } => header.clone(),
            IdentityHost::Imds { .. } => Secret::new(String::new()),
        };
        return Err(answer::failure(endpoint, &answer, now, &secret));
    }
    // The parser's error may quote the body, which holds the token.
    let body: Body = serde_json::from_slice(answer.body()).map_err(|_| Error::unavailable(Reason::Unreadable))?;
    let life = body
        .expires_in
        .map(Duration::from_secs)
        .or_else(|| remaining(body.expires_on?, now));
    Issued::try_new(
        Secret::new(body.access_token),
        life,
        body.refresh_in.map(Duration::from_secs),
    )
}

fn imds(address: &Url, identity: &Identity, scope: &Scope) -> Option<Request<Bytes>> {
    let mut url = address.clone();
    url.set_path("/metadata/identity/oauth2/token");
    let url = with_query(url, "2018-02-01", identity, scope);
    // The header proves that no browser or redirect was tricked into the request.
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

/// The time left until the Unix second `expires_on`.
fn remaining(expires_on: u64, now: Timestamp) -> Option<Duration> {
    let expires_on = Timestamp::from_second(i64::try_from(expires_on).ok()?).ok()?;
    Duration::try_from(expires_on.duration_since(now)).ok()
}

/// The metadata services write numbers as strings.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Plain(u64),
        Text(String),
    }
    match Option::<Number>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Number::Plain(number)) => Ok(Some(number)),
        Some(Number::Text(text)) => text.trim().parse().map(Some).map_err(D::Error::custom),
    }
}
