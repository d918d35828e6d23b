//! Classifies responses of upstream hosts: whether they are Defender's answers.
//!
//! Between the gateway and Defender there are front ends, proxies and portals that respond in its
//! place: with an HTML page and 200, with an empty body, with a status of their own. Such a
//! response says nothing about the request. A response counts as an answer only if it has the shape
//! of Defender's answers.
//!
//! Pure: the consequences (another region, a stale answer, nothing stored) are decided by the
//! callers.

use std::fmt;

use http::{StatusCode, header};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::operation::Shape;
use crate::scan::{Endpoint, UpstreamResponse};

/// The class of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseKind {
    /// Defender's answer: rows, or a rejection of the request in Defender's format (such as 400,
    /// 401, 403, 404).
    Answer,
    /// 429, in whatever format: it must reach the ledger even if a front end sent it.
    Throttled,
    /// No answer: the host, or something in front of it, could not give one.
    Fault(ResponseFault),
}

/// Why a response is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ResponseFault {
    /// The status says so, in whatever format: 5xx, 408 (it did not get the request in time), 421
    /// (the request was for another host), 425.
    #[error("the status says that the upstream could not answer")]
    Unavailable,
    /// A status that Defender does not use: 1xx, 2xx other than 200, 3xx, or above 599.
    #[error("Defender does not answer with this status")]
    Status,
    /// The content type is not JSON. If it is missing, the body decides.
    #[error("the content type is not JSON")]
    ContentType,
    /// There is no body.
    #[error("the body is empty")]
    Empty,
    /// The body is not one whole JSON object: it was cut off, or is something else.
    #[error("the body is not a whole JSON object")]
    NotJson,
    /// 200 without an array `value` (for an entity: or an `id`), or with an `error` besides;
    /// another status without an object `error`.
    #[error("the body is not of the shape of Defender's answers")]
    Shape,
}

impl ResponseFault {
    /// Whether the response may be passed on when there is nothing better: its status alone says
    /// that it is no answer. The status of everything else would mislead, such as the 200 of a
    /// portal, or the 404 of a front end that knows no such site.
    pub fn may_pass(self) -> bool {
        self == Self::Unavailable
    }
}

impl ResponseKind {
    /// The class of a response to a request to `endpoint`. Of a 200 the whole body is checked.
    pub fn of(endpoint: Endpoint, response: &UpstreamResponse) -> Self {
        let status = response.status;
        let expected = match status.as_u16() {
            429 => return Self::Throttled,
            408 | 421 | 425 | 500..=599 => return Self::Fault(ResponseFault::Unavailable),
            200 => match endpoint.operation.declaration().shape {
                Shape::List => Expected::Rows,
                Shape::Entity => Expected::Entity,
            },
            400..=499 => Expected::Error,
            _ => return Self::Fault(ResponseFault::Status),
        };
        match check(response, expected) {
            Ok(()) => Self::Answer,
            Err(fault) => Self::Fault(fault),
        }
    }

    /// Whether it is an answer to the request, rows or a rejection.
    pub fn is_answer(self) -> bool {
        self == Self::Answer
    }
}

impl UpstreamResponse {
    /// Whether its content type is JSON or missing.
    pub fn may_be_json(&self) -> bool {
        let mut types = self.headers.get_all(header::CONTENT_TYPE);
        types.all(|value| value.to_str().is_ok_and(is_json))
    }
}

/// Whether a status says that the upstream could not answer now.
pub fn is_unavailable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 421 | 425 | 429 | 500..=599)
}

/// The member that the body must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// An array `value`, and no `error`.
    Rows,
    /// An `id` that is no object, or an array `value`; and no `error`.
    Entity,
    /// An object `error`.
    Error,
}

fn check(response: &UpstreamResponse, expected: Expected) -> Result<(), ResponseFault> {
    if !response.may_be_json() {
        return Err(ResponseFault::ContentType);
    }
    let body = without_mark(&response.body);
    if body.trim_ascii().is_empty() {
        return Err(ResponseFault::Empty);
    }
    // The parser checks strings only as far as it must.
    if std::str::from_utf8(body).is_err() {
        return Err(ResponseFault::NotJson);
    }
    let members: Members = serde_json::from_slice(body).map_err(|_| ResponseFault::NotJson)?;
    let fits = match expected {
        Expected::Rows => members.value == Some(Kind::Array) && members.has_no_error(),
        Expected::Entity => {
            (members.value == Some(Kind::Array) || members.id == Some(Kind::Scalar)) && members.has_no_error()
        }
        Expected::Error => members.error == Some(Kind::Object),
    };
    if fits { Ok(()) } else { Err(ResponseFault::Shape) }
}

/// `body` without a byte order mark, which parsers may ignore (RFC 8259 §8.1).
pub(super) fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body)
}

/// Whether a media type is JSON, or a type based on it (RFC 6839 §3.1), with any parameters.
fn is_json(media: &str) -> bool {
    let essence = media.split(';').next().unwrap_or_default().trim();
    let Some((kind, name)) = essence.split_once('/') else {
        return false;
    };
    let ends_with = |suffix: &str| {
        name.len()
            .checked_sub(suffix.len())
            .and_then(|start| name.get(start..))
            .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
    };
    (kind.eq_ignore_ascii_case("application") || kind.eq_ignore_ascii_case("text"))
        && (name.eq_ignore_ascii_case("json") || ends_with("+json"))
}

/// The members that tell what an answer is. Of doubled members the last one counts, as for most
/// parsers.
#[derive(Default)]
struct Members {
    value: Option<Kind>,
    error: Option<Kind>,
    id: Option<Kind>,
}

impl Members {
    fn has_no_error(&self) -> bool {
        matches!(self.error, None | Some(Kind::Null))
    }
}

/// The type of a JSON value, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Null,
    Scalar,
    Array,
    Object,
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Members::default();
                while let Some(name) = map.next_key::<super::row::Text<'de>>()? {
                    match &*name.0 {
                        "value" => members.value = Some(map.next_value()?),
                        "error" => members.error = Some(map.next_value()?),
                        // Some of the documentation's examples are in Pascal case.
                        "id" | "Id" => members.id = Some(map.next_value()?),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(members)
            }
        }
        json.deserialize_map(Reader)
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Kind;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E>(self) -> Result<Kind, E> {
                Ok(Kind::Null)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Kind, E> {
                Ok(Kind::Scalar)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Kind, E> {
                Ok(Kind::Scalar)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Kind, E> {
                Ok(Kind::Scalar)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Kind, E> {
                Ok(Kind::Scalar)
            }

            fn visit_str<E>(self, _: &str) -> Result<Kind, E> {
                Ok(Kind::Scalar)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Kind, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Kind::Array)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Kind::Object)
            }
        }
        json.deserialize_any(Reader)
    }
}
