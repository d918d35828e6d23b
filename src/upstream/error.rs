//! Why a call has no answer that can be passed on.

use http::StatusCode;

use crate::attempt::{Delivery, Failure, RetryHint};
use crate::memory::Exhausted;
use crate::net;

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
    /// A compressed body, although none was asked for. The upstream's fault.
    #[error("the upstream encoded the answer although it was asked not to")]
    Encoded,
    /// The region's address or the token cannot be put into a request. Our fault.
    #[error("the request cannot be built")]
    Unbuildable,
    /// There is no memory for another call.
    #[error("the call did not leave")]
    NoMemory(#[source] Exhausted),
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
            reason => matches!(reason, Reason::NoMemory(_)),
        }
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
            Reason::Encoded => "http_response_content_coding",
            Reason::Unbuildable | Reason::NoMemory(_) => "proxy_internal_error",
        }
    }

    fn delivery(&self) -> Delivery {
        match &self.reason {
            Reason::Exchange(error) if error.is_unprocessed() => Delivery::NotSent,
            Reason::Exchange(error) if !error.is_answered() => Delivery::Unknown,
            Reason::Exchange(_) | Reason::Redirect { .. } | Reason::Status { .. } | Reason::Encoded => {
                Delivery::Answered
            }
            Reason::Unbuildable | Reason::NoMemory(_) => Delivery::NotSent,
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
            // The region is avoided from now on, so the next attempt goes to another one.
            Reason::Redirect { .. } | Reason::Status { .. } | Reason::Encoded => RetryHint::Once,
            Reason::Unbuildable | Reason::NoMemory(_) => RetryHint::Never,
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
