//! The client credentials request (RFC 6749 §4.4), made by the oauth2 crate and sent by the gateway's own exchange.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use jiff::Timestamp;
use oauth2::basic::{BasicErrorResponse, BasicTokenType};
use oauth2::{
    AsyncHttpClient, AuthType, ClientId, ClientSecret, EndpointNotSet, EndpointSet, ExtraTokenFields, HttpRequest,
    HttpResponse, StandardRevocableToken, StandardTokenResponse, TokenResponse as _, TokenUrl,
};
use secrecy::zeroize::Zeroizing;
use serde::{Deserialize, Serialize};
use tower::ServiceExt as _;

use super::answer::{self, Endpoint};
use super::issued::Issued;
use crate::net::Exchange;
use crate::secret::Secret;
use crate::token::credential::Proof;
use crate::token::{App, Error, Reason, Scope};

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The one field that Entra adds and the gateway reads.
#[derive(Debug, Deserialize, Serialize)]
struct Extra {
    refresh_in: Option<u64>,
}

impl ExtraTokenFields for Extra {}

type TokenResponse = StandardTokenResponse<Extra, BasicTokenType>;
type Client = oauth2::Client<
    BasicErrorResponse,
    TokenResponse,
    oauth2::StandardTokenIntrospectionResponse<oauth2::EmptyExtraTokenFields, BasicTokenType>,
    StandardRevocableToken,
    oauth2::basic::BasicRevocationErrorResponse,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

/// A token request's failure, with the answer's headers for those who want to know the server's clock.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) server_time: Option<Timestamp>,
}

/// Asks Entra for a token.
pub(super) async fn ask(
    app: &App,
    scope: &Scope,
    proof: &Proof,
    exchange: Exchange,
    now: Timestamp,
) -> Result<Issued, Failed> {
    let client: Client = oauth2::Client::new(ClientId::new(app.client_id().to_owned()))
        .set_token_uri(TokenUrl::from_url(app.sent_to().clone()))
        .set_auth_type(AuthType::RequestBody);
    let client = match proof {
        Proof::Secret(secret) => client.set_client_secret(ClientSecret::new(secret.expose().to_owned())),
        Proof::Assertion(_) => client,
    };
    let mut request = client
        .exchange_client_credentials()
        .add_scope(oauth2::Scope::new(scope.as_str().to_owned()));
    if let Proof::Assertion(assertion) = proof {
        request = request
            .add_extra_param("client_assertion_type", ASSERTION_TYPE)
            .add_extra_param("client_assertion", assertion.expose().to_owned());
    }
    let wire = Wire {
        exchange,
        outcome: Mutex::default(),
    };
    // What the crate says about a failure is not used: it hides the status and the headers, and it may quote the answer's body.
    let parsed = request.request_async(&wire).await;
    let outcome = wire.outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    match (parsed, outcome) {
        (Ok(response), _) => issued(&response).map_err(Failed::without_time),
        (Err(_), Some(Ok(answer))) => Err(Failed {
            error: answer::failure(Endpoint::Entra, &answer, now, proof.secret()),
            server_time: super::wait::date(answer.headers()),
        }),
        (Err(_), Some(Err(error))) => Err(Failed::without_time(error)),
        (Err(_), None) => Err(Failed::without_time(Error::unavailable(Reason::Unreachable))),
    }
}

impl Failed {
    fn without_time(error: Error) -> Self {
        Self {
            error,
            server_time: None,
        }
    }
}

fn issued(response: &TokenResponse) -> Result<Issued, Error> {
    let secret = Secret::new(response.access_token().secret().clone());
    let refresh_in = response.extra_fields().refresh_in.map(Duration::from_secs);
    Issued::try_new(secret, response.expires_in(), refresh_in)
}

/// What an exchange brought.
type Outcome = Result<Response<Bytes>, Error>;

/// Lends the exchange to the oauth2 crate, and keeps what came back.
struct Wire {
    exchange: Exchange,
    /// The answer if it is not a 200, or why there is none.
    outcome: Mutex<Option<Outcome>>,
}

impl<'c> AsyncHttpClient<'c> for Wire {
    type Error = NoAnswer;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, NoAnswer>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        // Wiped when the last reader is done with it: the body holds the secret.
        let request: Request<Bytes> = request.map(|body| Bytes::from_owner(Zeroizing::new(body)));
        Box::pin(async move {
            let result = self.exchange.clone().oneshot(request).await;
            let (kept, returned) = match result {
                Ok(answer) if answer.status() == StatusCode::OK => {
                    // The body is not kept: it holds the token. If it cannot be read, that is all there is to say.
                    let kept = answer.clone().map(|_| Bytes::new());
                    (Ok(kept), Ok(answer.map(Vec::from)))
                }
                Ok(answer) => (Ok(answer), Err(NoAnswer)),
                Err(error) => (Err(unreachable_because(error)), Err(NoAnswer)),
            };
            *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
            returned
        })
    }
}

/// The exchange's error as this part's.
pub(super) fn unreachable_because(error: crate::BoxError) -> Error {
    Error::Unavailable {
        reason: Reason::Unreachable,
        message: Arc::default(),
        retry_after: None,
        source: Some(error.into()),
    }
}

/// Tells the oauth2 crate to stop; what happened is in [`Wire::outcome`].
#[derive(Debug, thiserror::Error)]
#[error("no token in the answer")]
struct NoAnswer;
