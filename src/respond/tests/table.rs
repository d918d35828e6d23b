use std::time::Duration;

use http::StatusCode;

use crate::BoxError;
use crate::attempt::{Again, Failure, Fate};
use crate::respond::{Panicked, Refusal, problem};
use crate::scan::Invalid;

/// Error, status, `error.code`, `Proxy-Status` error, seconds of `Retry-After`.
type Row = (BoxError, u16, &'static str, &'static str, Option<u64>);

fn rows() -> Vec<Row> {
    let host = "evil.example".to_owned();
    let limit = Duration::from_secs(30);
    vec![
        (Refusal::Host.into(), 400, "BadRequest", "http_request_error", None),
        (
            Refusal::ForeignHost { host }.into(),
            421,
            "Forbidden",
            "http_request_denied",
            None,
        ),
        (Refusal::CrossSite.into(), 403, "Forbidden", "http_request_denied", None),
        (Refusal::Path.into(), 404, "NotFound", "http_request_error", None),
        (
            Refusal::Method.into(),
            405,
            "MethodNotAllowed",
            "http_request_error",
            None,
        ),
        (
            Refusal::ContentType.into(),
            415,
            "UnsupportedMediaType",
            "http_request_error",
            None,
        ),
        (
            Refusal::ContentEncoding.into(),
            415,
            "UnsupportedMediaType",
            "http_request_error",
            None,
        ),
        (
            Refusal::BodySize { limit: 9 }.into(),
            413,
            "RequestEntityTooLarge",
            "http_request_error",
            None,
        ),
        (
            Refusal::BodyTimeout { limit }.into(),
            408,
            "RequestTimeout",
            "http_request_error",
            None,
        ),
        (
            Refusal::BodyBroken.into(),
            400,
            "BadRequest",
            "http_request_error",
            None,
        ),
        (
            Refusal::Busy.into(),
            503,
            "ServiceUnavailable",
            "proxy_internal_response",
            Some(1),
        ),
        (
            Refusal::Fields.into(),
            431,
            "RequestHeaderFieldsTooLarge",
            "http_request_error",
            None,
        ),
        (
            Invalid::Empty.into(),
            400,
            "InvalidRequestBody",
            "http_request_error",
            None,
        ),
        (Invalid::Top.into(), 400, "ODataError", "http_request_error", None),
        (
            Panicked.into(),
            500,
            "InternalServerError",
            "proxy_internal_error",
            None,
        ),
        (
            "nobody knows".into(),
            500,
            "InternalServerError",
            "proxy_internal_error",
            None,
        ),
    ]
}

#[test]
fn every_error_has_its_answer() {
    for (error, status, code, fault, retry_after) in rows() {
        let problem = problem(&error);
        assert_eq!(problem.status.as_u16(), status, "{error}");
        assert_eq!(problem.code, code, "{error}");
        assert_eq!(problem.fault.as_str(), fault, "{error}");
        assert_eq!(problem.retry_after, retry_after.map(Duration::from_secs), "{error}");
    }
}

#[test]
fn the_cause_decides_however_deep_it_is() {
    let wrapped = Failure {
        fate: Fate::Unsent,
        again: Again::Never,
        answer: None,
        source: Refusal::Busy.into(),
    };
    assert_eq!(problem(&wrapped.into()).status, StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn an_unknown_error_is_not_shown_to_the_caller() {
    let error: BoxError = "connect to 10.0.0.7 failed".into();
    assert!(!problem(&error).detail.contains("10.0.0.7"));
}

#[test]
fn a_wrong_method_learns_the_right_ones() {
    assert_eq!(
        problem(&Refusal::Method.into()).fields,
        [("allow", "OPTIONS, POST, QUERY")]
    );
}

#[test]
fn a_wrong_option_is_named_as_the_target() {
    assert_eq!(problem(&Invalid::Skip.into()).target.as_deref(), Some("$skip"));
    assert_eq!(problem(&Invalid::Empty.into()).target, None);
}
