//! The records of calls, token requests and violations.

use std::time::Duration;

use http::HeaderMap;
use serde::{Serialize, Serializer};

use crate::operation::Operation;
use crate::secret::Secret;
use crate::telemetry::named_enum;

/// A request that reached a region's host. In the log, members may be added, but never renamed.
#[derive(Clone, Debug, Serialize)]
pub struct CallRecord {
    /// When it arrived and was counted, after the start, exact to the microsecond.
    #[serde(rename = "at_us", serialize_with = "micros")]
    pub at: Duration,
    /// The region whose host it reached.
    pub region: String,
    /// The method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The query as it came, if any.
    #[serde(skip)]
    pub query: Option<String>,
    /// 1.1 or 2, as `HTTP/1.1` and `HTTP/2.0`.
    #[serde(skip)]
    pub version: String,
    /// The operation, if it was for one: only such calls are limited.
    #[serde(serialize_with = "is_some")]
    pub operation: Option<Operation>,
    /// The requested ids, as they came; empty when the body was rejected, or for a list.
    pub ids: Vec<String>,
    /// `$top`, if it was valid.
    pub top: Option<u32>,
    /// `$skip`, if it was valid.
    pub skip: Option<u32>,
    /// The token's id (`uti`), when the token was valid.
    pub token_id: Option<String>,
    /// The caller's `x-request-id`.
    pub request_id: Option<String>,
    /// All fields but `Authorization`.
    #[serde(skip)]
    pub headers: HeaderMap,
    /// The status of the response; `None` while there is none, or when there never will be one.
    pub status: Option<u16>,
    /// The name of its fault.
    pub fault: Option<&'static str>,
    /// How long the answer took, from the first byte of the request.
    #[serde(rename = "latency_us", serialize_with = "optional_micros")]
    pub latency: Option<Duration>,
    /// The order of arrival, from 0, over all regions.
    pub number: u64,
}

named_enum! {
    /// The kinds of credential that a client can present.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum Credential, as_str {
        /// None.
        None = "none",
        /// A secret.
        Secret = "secret",
        /// An assertion signed with a certificate's key.
        Certificate = "certificate",
        /// Another issuer's token.
        Federated = "federated",
        /// The virtual machine's form of managed identity.
        Imds = "imds",
        /// The App Service form of managed identity.
        AppService = "app-service",
    }
}

/// A request for a token.
#[derive(Clone, Debug)]
pub struct TokenRecord {
    /// When it arrived, after the start.
    pub at: Duration,
    /// The kind of credential.
    pub credential: Credential,
    /// The status of the response; `None` when there was none.
    pub status: Option<u16>,
    /// The AADSTS number of an error.
    pub code: Option<u32>,
    /// The id (`uti`) of the issued token.
    pub token_id: Option<String>,
    /// The token itself, for tests that look for it where it must not be.
    pub token: Option<Secret>,
    /// The client's `User-Agent`.
    pub user_agent: Option<String>,
}

fn micros<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    u64::try_from(span.as_micros())
        .unwrap_or(u64::MAX)
        .serialize(serializer)
}

fn optional_micros<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    span.map(|span| u64::try_from(span.as_micros()).unwrap_or(u64::MAX))
        .serialize(serializer)
}

fn is_some<S: Serializer, T>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    value.is_some().serialize(serializer)
}

/// Something that a gateway must never do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When it happened, after the start.
    pub at: Duration,
    /// A description.
    pub what: String,
}
