//! The layer that attaches the token, and handles 401 responses.

use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::StatusCode;
use http::header::WWW_AUTHENTICATE;
use tokio::time::Instant;

use crate::attempt::{Authorized, Delivery, Failure, RetryHint, Routed};
use crate::middleware::{Middleware, Next};
use crate::scan::{ResponseKind, UpstreamResponse};
use crate::telemetry::trace;
use crate::token::token_source::Trial;
use crate::token::{Bearer, Error, TokenSource};

#[cfg(test)]
mod tests;

/// How long past the caller's deadline a call that holds its slot may wait for a token: giving up
/// would waste the wait so far.
const GRACE: Duration = Duration::from_secs(3);

/// The longest that a call holds its slot while it waits for a token. A call that can wait longer
/// returns the slot and asks for another one later: the ledger's charge of a call that has not left
/// must not end before it leaves.
pub const MAX_PERMIT_HOLD: Duration = Duration::from_secs(10);

/// Attaches the token to each call.
///
/// A call without a token fails before a byte is sent. A 401 is returned as a failure that is worth
/// one more attempt if there is a newer token or one is being requested, and as an ordinary answer
/// if not: then its reason is not the token but the licence or the app.
///
/// A call with its caller's own token keeps that token: the token source is not asked, and a 401
/// concerns the caller only.
impl Middleware<Routed, Next<Authorized>> for TokenSource {
    async fn call(&self, routed: Routed, next: &Next<Authorized>) -> Result<UpstreamResponse, Failure> {
        if let Some(caller_token) = routed.charged.request.caller_token() {
            let bearer = caller_token.secret().clone();
            return next.call(Authorized { routed, bearer }).await;
        }
        let deadline = routed.charged.caller.deadline;
        let until = (deadline + GRACE).min(Instant::now() + MAX_PERMIT_HOLD);
        let waited = token(self, (until, deadline), &routed.charged.trace).await;
        // Dropped when the call has ended, however it did.
        let (token, trial) = waited.map_err(|error| without_token(error, until, deadline))?;
        let bearer = token.secret().clone();
        let endpoint = routed.charged.request.endpoint();
        let sent = Instant::now();
        let answer = next.call(Authorized { routed, bearer }).await?;
        // What something on the way answers, such as a proxy, says nothing about the token. A long
        // answer is looked at only where that matters.
        let is_plain = answer.status.is_success() && trial.is_none();
        if !is_plain && !ResponseKind::of(endpoint, &answer).is_answer() {
            return Ok(answer);
        }
        if answer.status != StatusCode::UNAUTHORIZED {
            self.accepted(&token);
            return Ok(answer);
        }
        if let Some(trial) = trial {
            trial.failed();
        }
        if !self.rejected(&token, is_invalid_token(&answer), sent) {
            return Ok(answer);
        }
        Err(Failure {
            delivery: Delivery::Answered,
            again: RetryHint::Once,
            answer: Some(answer),
            source: "the upstream rejected the token".into(),
        })
    }
}

/// Whether a 401 says that the token itself is at fault (RFC 6750 §3.1), and not a licence.
fn is_invalid_token(answer: &UpstreamResponse) -> bool {
    let mut challenges = answer.headers.get_all(WWW_AUTHENTICATE);
    challenges.any(|challenge| challenge.to_str().is_ok_and(|text| text.contains("invalid_token")))
}

/// There was no token by `until`, and the call was not sent. It goes on waiting, without its slot,
/// as long as its deadline allows.
fn without_token(error: Error, until: Instant, deadline: Instant) -> Failure {
    let now = Instant::now();
    let passes = matches!(error, Error::Unavailable { .. });
    Failure {
        delivery: Delivery::NotSent,
        // An error that came earlier is not worth waiting for.
        again: if passes && until <= now && now < deadline {
            RetryHint::WhenAllowed
        } else {
            RetryHint::Never
        },
        answer: None,
        source: error.into(),
    }
}

/// The token, with a span if it has to be waited for.
async fn token(
    token_source: &TokenSource,
    times: (Instant, Instant),
    call: &trace::Call,
) -> Result<(Bearer, Option<Trial>), Error> {
    let (until, patience) = times;
    let mut token = pin!(token_source.bearer_within(until, patience));
    if let Some(at_hand) = token.as_mut().now_or_never() {
        return at_hand;
    }
    let mut span = call.child("wait for sign-in", trace::SpanKind::Internal);
    let token = token.await;
    if let Err(error) = &token {
        span.fail(error.outcome().as_str());
    }
    token
}
