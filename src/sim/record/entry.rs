//! One thing that was seen.

use std::time::Duration;

use http::HeaderMap;

use crate::operation::Operation;
use crate::secret::Secret;

/// A request that reached a region's host.
#[derive(Clone, Debug)]
pub struct CallRecord {
    /// When it arrived and was counted, after the start, exact to the microsecond.
    pub at: Duration,
    /// The region whose host it reached.
    pub region: String,
    /// The method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The query as it came, if any.
    pub query: Option<String>,
    /// 1.1 or 2, as `HTTP/1.1` and `HTTP/2.0`.
    pub version: String,
    /// Whether it was for one of the operations: only such calls are limited.
    pub is_operation: bool,
    /// Which one.
    pub operation: Option<Operation>,
    /// The ids asked for, as they came; empty when the body was refused, or a list was asked for.
    pub ids: Vec<String>,
    /// `$top`, if it came and was valid.
    pub top: Option<u32>,
    /// `$skip`, if it came and was valid.
    pub skip: Option<u32>,
    /// Names the token (its `uti`), when it was one of ours and good.
    pub token_id: Option<String>,
    /// The caller's `x-request-id`.
    pub request_id: Option<String>,
    /// All fields but `Authorization`.
    pub headers: HeaderMap,
    /// The status answered; `None` while it is not answered, for good when it never will be.
    pub status: Option<u16>,
    /// The name of the fault that hit it.
    pub fault: Option<&'static str>,
    /// How long the answer took, from the first byte of the request.
    pub latency: Option<Duration>,
    /// The order of arrival, from 0, over all regions.
    pub number: u64,
}

/// How a client proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Credential {
    /// By nothing.
    None,
    /// By its secret.
    Secret,
    /// By an assertion signed with its certificate's key.
    Certificate,
    /// By another issuer's token.
    Federated,
    /// By where it runs: the virtual machine's form of managed identity.
    Imds,
    /// By where it runs: the App Service form.
    AppService,
}

impl Credential {
    /// The name in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Secret => "secret",
            Self::Certificate => "certificate",
            Self::Federated => "federated",
            Self::Imds => "imds",
            Self::AppService => "app-service",
        }
    }
}

/// A request for a token.
#[derive(Clone, Debug)]
pub struct TokenRecord {
    /// When it arrived, after the start.
    pub at: Duration,
    /// How the client proved who it is.
    pub credential: Credential,
    /// The status answered; `None` when there was no answer.
    pub status: Option<u16>,
    /// The AADSTS number of a refusal.
    pub code: Option<u32>,
    /// Names the token (its `uti`) that was issued.
    pub token_id: Option<String>,
    /// The token itself, for tests that look for it where it must not be.
    pub token: Option<Secret>,
    /// The client's `User-Agent`.
    pub user_agent: Option<String>,
}

/// Something that a gateway must never do, and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When, after the start.
    pub at: Duration,
    /// What, in words.
    pub what: String,
}
