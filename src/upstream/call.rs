//! A question as an HTTP request.

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderName, USER_AGENT};
use http::{HeaderValue, Method, Request};
use url::Url;

use crate::attempt::Signed;
use crate::scan;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The request for `signed`; `None` when base address or token cannot be put into one, which neither configuration nor sign-in lets by.
pub(super) fn request(signed: &Signed, user_agent: &HeaderValue) -> Option<Request<Bytes>> {
    let outgoing = &signed.routed.outgoing;
    let uri = address(&signed.routed.base, &outgoing.request);
    let mut bearer = HeaderValue::try_from(format!("Bearer {}", signed.bearer.expose())).ok()?;
    bearer.set_sensitive(true);
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(uri.as_str())
        .body(outgoing.request.body())
        .ok()?;
    let headers = request.headers_mut();
    headers.insert(AUTHORIZATION, bearer);
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(ACCEPT, JSON);
    // Bodies pass through byte for byte, and not every caller can decompress.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, user_agent.clone());
    if let Ok(id) = HeaderValue::from_str(&outgoing.caller.request_id) {
        headers.insert(REQUEST_ID, id);
    }
    Some(request)
}

/// The operation's fixed path on `base`, with the paging options and nothing else: no other path can be built here.
fn address(base: &Url, question: &scan::Request) -> Url {
    let mut url = base.clone();
    url.set_path(question.upstream_path());
    url.set_fragment(None);
    url.set_query(question.query().as_deref());
    url
}
