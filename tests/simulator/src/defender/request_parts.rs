//! Parses a request, as strictly as the documentation allows.
//!
//! It is independent of the gateway's own parser on purpose, so that a mistake there is not
//! repeated here.

use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::Value;

use super::answer::Refusal;
use crate::history::By;

/// The largest `$top` documented.
const MOST_ROWS: u32 = 10_000;

/// The largest `$skip` that an `Edm.Int32` holds.
const MOST_SKIPPED: u32 = 2_147_483_647;

/// The query options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) top: Option<u32>,
    pub(super) skip: Option<u32>,
}

impl Options {
    /// Parses `$top` and `$skip`; other options are rejected, except those in the simulator's own
    /// links.
    pub(super) fn read(query: Option<&str>) -> Result<Self, Refusal> {
        let mut options = Self::default();
        let pairs: Vec<_> = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).collect();
        let is_custom = pairs.iter().any(|(name, _)| name == "position");
        for (name, value) in pairs {
            if let Some(skip) = Self::linked(&name, &value)? {
                options.skip = Some(skip);
                continue;
            }
            let (place, least, most) = match &*name {
                "" if is_custom => continue,
                "$top" => (&mut options.top, 1, MOST_ROWS),
                "$skip" => (&mut options.skip, 0, MOST_SKIPPED),
                _ => {
                    let message = format!("The query parameter '{name}' is not supported.");
                    return Err(Refusal::odata(message));
                }
            };
            if place.is_some() {
                let message = format!("Query option '{name}' was specified more than once.");
                return Err(Refusal::odata(message));
            }
            *place = Some(number(&name, &value, least, most)?);
        }
        Ok(options)
    }

    /// Parses the options of a list, of which none is documented: several names for its size are
    /// accepted, and unknown options are ignored. Returns the name that was used, too.
    pub(super) fn of_list(query: Option<&str>) -> Result<(Self, Option<&'static str>), Refusal> {
        let mut options = Self::default();
        let mut size = None;
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if let Some(skip) = Self::linked(&name, &value)? {
                options.skip = Some(skip);
                continue;
            }
            size = match &*name {
                "$skip" => {
                    options.skip = Some(number(&name, &value, 0, MOST_SKIPPED)?);
                    continue;
                }
                "$top" => Some("$top"),
                other if other.eq_ignore_ascii_case("pagesize") => Some("pagesize"),
                _ => continue,
            };
            options.top = Some(number(&name, &value, 1, MOST_ROWS)?);
        }
        Ok((options, size))
    }

    /// The token for this many rows in a link. Only the simulator can read it, and it needs escapes
    /// in a query.
    pub(super) fn token(skip: usize) -> String {
        format!("{:08x}%2Fpage%3D%3D", skip ^ 0x5A5A_5A5A)
    }

    /// How many rows the simulator's own links skip by this option.
    fn linked(name: &str, value: &str) -> Result<Option<u32>, Refusal> {
        match name {
            "position" => number(name, value, 0, MOST_SKIPPED).map(Some),
            "$skiptoken" => Self::skipped(value).map(Some),
            _ => Ok(None),
        }
    }

    fn skipped(token: &str) -> Result<u32, Refusal> {
        let digits = token.strip_suffix("/page==");
        let skip = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        skip.map(|skip| skip ^ 0x5A5A_5A5A)
            .filter(|skip| *skip <= MOST_SKIPPED)
            .ok_or_else(|| Refusal::odata("Skip token is malformed."))
    }
}

fn number(name: &str, value: &str, least: u32, most: u32) -> Result<u32, Refusal> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let read = if digits { value.parse::<u32>().ok() } else { None };
    match read {
        Some(read) if (least..=most).contains(&read) => Ok(read),
        Some(read) if read > most => Err(Refusal::odata(format!(
            "The limit of '{most}' for {name} query has been exceeded. The value from the incoming request is '{read}'."
        ))),
        _ => Err(Refusal::odata(format!(
            "Invalid value '{value}' for {name} query option found."
        ))),
    }
}

/// The body: exactly one member, an array of strings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ByDefinition {
    #[serde(rename = "ScanDefinitionIds")]
    ids: Vec<String>,
}

/// The same for sessions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BySession {
    #[serde(rename = "SessionIds")]
    ids: Vec<String>,
}

/// Parses the ids of a body.
pub(super) fn ids(by: By, headers: &HeaderMap, body: &[u8], most: Option<usize>) -> Result<Vec<String>, Refusal> {
    if !is_json(headers) {
        return Err(Refusal::bad(
            "InvalidRequestBody",
            "The content type must be application/json.",
        ));
    }
    let invalid =
        |error: serde_json::Error| Refusal::bad("InvalidRequestBody", format!("Request body is incorrect: {error}"));
    let Value::Object(members) = serde_json::from_slice(body).map_err(invalid)? else {
        return Err(Refusal::bad(
            "InvalidRequestBody",
            "Request body is incorrect: not an object",
        ));
    };
    if members.is_empty() {
        return Err(missing(by));
    }
    // Parsed again from the bytes, because only this finds doubled members.
    let ids = match by {
        By::Definition => serde_json::from_slice(body).map(|ByDefinition { ids }| ids),
        By::Session => serde_json::from_slice(body).map(|BySession { ids }| ids),
    };
    let ids = ids.map_err(invalid)?;
    match most {
        _ if ids.is_empty() => Err(missing(by)),
        Some(most) if ids.len() > most => Err(Refusal::bad(
            "MaximumBatchSizeExceeded",
            format!("Received {}, allowed {most}.", ids.len()),
        )),
        _ => Ok(ids),
    }
}

fn missing(by: By) -> Refusal {
    let member = match by {
        By::Definition => "ScanDefinitionIds",
        By::Session => "SessionIds",
    };
    Refusal::bad("MissingRequiredParameter", format!("Parameter {member} is missing."))
}

/// `application/json`, at most with `charset=utf-8`.
fn is_json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return false;
    };
    let text = value.to_str().unwrap_or_default().to_ascii_lowercase();
    let mut parts = text.split(';').map(str::trim);
    parts.next() == Some("application/json") && parts.all(|part| matches!(part, "charset=utf-8" | "charset=\"utf-8\""))
}

/// The token of an `Authorization: Bearer` field, of which there must be one.
pub(super) fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let refused = |reason| Err(Refusal::unauthorized(reason));
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value,
        (None, _) => return refused("no token"),
        _ => return refused("more than one token"),
    };
    let parts = value.to_str().ok().and_then(|value| value.split_once(' '));
    match parts {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => refused("not a bearer token"),
    }
}
