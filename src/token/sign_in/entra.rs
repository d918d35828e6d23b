//! The client credentials request (RFC 6749 §4.4), built by the oauth2 crate and sent through the
//! gateway's own exchange.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use jiff::Timestamp;
use oauth2::basic::{BasicErrorResponse, BasicTokenType};
use oauth2::{
    AsyncHttpClient, AuthType, ClientId, ClientSecret, EndpointNotSet, EndpointSet, HttpRequest, HttpResponse,
    StandardRevocableToken, TokenUrl,
};
use secrecy::zeroize::Zeroizing;
use tower::ServiceExt as _;

use super::answer::{Endpoint, Received};
use super::issued::Issued;
use super::response::{ErrorMembers, TokenResponse, decoded};
use super::unusable::Unusable;
use super::wait;
use crate::net::Exchange;
use crate::token::credential::ClientAuth;
use crate::token::{App, Error, Reason, Scope};

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

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

/// The failure of a token request, with the response's headers, from which the server's clock can
/// be read.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) server_time: Option<Timestamp>,
}

/// Asks Entra for a token.
pub(super) async fn ask(
    app: &App,
    scope: &Scope,
    proof: &ClientAuth,
    exchange: Exchange,
    now: Timestamp,
) -> Result<Issued, Failed> {
    let client: Client = oauth2::Client::new(ClientId::new(app.client_id().to_owned()))
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
    let wire = Wire {
        exchange,
        outcome: Mutex::default(),
    };
    // The crate's error is not used: it hides the status and the headers, and may quote the
    // response's body.
    let parsed = request.request_async(&wire).await;
    let kept = wire.outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    let kept = match kept {
        Some(Ok(kept)) => kept,
        Some(Err(error)) => return Err(Failed::without_time(error)),
        None => return Err(Failed::without_time(Error::unavailable(Reason::Unreachable))),
    };
    let received = Received {
        endpoint: Endpoint::Entra,
        status: kept.status,
        headers: &kept.headers,
        now,
        proof: proof.secret(),
    };
    let error = match (parsed, kept.content) {
        (Ok(response), _) => match response.issued(received.server_now()) {
            Ok(issued) => return Ok(issued),
            Err(problem) => received.unusable(&response.error, problem),
        },
        (Err(_), Content::Success(problem)) => received.unusable(&ErrorMembers::default(), problem),
        (Err(_), Content::Failure(answer)) => received.failure(&answer),
    };
    Err(Failed {
        error,
        server_time: wait::date(&kept.headers),
    })
}

impl Failed {
    fn without_time(error: Error) -> Self {
        Self {
            error,
            server_time: None,
        }
    }
}

/// What is kept of a response besides the oauth2 crate's result.
struct Kept {
    status: StatusCode,
    headers: HeaderMap,
    content: Content,
}

enum Content {
    /// The body is not kept, because it contains the token. This is what is wrong with it if it is
    /// no JSON object.
    Success(Unusable),
    /// The whole response.
    Failure(Response<Bytes>),
}

/// Provides the exchange to the oauth2 crate, and keeps what was received.
struct Wire {
    exchange: Exchange,
    outcome: Mutex<Option<Result<Kept, Error>>>,
}

impl<'c> AsyncHttpClient<'c> for Wire {
    type Error = NoAnswer;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, NoAnswer>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        // The body contains the secret, and is wiped when its last reader drops it.
        let request: Request<Bytes> = request.map(|body| Bytes::from_owner(Zeroizing::new(body)));
        Box::pin(async move {
            let result = self.exchange.clone().oneshot(request).await;
            let (kept, returned) = match result {
                Ok(answer) => {
                    let (kept, returned) = taken_apart(answer);
                    (Ok(kept), returned)
                }
                Err(error) => (Err(unreachable_because(error)), Err(NoAnswer)),
            };
            *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
            returned
        })
    }
}

/// What is kept of a response, and what the oauth2 crate gets: a successful one in the form that
/// the crate requires, status 200 with a JSON body in UTF-8, whatever the header fields and the
/// byte order mark say.
fn taken_apart(answer: Response<Bytes>) -> (Kept, Result<HttpResponse, NoAnswer>) {
    let (status, headers) = (answer.status(), answer.headers().clone());
    if !status.is_success() {
        let content = Content::Failure(answer);
        return (
            Kept {
                status,
                headers,
                content,
            },
            Err(NoAnswer),
        );
    }
    let text = decoded(answer.body());
    let content = Content::Success(Unusable::of_text(&text));
    let mut plain = Response::new(text.into_owned().into_bytes());
    let json = HeaderValue::from_static("application/json");
    plain.headers_mut().insert(header::CONTENT_TYPE, json);
    (
        Kept {
            status,
            headers,
            content,
        },
        Ok(plain),
    )
}

/// Converts the exchange's error.
pub(super) fn unreachable_because(error: crate::BoxError) -> Error {
    Error::Unavailable {
        reason: Reason::Unreachable,
        message: Arc::default(),
        retry_after: None,
        source: Some(error.into()),
    }
}

/// Makes the oauth2 crate stop; the reason is in [`Wire::outcome`].
#[derive(Debug, thiserror::Error)]
#[error("no token in the answer")]
struct NoAnswer;
