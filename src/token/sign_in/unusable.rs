//! Why a successful token request has no usable token.

use std::fmt;

use http::{HeaderMap, StatusCode, header};

use super::response;

/// What is wrong with a response. Its text never quotes the response, which may contain a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("its body is empty")]
    Empty,
    #[error("its body is a web page, as login pages and proxies send it")]
    WebPage,
    #[error("its body is not JSON")]
    NotJson,
    #[error("its body is JSON, but not an object")]
    NotObject,
    #[error("its JSON has no access_token")]
    NoToken,
    #[error("its access_token is not a text")]
    TokenNotText,
    #[error("its access_token is empty")]
    TokenEmpty,
    #[error("its access_token holds characters that no header field can carry")]
    TokenNotSendable,
    #[error("its token has expired already, by expires_in or expires_on")]
    TokenExpired,
    #[error("it redirects, which is not followed")]
    Redirect,
}

impl Unusable {
    /// What a text is that is no JSON object.
    pub(super) fn of_text(text: &str) -> Self {
        match text.trim_start().as_bytes().first() {
            None => Self::Empty,
            Some(b'<') => Self::WebPage,
            Some(b'{') => Self::NotJson,
            Some(_) if response::is_json(text) => Self::NotObject,
            Some(_) => Self::NotJson,
        }
    }

    /// The problem together with the response's status and type:
    /// `HTTP 200, text/html: its body is empty`.
    pub(super) fn explained(self, status: StatusCode, headers: &HeaderMap) -> String {
        format!("HTTP {}, {}: {self}", status.as_u16(), ContentType(headers))
    }
}

/// The media type of a response, in a bounded form that can be logged.
struct ContentType<'h>(&'h HeaderMap);

impl fmt::Display for ContentType<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media = value.and_then(|value| value.split(';').next()).map(str::trim);
        let is_token = |c: char| c.is_ascii_alphanumeric() || "/.+-".contains(c);
        match media {
            Some(media) if (1..=64).contains(&media.len()) && media.chars().all(is_token) => f.write_str(media),
            Some(_) => f.write_str("an odd content type"),
            None => f.write_str("no content type"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_told_apart() {
        for (text, expected) in [
            ("", Unusable::Empty),
            (" \r\n", Unusable::Empty),
            ("\n<!DOCTYPE html>", Unusable::WebPage),
            ("{\"access_token\":", Unusable::NotJson),
            ("Too Many Requests", Unusable::NotJson),
            ("[1]", Unusable::NotObject),
            ("\"token\"", Unusable::NotObject),
            ("null", Unusable::NotObject),
        ] {
            assert_eq!(Unusable::of_text(text), expected, "{text}");
        }
    }

    #[test]
    fn the_content_type_is_shown_in_a_bounded_form() {
        let explained = |value: &[u8]| {
            let value = http::HeaderValue::from_bytes(value).unwrap();
            Unusable::Empty.explained(StatusCode::OK, &HeaderMap::from_iter([(header::CONTENT_TYPE, value)]))
        };
        assert_eq!(
            explained(b"text/html; charset=utf-8"),
            "HTTP 200, text/html: its body is empty"
        );
        for odd in [&b"x\xff"[..], b"a b", &[b'a'; 100]] {
            let text = explained(odd);
            assert!(text.ends_with("content type: its body is empty"), "{text}");
        }
    }
}
