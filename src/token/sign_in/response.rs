//! The response of a token endpoint: a token (RFC 6749 §5.1) or an error (§5.2).

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize as _;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::secret::Secret;
use crate::token::sign_in::answer::Unusable;

/// The assumed life if the response has none.
const DEFAULT_LIFE: Duration = Duration::from_mins(5);
/// Longer lives are cut; Entra's longest is 28 hours.
const MAX_LIFE: Duration = Duration::from_hours(7 * 24);

/// The members of a response that are used. Everything else is skipped unread.
#[derive(Debug)]
pub(super) struct TokenResponse {
    access_token: Result<Secret, Unusable>,
    expires_in: Option<Duration>,
    expires_on: Option<Timestamp>,
    refresh_in: Option<Duration>,
    pub(super) error: ErrorMembers,
}

/// The members of an error: those of RFC 6749, Entra's additions, and what other platforms send
/// instead.
#[derive(Debug, Default)]
pub(super) struct ErrorMembers {
    pub(super) error: String,
    pub(super) description: String,
    /// Entra's number, the first if there are several.
    pub(super) number: Option<u32>,
    pub(super) trace_id: String,
}

/// The members of a JSON object; of two with one name the last counts.
type Members<'a> = HashMap<String, &'a RawValue>;

impl TokenResponse {
    /// Parses a decoded body.
    ///
    /// # Errors
    ///
    /// When it is no JSON object.
    pub(super) fn parse(body: &str) -> Result<Self, Unusable> {
        // Anything after the object, as some proxies append it, is ignored.
        let mut deserializer = serde_json::Deserializer::from_str(body);
        let members = Members::deserialize(&mut deserializer).map_err(|_| Unusable::of_text(body))?;
        let member = |name: &str| members.get(name).copied();
        Ok(Self {
            access_token: member("access_token").map_or(Err(Unusable::NoToken), token),
            expires_in: member("expires_in").and_then(seconds),
            expires_on: member("expires_on").and_then(moment),
            refresh_in: member("refresh_in").and_then(seconds),
            error: ErrorMembers::of(&members),
        })
    }

    /// The token, if there is one that can be sent and has time left at `now`; with the moment at
    /// which its request left, and how long the machine had been suspended then.
    pub(super) fn issued(&self, now: Timestamp, (asked, suspended): (Instant, Duration)) -> Result<Issued, Unusable> {
        let secret = self.access_token.clone()?;
        let left = |at: Timestamp| Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO);
        let life = self.expires_in.or_else(|| self.expires_on.map(left));
        let life = life.unwrap_or(DEFAULT_LIFE).min(MAX_LIFE);
        if life.is_zero() {
            return Err(Unusable::TokenExpired);
        }
        Ok(Issued {
            secret,
            life,
            refresh_in: self.refresh_in.filter(|at| !at.is_zero() && *at < life),
            asked,
            suspended,
        })
    }
}

impl ErrorMembers {
    fn of(members: &Members<'_>) -> Self {
        let member = |name: &str| members.get(name).copied();
        let word = |name: &str| member(name).and_then(text);
        // Azure's other services answer with an object.
        let object = member("error").and_then(|error| serde_json::from_str::<Members<'_>>(error.get()).ok());
        let object = object.unwrap_or_default();
        let in_object = |name: &str| object.get(name).copied().and_then(text);
        // `message` is App Service's only description.
        let descriptions = [word("error_description"), word("message"), in_object("message")];
        Self {
            error: word("error").or_else(|| in_object("code")).unwrap_or_default(),
            description: descriptions
                .into_iter()
                .flatten()
                .find(|text| !text.is_empty())
                .unwrap_or_default(),
            number: member("error_codes").and_then(numbers),
            trace_id: word("trace_id").unwrap_or_default(),
        }
    }

    /// Entra's number, which its description repeats.
    pub(super) fn aadsts(&self) -> Option<u32> {
        self.number.or_else(|| {
            let (_, rest) = self.description.split_once("AADSTS")?;
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..end].parse().ok()
        })
    }
}

/// A body as text: UTF-8, or UTF-16 if its byte order mark says so, without the mark.
pub(super) fn decoded(body: &[u8]) -> Cow<'_, str> {
    let utf16 = |rest: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = rest.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
        Cow::Owned(String::from_utf16_lossy(&units))
    };
    match body {
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest),
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        _ => String::from_utf8_lossy(body),
    }
}

/// A token that can be sent.
fn token(value: &RawValue) -> Result<Secret, Unusable> {
    let token = text(value).map(|token| token.trim().to_owned());
    match token {
        _ if value.get() == "null" => Err(Unusable::NoToken),
        None => Err(Unusable::TokenNotText),
        Some(token) if token.is_empty() => Err(Unusable::TokenEmpty),
        // It has to be put into a header field.
        Some(token) if !token.bytes().all(|b| b.is_ascii_graphic()) => Err(Unusable::TokenNotSendable),
        Some(token) => Ok(Secret::new(token)),
    }
}

/// The value of a JSON string.
fn text(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// The text of a JSON string or number.
fn scalar(value: &RawValue) -> Option<String> {
    let is_number = value
        .get()
        .starts_with(|first: char| first == '-' || first.is_ascii_digit());
    if is_number {
        return Some(value.get().to_owned());
    }
    text(value).map(|text| text.trim().to_owned())
}

/// A finite number, written as a number or as a text.
fn number(value: &RawValue) -> Option<f64> {
    scalar(value)?.parse().ok().filter(|number: &f64| number.is_finite())
}

/// A time span in seconds; a negative one counts as zero.
fn seconds(value: &RawValue) -> Option<Duration> {
    let seconds = number(value)?;
    if seconds <= 0.0 {
        return Some(Duration::ZERO);
    }
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// A moment: a Unix second, or a date in one of the forms that App Service and proxies use.
fn moment(value: &RawValue) -> Option<Timestamp> {
    /// App Service's form before its version of 2019.
    const DATES: [&str; 2] = ["%m/%d/%Y %I:%M:%S %p %:z", "%m/%d/%Y %H:%M:%S %:z"];
    if let Some(seconds) = number(value) {
        // Fractions do not matter, and a moment outside the calendar counts as absent.
        #[expect(clippy::cast_possible_truncation, reason = "a cast of a float saturates")]
        return Timestamp::from_second(seconds as i64).ok();
    }
    let text = text(value)?;
    let text = text.trim();
    let parsed = text.parse::<Timestamp>().ok();
    parsed.or_else(|| DATES.iter().find_map(|form| Timestamp::strptime(form, text).ok()))
}

/// The first of Entra's numbers.
fn numbers(value: &RawValue) -> Option<u32> {
    let first = |list: Vec<&RawValue>| list.first().and_then(|first| whole(first));
    serde_json::from_str(value.get()).map_or_else(|_| whole(value), first)
}

fn whole(value: &RawValue) -> Option<u32> {
    scalar(value)?.parse().ok()
}

/// Whether a text is one JSON value of any kind.
pub(super) fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// A token fresh from sign-in.
#[derive(Debug)]
pub(in crate::token) struct Issued {
    pub(in crate::token) secret: Secret,
    /// Counted from the request; never zero.
    pub(in crate::token) life: Duration,
    /// When sign-in wants it to be renewed; shorter than `life`.
    pub(in crate::token) refresh_in: Option<Duration>,
    /// When the request left. The token's life is counted from here, which errs on the safe side.
    pub(in crate::token) asked: Instant,
    /// How long the machine had been suspended then.
    pub(in crate::token) suspended: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn spans_are_numbers_or_texts_of_numbers() {
        for (text, expected) in [
            ("3599", Some(3_599_000)),
            ("3599.0", Some(3_599_000)),
            ("3.599e3", Some(3_599_000)),
            ("\"3599\"", Some(3_599_000)),
            ("\" 3599.5 \"", Some(3_599_500)),
            ("-1", Some(0)),
            ("\"0\"", Some(0)),
            ("1e400", None),
            ("\"NaN\"", None),
            ("\"soon\"", None),
            ("\"\"", None),
            ("null", None),
            ("true", None),
            ("[3599]", None),
            ("{}", None),
        ] {
            assert_eq!(seconds(value(text)).map(|span| span.as_millis()), expected, "{text}");
        }
        assert_eq!(seconds(value("1e300")), Some(Duration::MAX));
    }

    #[test]
    fn moments_are_unix_seconds_or_dates() {
        let expected: Timestamp = "2026-11-05T13:05:09Z".parse().unwrap();
        for text in [
            "1793883909",
            "1793883909.0",
            "\"1793883909\"",
            "\"2026-11-05T13:05:09Z\"",
            "\"2026-11-05T14:05:09+01:00\"",
            "\"11/5/2026 1:5:9 PM +00:00\"",
            "\"11/05/2026 13:05:09 +00:00\"",
        ] {
            assert_eq!(moment(value(text)), Some(expected), "{text}");
        }
        for text in ["\"tomorrow\"", "1e18", "null", "[]", "true", "\"\""] {
            assert_eq!(moment(value(text)), None, "{text}");
        }
    }

    #[test]
    fn bodies_are_decoded_by_their_mark() {
        let utf16 = |text: &str, bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
        for body in [
            b"{\"a\":1}".to_vec(),
            b"\xef\xbb\xbf{\"a\":1}".to_vec(),
            utf16("\u{feff}{\"a\":1}", u16::to_le_bytes),
            utf16("\u{feff}{\"a\":1}", u16::to_be_bytes),
        ] {
            assert_eq!(decoded(&body), "{\"a\":1}");
        }
        assert_eq!(decoded(b"caf\xe9"), "caf\u{fffd}");
    }

    #[test]
    fn members_that_are_not_used_are_not_read_and_of_two_the_last_counts() {
        let text = r#"{"expires_in": 1e400, "not_before": 1e999, "ext_expires_in": [[{}]], "access_token": 5,
            "resource": "\ud800", "\u0061ccess_token": " t ", "expires_in": "60"} <!-- proxied -->"#;
        let issued = TokenResponse::parse(text)
            .unwrap()
            .issued(Timestamp::UNIX_EPOCH, (Instant::now(), Duration::ZERO))
            .unwrap();
        assert_eq!(issued.secret.expose(), "t");
        assert_eq!(issued.life, Duration::from_mins(1));
    }

    #[test]
    fn errors_are_read_in_every_form() {
        let read = |text: &str| {
            let error = TokenResponse::parse(text).unwrap().error;
            (error.error.clone(), error.description.clone(), error.aadsts())
        };
        let said = |error: &str, description: &str, number| (error.to_owned(), description.to_owned(), number);
        assert_eq!(
            read(r#"{"error":"invalid_client","error_description":"AADSTS7000215: no.","error_codes":[7000215]}"#),
            said("invalid_client", "AADSTS7000215: no.", Some(7_000_215))
        );
        for codes in [r#"["7000215", 1]"#, "7000215", r#""7000215""#] {
            assert_eq!(
                read(&format!(r#"{{"error_codes":{codes}}}"#)),
                said("", "", Some(7_000_215)),
                "{codes}"
            );
        }
        assert_eq!(
            read(r#"{"error":"x","error_codes":"odd","error_description":"AADSTS50194: no."}"#),
            said("x", "AADSTS50194: no.", Some(50_194))
        );
        assert_eq!(
            read(r#"{"error":{"code":"Forbidden","message":"not here"}}"#),
            said("Forbidden", "not here", None)
        );
        assert_eq!(
            read(r#"{"statusCode":400,"message":"no identity"}"#),
            said("", "no identity", None)
        );
        assert_eq!(
            read(r#"{"error":7,"error_codes":[],"trace_id":{}}"#),
            said("", "", None)
        );
    }
}
