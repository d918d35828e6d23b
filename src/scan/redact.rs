//! Replaces credentials in answers, which are found by the names of their members.

use std::ops::Range;

use bytes::Bytes;
use http::HeaderValue;
use http::header::CACHE_CONTROL;
use serde::de::IgnoredAny;

use crate::scan::members::{each_element, each_member, range_in, text_of};
use crate::scan::{Endpoint, UpstreamResponse};

/// The replacement of a value that may contain credentials.
const NOTHING: &str = "null";

/// The deepest nesting that is searched. Defender's answers have three levels.
const DEPTH: u8 = 100;

impl UpstreamResponse {
    /// The answer to a request to `endpoint` with null in place of every value that may contain
    /// credentials; no other byte changes.
    ///
    /// An answer that cannot be parsed and may contain some loses its body.
    pub fn without_secrets(self, endpoint: Endpoint) -> Self {
        let names = endpoint.operation.declaration().secrets;
        match secrets(names, &self.body) {
            Some(found) if found.is_empty() => self,
            Some(found) => Self {
                body: replaced(&self.body, &found),
                ..self
            },
            None if may_mention(names, &self.body) => Self {
                body: Bytes::new(),
                ..self
            },
            None => self,
        }
    }

    /// The same with the credentials in it, and if there may be some, with the order to all caches on
    /// the way not to store it.
    pub fn with_secrets(self, endpoint: Endpoint) -> Self {
        if !self.may_hold_secrets(endpoint) {
            return self;
        }
        let others = self.headers.iter().filter(|(name, _)| **name != CACHE_CONTROL);
        let others = others.map(|(name, value)| (name.clone(), value.clone()));
        let headers = others
            .chain([(CACHE_CONTROL, HeaderValue::from_static("no-store"))])
            .collect();
        Self { headers, ..self }
    }

    /// Whether an answer of `endpoint` may contain credentials, and must not be stored anywhere.
    pub fn may_hold_secrets(&self, endpoint: Endpoint) -> bool {
        let names = endpoint.operation.declaration().secrets;
        match secrets(names, &self.body) {
            Some(found) => !found.is_empty(),
            None => may_mention(names, &self.body),
        }
    }
}

fn replaced(body: &Bytes, found: &[Range<usize>]) -> Bytes {
    let mut text = Vec::with_capacity(body.len());
    let mut copied = 0;
    for secret in found {
        text.extend_from_slice(&body[copied..secret.start]);
        text.extend_from_slice(NOTHING.as_bytes());
        copied = secret.end;
    }
    text.extend_from_slice(&body[copied..]);
    text.into()
}

/// The ranges of the values that may contain credentials and are not null, in order; `None` when
/// the body is no JSON, or nested too deeply.
fn secrets(names: &[&str], body: &[u8]) -> Option<Vec<Range<usize>>> {
    let mut found = Vec::new();
    if !names.is_empty() {
        search(names, text_of(body)?, DEPTH, &mut found)?;
    }
    Some(found.into_iter().map(|secret| range_in(body, secret)).collect())
}

fn search<'a>(names: &[&str], value: &'a str, depth: u8, found: &mut Vec<&'a str>) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    match value.trim_ascii_start().as_bytes().first() {
        Some(b'[') => each_element(value, |element| search(names, element, depth, found)),
        Some(b'{') => each_member(value, |(name, value)| {
            // Names differ in case between the documentation and the service.
            if !names.iter().any(|secret| secret.eq_ignore_ascii_case(&name)) {
                return search(names, value, depth, found);
            }
            found.extend(Some(value).filter(|value| *value != NOTHING));
            Some(())
        }),
        _ => serde_json::from_str::<IgnoredAny>(value).ok().map(drop),
    }
}

/// Whether a text contains one of the names in any form. An escape may hide it.
fn may_mention(names: &[&str], body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body).to_ascii_lowercase();
    let is_there = |name: &&str| text.contains(&name.to_ascii_lowercase());
    names.iter().any(is_there) || !names.is_empty() && text.contains("\\u")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Headers, Operation};
    use http::StatusCode;
    use proptest::prelude::*;

    const DEFINITIONS: Endpoint = Endpoint::latest(Operation::Definitions);

    fn redacted(body: impl Into<Bytes>) -> String {
        let answer = UpstreamResponse {
            status: StatusCode::OK,
            headers: Headers::default(),
            body: body.into(),
        };
        let answer = answer.without_secrets(DEFINITIONS);
        assert!(!answer.may_hold_secrets(DEFINITIONS));
        String::from_utf8(answer.body.to_vec()).unwrap()
    }

    /// From the documentation of "Add a new scan definition".
    const DOCUMENTED: &str = r#"{
    "@odata.context": "https://api.securitycenter.microsoft.com/api/$metadata#DeviceAuthenticatedScanDefinitions/$entity",
    "scanType": "Network",
    "scanAuthenticationParams": {
        "@odata.type": "\#microsoft.windowsDefenderATP.api.SnmpAuthParams",
        "type": "AuthPriv",
        "username": "username",
        "authProtocol": "authProtocol",
        "authPassword": "authPassword",
        "privProtocol": "privProtocol",
        "privPassword": "privPassword",
        "communityString": "community-string"
    },
    "intervalInHours": 1e3
}"#;

    #[test]
    fn the_documented_example_loses_its_credentials_and_nothing_else() {
        // The documentation escapes the number sign, which is no JSON; the service does not.
        let body = DOCUMENTED.replace("\\#", "#");
        let start = body.find("{\n        \"@odata.type\"").unwrap();
        let end = body.find("},\n    \"interval").unwrap() + 1;
        assert_eq!(
            redacted(body.clone()),
            format!("{}null{}", &body[..start], &body[end..])
        );
        assert_eq!(
            redacted(DOCUMENTED),
            "",
            "what is no JSON and mentions them is not passed on"
        );
    }

    #[test]
    fn they_are_found_at_every_depth_in_every_spelling_and_form() {
        for (body, expected) in [
            (
                r#"{"value":[{"scanAuthenticationParams":{"a":1}},{"scanAuthenticationParams":null}]}"#,
                r#"{"value":[{"scanAuthenticationParams":null},{"scanAuthenticationParams":null}]}"#,
            ),
            (
                r#"{"ScanAuthenticationParams":"x"}"#,
                r#"{"ScanAuthenticationParams":null}"#,
            ),
            (
                r#"{"\u0073canAuthenticationParams" : [1, 2] }"#,
                r#"{"\u0073canAuthenticationParams" : null }"#,
            ),
            (
                r#"{"a":{"b":[[{"scanauthenticationparams":{"scanAuthenticationParams":1}}]]},"scanAuthenticationParams":0}"#,
                r#"{"a":{"b":[[{"scanauthenticationparams":null}]]},"scanAuthenticationParams":null}"#,
            ),
            (
                "\u{feff}{\"scanAuthenticationParams\":true}",
                "\u{feff}{\"scanAuthenticationParams\":null}",
            ),
            (
                r#"{"scanName":"scanAuthenticationParams","x":[]}"#,
                r#"{"scanName":"scanAuthenticationParams","x":[]}"#,
            ),
            (
                r#"[{"scanAuthenticationParams":{}}]"#,
                r#"[{"scanAuthenticationParams":null}]"#,
            ),
            (
                r#"{"a":{"scanAuthenticationParams":1},"scanAuthenticationParams":2,"b":["\""]}"#,
                r#"{"a":{"scanAuthenticationParams":null},"scanAuthenticationParams":null,"b":["\""]}"#,
            ),
            (r#""scanAuthenticationParams""#, r#""scanAuthenticationParams""#),
            (r#"{"scanAuthenticationParams":{"authPassword":"p""#, ""),
            ("<html>no such page</html>", "<html>no such page</html>"),
        ] {
            assert_eq!(redacted(body), expected, "{body}");
        }
    }

    #[test]
    fn deep_nesting_takes_no_deep_stack() {
        let nested = |inner: &str| format!("{}{inner}{}", "[".repeat(1 << 18), "]".repeat(1 << 18));
        assert_eq!(redacted(nested(r#"{"scanAuthenticationParams":1}"#)), "");
        assert_eq!(redacted(nested("1")), nested("1"), "nothing in it has that name");
    }

    #[test]
    fn answers_of_other_operations_are_left_alone() {
        let answer = UpstreamResponse {
            status: StatusCode::OK,
            headers: Headers::default(),
            body: Bytes::from_static(br#"{"scanAuthenticationParams":1}"#),
        };
        let agents = Endpoint::latest(Operation::Agents);
        assert!(!answer.may_hold_secrets(agents));
        assert_eq!(answer.clone().without_secrets(agents), answer);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let answer = UpstreamResponse { status: StatusCode::OK, headers: Headers::default(), body: body.into() };
            prop_assert!(!answer.without_secrets(DEFINITIONS).may_hold_secrets(DEFINITIONS));
        }
    }
}
