//! Which answer of the upstream is passed on, with which header fields, and why a call has none.

use bytes::Bytes;
use http::header::{
    AGE, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::attempt::{Delivery, Failure, RetryHint};
use crate::memory::Exhausted;
use crate::net;
use crate::scan::{Headers, UpstreamResponse};

/// A failed call, with its host.
#[derive(Debug, thiserror::Error)]
#[error("the call to {host} failed")]
pub struct Error {
    host: String,
    #[source]
    reason: Reason,
}

#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// There was no complete answer: a fault of the network or the upstream.
    #[error("the exchange brought no complete answer")]
    Exchange(#[source] net::Error),
    /// A redirect, which is never followed: a fault of the upstream, or a wrong region address.
    #[error("the upstream redirects ({status}), which is not followed with a token")]
    Redirect {
        /// The 3xx status.
        status: StatusCode,
    },
    /// A status that is no answer: a final 1xx (101 would change the protocol, which was not asked
    /// for), or above 599. The upstream's fault.
    #[error("the upstream answered with the status {status}, which means nothing here")]
    Status { status: StatusCode },
    /// A compressed body, although none was asked for. The fault of the upstream, or of what is on
    /// the way to it.
    #[error(
        "the answer is encoded ({coding}) although it was asked not to be, by the upstream or by a proxy on the way"
    )]
    Encoded {
        /// The content codings, as far as they can be shown.
        coding: String,
    },
    /// The region's address or the token cannot be put into a request. Our fault.
    #[error("the request cannot be built")]
    Unbuildable,
    /// There was no memory for another call.
    #[error("the call did not leave")]
    NoMemory {
        #[source]
        exhausted: Exhausted,
        /// Its caller's wait was too short for it; who shares the call may have more time.
        is_out_of_time: bool,
    },
}

impl Error {
    /// The error for `reason` in a call to `host`.
    pub fn new(host: impl Into<String>, reason: Reason) -> Self {
        Self {
            host: host.into(),
            reason,
        }
    }

    /// The region's host, for `Proxy-Status`.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// Whether the gateway had no memory for the call or its answer.
    pub fn is_exhausted(&self) -> bool {
        match &self.reason {
            Reason::Exchange(error) => matches!(error.kind(), net::Kind::NoMemory(_)),
            reason => matches!(reason, Reason::NoMemory { .. }),
        }
    }

    /// Whether the answer is longer than this gateway reads: so would be another one.
    pub fn is_too_large(&self) -> bool {
        matches!(&self.reason, Reason::Exchange(error) if matches!(error.kind(), net::Kind::BodyTooLarge { .. }))
    }

    /// Whether it failed because its time was over: 504 instead of 502.
    pub fn is_timeout(&self) -> bool {
        matches!(&self.reason, Reason::Exchange(error) if error.is_timeout() && !error.is_unprocessed())
    }

    /// The error token of RFC 9209 §2.3.
    pub fn proxy_status(&self) -> &'static str {
        match &self.reason {
            Reason::Exchange(error) => error.proxy_status(),
            Reason::Redirect { .. } | Reason::Status { .. } => "http_protocol_error",
            Reason::Encoded { .. } => "http_response_content_coding",
            Reason::Unbuildable | Reason::NoMemory { .. } => "proxy_internal_error",
        }
    }

    fn delivery(&self) -> Delivery {
        match &self.reason {
            Reason::Exchange(error) if error.is_unprocessed() => Delivery::NotSent,
            Reason::Exchange(error) if !error.is_answered() => Delivery::Unknown,
            Reason::Exchange(_) | Reason::Redirect { .. } | Reason::Status { .. } | Reason::Encoded { .. } => {
                Delivery::Answered
            }
            Reason::Unbuildable | Reason::NoMemory { .. } => Delivery::NotSent,
        }
    }

    fn again(&self) -> RetryHint {
        match &self.reason {
            Reason::Exchange(error) => match error.kind() {
                net::Kind::Lost(_) | net::Kind::BodyLost(_) => RetryHint::Once,
                // Given up, mostly early. After a long wait the caller's deadline forbids another
                // attempt, which the retry layer checks.
                net::Kind::HeadTimeout | net::Kind::BodyTimeout => RetryHint::OtherHost,
                // Not sent: the region layer has already tried the other hosts at no cost. Too
                // large: it would be too large again.
                _ => RetryHint::Never,
            },
            // The region is avoided from now on, so the next attempt goes to another one. Without
            // memory in time there is none for the same caller: the retry layer checks its deadline.
            Reason::Redirect { .. }
            | Reason::Status { .. }
            | Reason::NoMemory {
                is_out_of_time: true, ..
            } => RetryHint::Once,
            // What encodes unasked does so for each region: their fronts are alike, and a proxy on
            // the way is the same.
            Reason::Encoded { .. } | Reason::Unbuildable | Reason::NoMemory { .. } => RetryHint::Never,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            delivery: error.delivery(),
            again: error.again(),
            answer: None,
            source: error.into(),
        }
    }
}

/// Whether the status says what has to be done, whatever the body: the ledger has to see that calls
/// are throttled, and the token source that its token was rejected.
fn speaks_for_itself(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::UNAUTHORIZED)
}

/// The answer without its body, if only that was lost, and it is not needed.
pub(super) fn without_lost_body(error: net::Error) -> Result<Response<Bytes>, net::Error> {
    let Some(head) = error.head().filter(|head| speaks_for_itself(head.status)) else {
        return Err(error);
    };
    Ok(Response::from_parts(head.clone(), Bytes::new()))
}

/// The answer, if it may be passed on.
pub(super) fn checked(response: Response<Bytes>) -> Result<UpstreamResponse, Reason> {
    let (head, mut body) = response.into_parts();
    if head.status.is_redirection() {
        return Err(Reason::Redirect { status: head.status });
    }
    if head.status.is_informational() || head.status.as_u16() > 599 {
        return Err(Reason::Status { status: head.status });
    }
    if !head.headers.get_all(CONTENT_ENCODING).iter().all(is_identity) {
        if !speaks_for_itself(head.status) {
            let coding = shown_codings(&head.headers);
            return Err(Reason::Encoded { coding });
        }
        body = Bytes::new();
    }
    Ok(UpstreamResponse {
        status: head.status,
        headers: allowed(&head.headers),
        body,
    })
}

/// The name under which a field is kept: a static copy where there is one, which takes no memory.
///
/// Kept are all `x-ms-*`, what callers can use (content, caching, the ids that Microsoft's support
/// asks for), `Age`, to which the cache adds, and `Retry-After`, also in milliseconds, which the
/// quota reads. Everything else, above all hop-by-hop fields and cookies, is dropped.
fn kept(name: &HeaderName) -> Option<HeaderName> {
    // As text, because comparing lengths decides nearly all cases.
    Some(match name.as_str() {
        "content-type" => CONTENT_TYPE,
        "cache-control" => CACHE_CONTROL,
        "date" => DATE,
        "age" => AGE,
        "retry-after" => RETRY_AFTER,
        "retry-after-ms" => HeaderName::from_static("retry-after-ms"),
        "odata-version" => HeaderName::from_static("odata-version"),
        "request-id" => HeaderName::from_static("request-id"),
        "mise-correlation-id" => HeaderName::from_static("mise-correlation-id"),
        text if text.starts_with("x-ms-") => name.clone(),
        _ => return None,
    })
}

/// The fields on the allow-list, in order. A challenge (RFC 9110 §11.6.1) says whether Defender or
/// a proxy on the way sent the 401; the response shows it to the owner of the rejected token only.
/// Fields listed in `Connection` were for this connection only (RFC 9110 §7.6.1).
fn allowed(headers: &HeaderMap) -> Headers {
    let challenge = |name: &HeaderName| (*name == WWW_AUTHENTICATE).then_some(WWW_AUTHENTICATE);
    headers
        .iter()
        .filter(|(name, _)| !is_of_connection(headers, name))
        .filter_map(|(name, value)| Some((kept(name).or_else(|| challenge(name))?, value)))
        .collect()
}

fn is_of_connection(headers: &HeaderMap, name: &HeaderName) -> bool {
    // A message without its content type could not be read, so listing it is ignored.
    let is_named = |options: &str| {
        options
            .split(',')
            .any(|option| option.trim().eq_ignore_ascii_case(name.as_str()))
    };
    *name != CONTENT_TYPE
        && headers
            .get_all(CONNECTION)
            .iter()
            .any(|options| options.to_str().is_ok_and(is_named))
}

/// The values of `Content-Encoding`, for people: not longer than any that are in use.
fn shown_codings(headers: &HeaderMap) -> String {
    let values = headers.get_all(CONTENT_ENCODING).iter();
    let bytes = values.flat_map(|value| value.as_bytes().iter().chain(b" "));
    let shown = bytes.filter(|byte| byte.is_ascii_alphanumeric() || b"-_., ".contains(byte));
    let text: String = shown.take(40).map(|byte| char::from(*byte)).collect();
    text.trim_end().to_owned()
}

/// Whether a `Content-Encoding` value means that the body is not encoded.
fn is_identity(value: &HeaderValue) -> bool {
    value.is_empty() || value.as_bytes().eq_ignore_ascii_case(b"identity")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Endpoint, ResponseKind};

    #[test]
    fn only_fields_on_the_list_pass_with_all_their_values() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "application/json"),
            ("x-ms-request-id", "1"),
            ("x-ms-request-id", "2"),
            ("set-cookie", "a=b"),
            ("set-cookie", "c=d"),
            ("connection", "close, X-MS-Hop"),
            ("x-ms-hop", "here"),
            ("age", "25"),
            ("transfer-encoding", "chunked"),
            ("content-length", "7"),
            ("server", "x"),
            ("odata-version", "4.0"),
            ("retry-after", "8"),
            ("retry-after-ms", "8000"),
            ("www-authenticate", "Bearer"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let kept = allowed(&headers);
        let mut sorted: Vec<_> = kept
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
            .collect();
        sorted.sort();
        let expected = [
            "age=25",
            "content-type=application/json",
            "odata-version=4.0",
            "retry-after-ms=8000",
            "retry-after=8",
            "www-authenticate=Bearer",
            "x-ms-request-id=1",
            "x-ms-request-id=2",
        ];
        assert_eq!(sorted, expected);
    }

    #[test]
    fn who_rejects_the_gateways_token_is_seen_by_the_challenge() {
        for (challenge, is_answer) in [
            (None, true),
            (Some("Bearer error=\"invalid_token\""), true),
            (Some("Negotiate"), false),
        ] {
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            if let Some(challenge) = challenge {
                let challenge = HeaderValue::from_static(challenge);
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
            let answer = checked(response).unwrap();
            let kind = ResponseKind::of(Endpoint::HISTORY, &answer);
            assert_eq!(kind.is_answer(), is_answer, "{challenge:?}");
        }
    }
}
