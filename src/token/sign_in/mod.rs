//! One token request, from the credential to a token or an error.

mod answer;
mod response;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request};
use jiff::{SignedDuration, Timestamp};
use oauth2::basic::BasicClient;
use oauth2::{AuthType, ClientId, ClientSecret, HttpRequest, HttpResponse, TokenUrl};
use secrecy::zeroize::Zeroizing;
use tokio::time::{Instant, timeout};
use tower::ServiceExt as _;

use crate::clock::{self, Wall};
use crate::net::Exchange;
use crate::secret::Secret;
use crate::token::credential::{ClientAuth, CredentialProvider};
use crate::token::sign_in::answer::{Received, server_time, unreachable_because};
use crate::token::{App, Config, Credential, Error, Identity, IdentityHost, Problem, Reason, Scope, Warning, aadsts};

pub(super) use response::Issued;

/// How long one exchange may take, from the first byte sent to the last one received.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(10);

/// How long reading the credential files may take.
const READING_LIMIT: Duration = Duration::from_secs(5);

/// A smaller difference between the clocks does not explain a rejection.
const SKEW_WORTH_TRYING: SignedDuration = SignedDuration::from_secs(60);

/// How early the expiry of a certificate is announced.
const CERTIFICATE_WARNING: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Asks for tokens, one at a time.
#[derive(Debug)]
pub(super) struct SignIn {
    provider: CredentialProvider,
    scope: Scope,
    exchange: Exchange,
    wall: Wall,
    /// The difference between sign-in's clock and this machine's, learnt when an assertion is
    /// rejected, and followed from then on.
    skew: SignedDuration,
}

impl SignIn {
    /// `imds` reaches link-local addresses directly; the metadata service does not work through
    /// proxies.
    pub(super) fn new(config: Config, exchange: Exchange, imds: Exchange, wall: Wall) -> Self {
        let is_managed = matches!(config.credential, Credential::ManagedIdentity(_));
        Self {
            exchange: if is_managed { imds } else { exchange },
            provider: CredentialProvider::new(config.credential),
            scope: config.scope,
            wall,
            skew: SignedDuration::ZERO,
        }
    }

    /// Makes one token request, and a second one only if the first may have been rejected because
    /// of this machine's clock.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the request.
    pub(super) async fn ask(&mut self) -> Result<Issued, Error> {
        let (result, server_time) = self.ask_once().await;
        match &result {
            Ok(_) => self.follow_clock_skew(server_time),
            Err(error) if self.learn_clock_skew(error, server_time) => return self.ask_once().await.0,
            Err(_) => {}
        }
        result
    }

    /// Whether the credential files have contents worth trying: any change if `failing`, else only
    /// changes made by people. Federated tokens change all the time, merely because they age.
    pub(super) async fn has_changed(&self, failing: bool) -> bool {
        if !failing && matches!(self.provider.credential, Credential::WorkloadIdentity { .. }) {
            return false;
        }
        // A file system that hangs counts as unchanged.
        let changed = timeout(READING_LIMIT, self.provider.has_changed()).await;
        changed.unwrap_or(false)
    }

    /// Whether there are files to watch.
    pub(super) fn has_files(&self) -> bool {
        !self.provider.paths().is_empty()
    }

    /// When the credential in use was first read, and for how many seconds its certificate is still
    /// valid (negative if it has expired).
    pub(super) fn credential_age(&self) -> (Option<Timestamp>, Option<f64>) {
        let (now, provider) = (self.wall.now(), &self.provider);
        let left = provider.expires.map(|at| at.duration_since(now).as_secs_f64());
        (provider.loaded, left)
    }

    /// What was noticed and needs attention.
    pub(super) fn warnings(&self) -> Vec<Warning> {
        let (now, provider) = (self.wall.now(), &self.provider);
        let open = provider.open_file.clone().map(|path| Warning::FileTooOpen { path });
        let soon = |at: &Timestamp| at.duration_since(now) < CERTIFICATE_WARNING;
        let expiry = provider
            .expires
            .filter(soon)
            .map(|at| Warning::CertificateExpiry { at });
        let mut warnings: Vec<_> = open.into_iter().chain(expiry).collect();
        if !self.skew.is_zero() {
            warnings.push(Warning::ClockSkew {
                seconds: self.skew.as_secs(),
            });
        }
        warnings
    }

    /// Makes one token request; with sign-in's clock, if there is a response that shows it.
    async fn ask_once(&mut self) -> (Result<Issued, Error>, Option<Timestamp>) {
        let (request, proof) = match self.request().await {
            Ok(request) => request,
            Err(error) => return (Err(error), None),
        };
        let endpoint = self.provider.credential.endpoint();
        let (now, asked) = (self.wall.now(), (Instant::now(), clock::suspended()));
        let answer = match timeout(EXCHANGE_LIMIT, self.exchange.clone().oneshot(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return (Err(unreachable_because(endpoint, error)), None),
            Err(_) => return (Err(Error::unavailable(Reason::TimedOut(endpoint))), None),
        };
        let received = Received {
            endpoint,
            answer: &answer,
            now,
            asked,
            proof: &proof,
        };
        (received.issued(), server_time(answer.headers()))
    }

    /// The request, and the secret in it, which no response may repeat.
    async fn request(&mut self) -> Result<(Request<Bytes>, Secret), Error> {
        let (request, proof) = match &self.provider.credential {
            Credential::ManagedIdentity(identity) => {
                let proof = match &identity.host {
                    IdentityHost::AppService { header, .. } => header.clone(),
                    IdentityHost::Imds { .. } => Secret::new(String::new()),
                };
                (identity_request(identity, &self.scope), proof)
            }
            Credential::ClientSecret { app, .. }
            | Credential::Certificate { app, .. }
            | Credential::WorkloadIdentity { app, .. } => {
                let app = app.clone();
                let now = self.wall.now().checked_add(self.skew).unwrap_or(Timestamp::MAX);
                let Ok(proof) = timeout(READING_LIMIT, self.provider.proof(now)).await else {
                    return Err(Error::unusable(Problem::FileUnreadable, "reading takes too long"));
                };
                let proof = proof?;
                (app_request(&app, &self.scope, &proof), proof.secret().clone())
            }
        };
        let unreachable = Reason::Unreachable(self.provider.credential.endpoint());
        Ok((request.ok_or(Error::unavailable(unreachable))?, proof))
    }

    /// Whether the clocks differ so much that an assertion signed with sign-in's clock may be
    /// accepted.
    fn learn_clock_skew(&mut self, error: &Error, server_time: Option<Timestamp>) -> bool {
        let signed_here = matches!(self.provider.credential, Credential::Certificate { .. });
        let Error::Refused { code, .. } = error else {
            return false;
        };
        let Some(theirs) = server_time.filter(|_| signed_here && aadsts::may_be_clock(code)) else {
            return false;
        };
        let skew = theirs.duration_since(self.wall.now());
        let worth_it = (skew - self.skew).abs() > SKEW_WORTH_TRYING;
        if worth_it {
            self.skew = worth_trying(skew);
        }
        worth_it
    }

    /// A difference that was learnt ends when a clock is put right, which no rejection tells.
    fn follow_clock_skew(&mut self, server_time: Option<Timestamp>) {
        if let Some(theirs) = server_time.filter(|_| !self.skew.is_zero()) {
            self.skew = worth_trying(theirs.duration_since(self.wall.now()));
        }
    }
}

/// The difference between the clocks, or zero if it explains no rejection.
fn worth_trying(skew: SignedDuration) -> SignedDuration {
    if skew.abs() > SKEW_WORTH_TRYING {
        skew
    } else {
        SignedDuration::ZERO
    }
}

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The request as the oauth2 crate writes it. The response is not the crate's to read: its errors
/// hide the status and the header fields, and may quote the body.
fn app_request(app: &App, scope: &Scope, proof: &ClientAuth) -> Option<Request<Bytes>> {
    let client = BasicClient::new(ClientId::new(app.client_id.clone()))
        .set_token_uri(TokenUrl::from_url(app.sent_to.clone()))
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

/// The request to the host of `identity`.
fn identity_request(identity: &Identity, scope: &Scope) -> Option<Request<Bytes>> {
    let (mut url, api_version, name, value) = match &identity.host {
        // The header proves that no browser or redirect was tricked into making the request.
        IdentityHost::Imds { address } => {
            let mut url = address.clone();
            url.set_path("/metadata/identity/oauth2/token");
            (url, "2018-02-01", "Metadata", HeaderValue::from_static("true"))
        }
        IdentityHost::AppService { endpoint, header } => {
            let mut value = HeaderValue::from_str(header.expose()).ok()?;
            value.set_sensitive(true);
            (endpoint.clone(), "2019-08-01", "X-IDENTITY-HEADER", value)
        }
    };
    let mut query = url.query_pairs_mut();
    query
        .append_pair("api-version", api_version)
        .append_pair("resource", scope.resource());
    if let Some(client_id) = &identity.client_id {
        query.append_pair("client_id", client_id);
    }
    drop(query);
    Request::get(url.as_str()).header(name, value).body(Bytes::new()).ok()
}
