use std::time::Duration;

use bytes::Bytes;
use defender_gateway::testing::caller::RequestId;
use defender_gateway::testing::caller::{Name, Urgency};
use defender_gateway::testing::response;
use defender_gateway::testing::scan::{Call, CallerToken, Outcome, ServedResponse, Status, UpstreamResponse};
use defender_gateway::testing::server::{InboundRequest, Peer, guard, read, route};
use defender_gateway::testing::telemetry::trace;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use tokio::time::Instant;
use tower::{BoxError, ServiceBuilder, ServiceExt as _, service_fn};

/// What every request must be, whatever the fields said.
fn judge(call: &Call, arrived: Instant, fields: &HeaderMap, config: &read::Config) {
    let caller = &call.caller;
    let name = caller.name.as_str();
    assert!((1..=Name::MAX_BYTES).contains(&name.len()) && !name.chars().any(char::is_control));
    assert!(usize::from(caller.urgency.level()) < Urgency::LEVELS);
    let patience = caller.deadline.saturating_duration_since(arrived);
    assert!(patience <= config.max_wait_limit, "{patience:?}");
    assert!(caller.wait.is_none_or(|wait| wait == patience));
    // RFC 9111 §1.2.2.
    let most = Duration::from_secs(1 << 31);
    let ages = [caller.cache_directives.max_age, caller.cache_directives.min_fresh];
    assert!(ages.iter().flatten().all(|age| *age <= most));
    assert!(RequestId::from_caller(caller.request_id.as_str()).is_some());
    let brought = fields.contains_key(http::header::AUTHORIZATION);
    let token = call.request.caller_token().map(CallerToken::secret);
    assert_eq!(
        token.is_some(),
        brought,
        "a caller's token is used, or the request refused"
    );
    let value = token.map(|token| http::HeaderValue::from_str(&format!("Bearer {}", token.expose())));
    assert!(value.is_none_or(|value| value.is_ok()));
}

/// What a caller gets; every request is judged on its way.
async fn answer(request: Request<Full<Bytes>>, peer: Peer, fields: HeaderMap) -> http::Response<response::Body> {
    let config = read::Config {
        max_body: 1 << 20,
        body_timeout: read::Config::BODY_TIMEOUT,
        body_budget: 64 << 20,
        max_wait: Duration::from_secs(20),
        max_wait_limit: Duration::from_mins(10),
        authorization: read::Authorization::CallerToken,
    };
    let arrived = Instant::now();
    let read = read::Layer::new(config.clone());
    let answer = service_fn(move |call: Call| {
        judge(&call, arrived, &fields, &config);
        std::future::ready(Ok::<_, BoxError>(ServedResponse {
            may_link: true,
            answer: UpstreamResponse {
                status: StatusCode::OK,
                headers: HeaderMap::new().into(),
                body: Bytes::from_static(b"{\"value\":[]}"),
            },
            outcome: Outcome::Forwarded,
            status: Status::default(),
            age: None,
        }))
    });
    let stack = ServiceBuilder::new()
        .map_response(|answered: response::Answered| answered.response)
        .layer(super::upstream::respond())
        .filter(guard::Guard::new(guard::Hosts::default()))
        .layer(route::layer())
        .layer(read)
        .service(answer);
    let arrival = InboundRequest::new(request, peer);
    stack.oneshot(arrival).await.expect("there is always an answer")
}

/// The target, the fields, an empty line, the body of a request: it is refused, or becomes a
/// request within all bounds; there is an answer either way, with one id that the request may have
/// brought.
pub(crate) fn fields(data: &[u8]) {
    let (head, body) = super::parts(data);
    let end = head.iter().position(|byte| *byte == b'\n').unwrap_or(head.len());
    let fields = super::headers(&head[end..]);
    let builder = Request::post(&head[..end]);
    let Ok(mut request) = builder.body(Full::new(Bytes::copy_from_slice(body))) else {
        return;
    };
    *request.headers_mut() = fields.clone();
    let (near, far) = ("127.0.0.1:8080", "127.0.0.1:4711");
    let address = |text: &str| text.parse().expect("an address");
    let peer = Peer::tcp(address(far), address(near));

    let answer = super::at_once(answer(request, peer, fields));
    let status = answer.status().as_u16();
    let expected = [200, 400, 403, 404, 405, 413, 415, 421, 431];
    assert!(expected.contains(&status), "{status}");
    let ids: Vec<_> = answer.headers().get_all("x-request-id").iter().collect();
    assert_eq!(ids.len(), 1);
    assert!(RequestId::from_caller(ids[0].to_str().expect("visible ASCII")).is_some());
    let body = super::at_once(answer.into_body().collect())
        .expect("bodies do not fail")
        .to_bytes();
    assert!(serde_json::from_slice::<serde_json::Value>(&body).is_ok());
}

/// Fields: what is read of a trace's context is well-formed, bounded, and read back as it is
/// written.
pub(crate) fn trace(data: &[u8]) {
    let Some(context) = trace::read(&super::headers(data)) else {
        return;
    };
    assert!(context.is_valid() && context.is_remote());
    let mut sent = HeaderMap::new();
    trace::write(&context, &mut sent);
    let length = |name| sent.get(name).map_or(0, http::HeaderValue::len);
    assert_eq!(length(trace::TRACEPARENT), 55);
    assert!(length(trace::TRACESTATE) <= 1024);
    assert_eq!(trace::read(&sent), Some(context));
}
