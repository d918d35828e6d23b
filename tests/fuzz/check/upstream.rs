use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use defender_gateway::testing::quota::ThrottleHint;
use defender_gateway::testing::response::{self, Reply, ResponsePreferences};
use defender_gateway::testing::scan::{Options, Outcome, ServedResponse, Status, TokenOwner, UpstreamResponse, route};
use defender_gateway::testing::server::{InboundRequest, Peer};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use serde_json::Value;
use tower::{BoxError, ServiceBuilder, ServiceExt as _, service_fn};

/// The fields, an empty line, the message of a 429: a wait is no longer than an hour, a window no
/// longer than what can be written, whatever the clock says.
pub(crate) fn throttled(data: &[u8]) {
    let (fields, message) = super::parts(data);
    let fields = super::headers(fields);
    for wall in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
        let read = ThrottleHint::read(&fields, message, wall);
        assert!(read.wait.is_none_or(|wait| wait <= ThrottleHint::LONGEST_WAIT));
        let longest = Duration::from_hours(100);
        assert!(read.window.is_none_or(|window| !window.is_zero() && window < longest));
        let said = fields
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(seconds) = said {
            let least = Duration::from_secs(seconds).min(ThrottleHint::LONGEST_WAIT);
            assert!(read.wait.is_some_and(|wait| wait >= least), "{read:?}");
        }
    }
}

/// A layer that answers for an upstream of one name.
pub(super) fn respond() -> response::Layer {
    response::Layer::new([response::Config {
        upstream_hosts: vec![HOST.into()],
        rate_limit: Arc::new(|_, _| {}),
        panics: Counter::default(),
        exhausted: Counter::default(),
        token_owner: TokenOwner::Gateway,
        vary: None,
        large_answers: None,
    }])
}

const HOST: &str = "api.security.microsoft.com";

/// The body of an answer: only its link changes, and only one that leads to the upstream; then it
/// leads here, to the same path.
pub(crate) fn link(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    let served = ServedResponse {
        may_link: true,
        answer: UpstreamResponse {
            status: StatusCode::OK,
            headers: HeaderMap::new().into(),
            body: body.clone(),
        },
        outcome: Outcome::Hit,
        status: Status::default(),
        age: None,
    };
    let inner = service_fn(|_: InboundRequest<()>| {
        std::future::ready(Ok::<_, BoxError>(Reply::Served(
            Box::new(served.clone()),
            ResponsePreferences::default(),
        )))
    });
    let request = Request::post("/")
        .header(header::HOST, "here:1")
        .body(())
        .expect("a request");
    let stack = ServiceBuilder::new().layer(respond()).service(inner);
    let answer =
        super::at_once(stack.oneshot(InboundRequest::new(request, Peer::unix()))).expect("there is always an answer");
    let sent = super::at_once(answer.response.into_body().collect())
        .expect("bodies do not fail")
        .to_bytes();
    if sent == body {
        return;
    }
    let [before, after] = [&body, &sent].map(|body| serde_json::from_slice::<Value>(body).ok());
    let Some(before) = before else {
        // What is no JSON does not become any.
        return assert!(after.is_none());
    };
    compare(&before, &after.expect("still JSON"));
}

/// Everything is as it was, but for the links.
fn compare(before: &Value, after: &Value) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            assert!(before.keys().eq(after.keys()));
            for ((name, before), after) in before.iter().zip(after.values()) {
                match (before, after) {
                    (Value::String(before), Value::String(after)) if before != after => led_here(name, before, after),
                    _ => compare(before, after),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            assert_eq!(before.len(), after.len());
            before
                .iter()
                .zip(after)
                .for_each(|(before, after)| compare(before, after));
        }
        _ => assert_eq!(before, after),
    }
}

fn led_here(name: &str, before: &str, after: &str) {
    // OData names the link of a nested list after the list, and its versions disagree about the
    // rest.
    let name = name.to_ascii_lowercase();
    let is_link = ["nextlink", "odata.nextlink"].contains(&&*name)
        || ["@nextlink", "@odata.nextlink"].iter().any(|end| name.ends_with(end));
    assert!(is_link, "{name}");
    let is_taken = |target: &str| {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = query.split('#').next();
        match route(path) {
            Some(target) => Options::of(target.endpoint, query).is_ok(),
            None => !path.is_empty() || Options::parse(query).is_ok(),
        }
    };
    let absolute = before.split_once("//").filter(|(scheme, _)| {
        ["", "http:", "https:"]
            .iter()
            .any(|http| scheme.eq_ignore_ascii_case(http))
    });
    let target = after.strip_prefix("http://here:1").expect("leads here");
    let Some((_, rest)) = absolute else {
        // Relative to where the caller asked, and now in a form that is taken.
        return assert!(is_taken(target), "{before}");
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = authority.split_once(':').map_or(authority, |(host, _)| host);
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let parents = [
        "securitycenter.microsoft.com",
        "securitycenter.windows.com",
        "security.microsoft.com",
    ];
    let is_known = parents
        .iter()
        .any(|parent| host.strip_suffix(parent).is_some_and(|start| start.ends_with('.')));
    assert!(host == HOST || is_known || host.ends_with(".microsoft.us"), "{before}");
    assert!(target == path || is_taken(target), "{before} became {after}");
}
