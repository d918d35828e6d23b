//! The client credentials request (RFC 6749 §4.4), written by the oauth2 crate and sent through the
//! gateway's own exchange.

use std::cell::RefCell;

use bytes::Bytes;
use http::Request;
use jiff::Timestamp;
use oauth2::basic::BasicClient;
use oauth2::{AuthType, ClientId, ClientSecret, HttpRequest, HttpResponse, TokenUrl};
use secrecy::zeroize::Zeroizing;
use tower::ServiceExt as _;

use super::answer::{Endpoint, Received, unreachable_because};
use super::issued::Issued;
use super::wait;
use crate::net::Exchange;
use crate::token::credential::ClientAuth;
use crate::token::{App, Error, Reason, Scope};

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The failure of a token request, with the server's clock, if the response says what it shows.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) server_time: Option<Timestamp>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self {
            error,
            server_time: None,
        }
    }
}

/// Asks Entra for a token.
pub(super) async fn ask(
    app: &App,
    scope: &Scope,
    proof: &ClientAuth,
    exchange: Exchange,
    now: Timestamp,
) -> Result<Issued, Failed> {
    let request = request(app, scope, proof).ok_or(Error::unavailable(Reason::Unreachable))?;
    let answer = exchange.oneshot(request).await.map_err(unreachable_because)?;
    let received = Received {
        endpoint: Endpoint::Entra,
        answer: &answer,
        now,
        proof: proof.secret(),
    };
    received.issued().map_err(|error| Failed {
        error,
        server_time: wait::date(answer.headers()),
    })
}

/// The request as the oauth2 crate writes it. The response is not the crate's to read: its errors
/// hide the status and the header fields, and may quote the body.
fn request(app: &App, scope: &Scope, proof: &ClientAuth) -> Option<Request<Bytes>> {
    let client = BasicClient::new(ClientId::new(app.client_id().to_owned()))
        .set_token_uri(TokenUrl::from_url(app.sent_to().clone()))
        .set_auth_type(AuthType::RequestBody);
    let client = match proof {
        ClientAuth::Secret(secret) => client.set_client_secret(ClientSecret::new(secret.expose().to_owned())),
        ClientAuth::Assertion(_) => client,
    };
    let mut request = client
        .exchange_client_credentials()
        .add_scope(oauth2::Scope::new(scope.as_str().to_owned()));
    if let ClientAuth::Assertion(assertion) = proof {
        request = request
            .add_extra_param("client_assertion_type", ASSERTION_TYPE)
            .add_extra_param("client_assertion", assertion.expose().to_owned());
    }
    let written = RefCell::new(None);
    let keep = |request: HttpRequest| -> Result<HttpResponse, NotSent> {
        written.replace(Some(request));
        Err(NotSent)
    };
    let _ = request.request(&keep);
    // The body contains the secret, and is wiped when its last reader drops it.
    let wiped = |request: HttpRequest| request.map(|body| Bytes::from_owner(Zeroizing::new(body)));
    written.into_inner().map(wiped)
}

/// Tells the oauth2 crate that it gets no response.
#[derive(Debug, thiserror::Error)]
#[error("the request is sent by the gateway's own exchange")]
struct NotSent;
