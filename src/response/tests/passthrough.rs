//! Answers where callers may bring tokens of their own.

use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use tower::{Layer as _, ServiceExt as _, service_fn};

use super::layer::{ResponsePreferences, config, hit, upstream_answer};
use crate::BoxError;
use crate::response::{self, Layer, Reply};
use crate::scan::{self, ServedResponse, UpstreamResponse};

/// Status and fields of the response to a request with this tag and token.
async fn ask(layer: &Layer, served: ServedResponse, tag: &str, token: Option<&str>) -> (StatusCode, HeaderMap) {
    let tag = response::Tag::Unless(tag.into());
    let inner = service_fn(move |_: ResponsePreferences| {
        let preferences = response::ResponsePreferences {
            tag: tag.clone(),
            ..<_>::default()
        };
        std::future::ready(Ok::<_, BoxError>(Reply::Served(Box::new(served.clone()), preferences)))
    });
    let mut request = Request::get("/api/x").header("host", "localhost");
    if let Some(token) = token {
        request = request.header("authorization", token);
    }
    let request = ResponsePreferences(request.body(()).unwrap());
    let response = layer.layer(inner).oneshot(request).await.unwrap().response;
    (response.status(), response.headers().clone())
}

/// A cache on the way must not give an answer to a caller with another token.
#[tokio::test]
async fn where_callers_bring_tokens_answers_depend_on_them() {
    let layer = Layer::new([config()]).without_rate_limit_for(header::AUTHORIZATION);
    for token in [None, Some("Bearer x")] {
        for (tag, status) in [("", 200), ("*", 304)] {
            let (answered, fields) = ask(&layer, hit("{}"), tag, token).await;
            assert_eq!(
                (answered.as_u16(), fields["vary"].as_bytes()),
                (status, &b"authorization"[..])
            );
        }
    }
    let (answered, fields) = ask(&Layer::new([config()]), hit("{}"), "", None).await;
    assert_eq!((answered.as_u16(), fields.get("vary")), (200, None));
}

#[tokio::test]
async fn a_challenge_is_shown_to_the_owner_of_the_rejected_token_only() {
    let challenge = (header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    let rejected = ServedResponse {
        answer: UpstreamResponse {
            headers: [challenge].into_iter().collect(),
            ..upstream_answer(401, "")
        },
        outcome: scan::Outcome::Forwarded,
        ..hit("")
    };
    let layer = Layer::new([config()]).without_rate_limit_for(header::AUTHORIZATION);
    for (token, shown) in [(None, None), (Some("Bearer t"), Some("Bearer"))] {
        let (status, fields) = ask(&layer, rejected.clone(), "", token).await;
        let challenge = fields.get("www-authenticate").map(|value| value.to_str().unwrap());
        assert_eq!((status, challenge), (StatusCode::UNAUTHORIZED, shown));
    }
}
