//! Builds the HTTP request of a call.

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderName, USER_AGENT};
use http::{HeaderValue, Request, Uri};
use url::Url;

use crate::attempt::Authorized;
use crate::operation::Input;
use crate::scan;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The number of header fields set here, with room for those of a trace and the client.
const FIELDS: usize = 10;
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The request for `signed`; `None` when the base address cannot be put into a request, or the
/// token into a header field, which the sign-in does not allow.
pub(super) fn request(signed: &Authorized, user_agent: &HeaderValue) -> Option<Request<Bytes>> {
    let charged = &signed.routed.charged;
    let bearer = signed.bearer.bearer()?;
    let mut request = Request::new(charged.request.body());
    let declared = charged.request.endpoint().operation.declaration();
    *request.method_mut() = declared.upstream_method();
    *request.uri_mut() = address(&signed.routed.base, &charged.request)?;
    let headers = request.headers_mut();
    headers.reserve(FIELDS);
    headers.insert(AUTHORIZATION, bearer);
    if declared.input != Input::Path {
        headers.insert(CONTENT_TYPE, JSON);
    }
    headers.insert(ACCEPT, JSON);
    // Bodies are passed on byte for byte, and not every caller can decompress them.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, user_agent.clone());
    if let Ok(id) = HeaderValue::from_str(charged.caller.request_id.as_str()) {
        headers.insert(REQUEST_ID, id);
    }
    Some(request)
}

/// The operation's own path on the host, with the request's query and nothing else. No other path
/// can be built here.
fn address(base: &Url, request: &scan::Request) -> Option<Uri> {
    let mut url = base.clone();
    url.set_path(&request.upstream_path());
    url.set_fragment(None);
    url.set_query(None);
    match request.query() {
        None => url.as_str().parse().ok(),
        // Unchanged, because a URL parser would escape other characters than the caller did.
        Some(query) => format!("{url}?{query}").parse().ok(),
    }
}
