//! The gateway's own entity tags, and the 304 for callers that have the body already.
//!
//! A tag is computed from the body as the caller gets it, links included, so that it is a strong
//! one (RFC 9110 §8.8.1).

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use ring::digest;

use crate::scan::{UpstreamResponse, hex};

/// Whether a response gets an entity tag (RFC 9110 §8.8.3), and which one the caller has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tag {
    /// Responses to `POST` and `QUERY` have none.
    #[default]
    None,
    /// A tag; the caller has none yet.
    Given,
    /// A tag, unless the caller's `If-None-Match` contains it; the lines of that field are joined
    /// by commas.
    Unless(Box<str>),
}

/// The answer with its tag; for a caller that has the same tag, a 304 without body. Only successful
/// answers have a tag.
pub(super) fn tagged(answer: UpstreamResponse, wanted: &Tag) -> (UpstreamResponse, Option<HeaderValue>) {
    if *wanted == Tag::None || answer.status != StatusCode::OK {
        return (answer, None);
    }
    let tag = tag(&answer.body);
    let value = HeaderValue::try_from(&tag).ok();
    let is_known = matches!(wanted, Tag::Unless(known) if matches(known, &tag));
    if !is_known {
        return (answer, value);
    }
    // RFC 9110 §15.4.5: of the fields that a 304 must repeat, these come from the upstream. Without
    // its `Date`, `Age` would count from now.
    let lasting = |name: &HeaderName| [header::CACHE_CONTROL, header::DATE].contains(name);
    let fields = answer.headers.iter().filter(|(name, _)| lasting(name));
    let unchanged = UpstreamResponse {
        status: StatusCode::NOT_MODIFIED,
        headers: fields.map(|(name, value)| (name.clone(), value)).collect(),
        body: Bytes::new(),
    };
    (unchanged, value)
}

/// Half of the SHA-256, which is enough that two bodies never share a tag.
fn tag(body: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, body);
    format!("\"{}\"", hex(&digest.as_ref()[..16]))
}

/// Whether `If-None-Match` contains the tag (RFC 9110 §13.1.2), by weak comparison; `*` alone
/// matches all. A tag may contain anything but quotes (§8.8.3), so that every second part between
/// quotes is one.
fn matches(known: &str, tag: &str) -> bool {
    let mut known_tags = known.split('"').skip(1).step_by(2);
    known.trim() == "*" || known_tags.any(|known| known == tag.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::Headers;

    fn answer(status: u16, body: &'static str) -> UpstreamResponse {
        UpstreamResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers: Headers::default(),
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn a_caller_with_the_same_tag_gets_no_body() {
        let (first, tag) = tagged(answer(200, "{}"), &Tag::Given);
        let tag = tag.unwrap().to_str().unwrap().to_owned();
        assert_eq!((first.status.as_u16(), &first.body[..]), (200, &b"{}"[..]));
        for known in [
            tag.clone(),
            format!("W/{tag}"),
            format!("\"x\", {tag}"),
            format!("\"a,*\",{tag}"),
            " * ".to_owned(),
        ] {
            let (again, same) = tagged(answer(200, "{}"), &Tag::Unless(known.into()));
            assert_eq!((again.status.as_u16(), again.body.len()), (304, 0));
            assert_eq!(same.unwrap(), tag.as_str());
        }
        // Commas and asterisks may be parts of a tag.
        let inside = format!("\"a, {}, b\"", tag.trim_matches('"'));
        for other in [
            "",
            "\"x\"",
            "x",
            tag.trim_matches('"'),
            "\"a,*,b\"",
            "\"x\", *",
            &inside,
        ] {
            let (again, _) = tagged(answer(200, "{}"), &Tag::Unless(other.into()));
            assert_eq!(again.status.as_u16(), 200, "{other}");
        }
        let (changed, _) = tagged(answer(200, "{ }"), &Tag::Unless(tag.clone().into()));
        assert_eq!(changed.status.as_u16(), 200);
    }

    #[test]
    fn a_304_has_the_fields_of_the_200_that_tell_how_long_it_is_good() {
        let fields = [
            ("content-type", "application/json"),
            ("cache-control", "no-cache"),
            ("date", "Sat, 28 Nov 2026 22:00:00 GMT"),
            ("odata-version", "4.0"),
        ];
        let stored = UpstreamResponse {
            headers: fields
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .into_iter()
                .collect(),
            ..answer(200, "{}")
        };
        let (unchanged, _) = tagged(stored, &Tag::Unless("*".into()));
        let names: Vec<_> = unchanged.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["cache-control", "date"]);
    }

    #[test]
    fn refusals_and_answers_to_requests_with_a_body_have_none() {
        assert_eq!(tagged(answer(404, "{}"), &Tag::Unless("*".into())).1, None);
        assert_eq!(tagged(answer(200, "{}"), &Tag::None).1, None);
    }
}
