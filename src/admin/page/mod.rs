//! The status page: one document, no outside resources, which asks `/status` again and again.
//!
//! Its script writes text nodes only, so that no caller's name can become markup, and its content
//! security policy allows nothing but this very script, this very style, and requests to this
//! listener.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Response, header};
use ring::digest::{SHA256, digest};

use super::service::content;
use crate::response::Body;

const MARKUP: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = concat!(include_str!("chart.js"), include_str!("page.js"));

/// The document and its policy.
#[derive(Debug)]
pub(super) struct Page {
    document: Bytes,
    policy: Option<HeaderValue>,
}

impl Page {
    pub(super) fn new() -> Self {
        let document = MARKUP.replace("/*style*/", STYLE).replace("/*script*/", SCRIPT);
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'",
            fingerprint(STYLE),
            fingerprint(SCRIPT)
        );
        Self {
            document: document.into(),
            policy: HeaderValue::try_from(policy).ok(),
        }
    }

    pub(super) fn answer(&self) -> Response<Body> {
        let mut answer = content("text/html; charset=utf-8", self.document.clone());
        if let Some(policy) = &self.policy {
            answer
                .headers_mut()
                .insert(header::CONTENT_SECURITY_POLICY, policy.clone());
        }
        answer
    }
}

/// What a browser compares a script or style with (CSP Level 3).
fn fingerprint(text: &str) -> String {
    STANDARD.encode(digest(&SHA256, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_self_contained_and_its_policy_fits_it() {
        let page = Page::new();
        let text = std::str::from_utf8(&page.document).unwrap();
        assert!(text.contains(&format!("<style>{STYLE}</style>")));
        assert!(text.contains(&format!("<script>{SCRIPT}</script>")));
        assert!(!SCRIPT.contains("innerHTML"));
        // The name of a vocabulary, not an address.
        let text = text.replace("\"http://www.w3.org/2000/svg\"", "");
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!text.contains(outside), "{outside}");
        }
        assert!(page.policy.is_some());
    }
}
