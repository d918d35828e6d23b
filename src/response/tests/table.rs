use std::collections::BTreeSet;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use crate::BoxError;
use crate::attempt::{Delivery, Failure, RetryHint};
use crate::caller::RequestId;
use crate::net::testing::{no_answer, too_large};
use crate::response::table::problem;
use crate::response::tests::openapi::{body as described_body, shared};
use crate::response::{ErrorCode, Panicked, RequestError, Window, Windows};
use crate::scan::{Operation, ParseError};
use crate::{cache, queue, token, upstream};

/// Error, status, `error.code`, `Proxy-Status` error, seconds of `Retry-After`.
type Row = (BoxError, u16, &'static str, &'static str, Option<u64>);

const SECOND: Duration = Duration::from_secs(1);

fn refused(reason: queue::Reason) -> BoxError {
    queue::Refused::new(reason, 7 * SECOND).into()
}

#[expect(clippy::too_many_lines, reason = "a table, one row per error")]
fn rows() -> Vec<Row> {
    let host = "evil.example".to_owned();
    let limit = Duration::from_secs(30);
    vec![
        (RequestError::Host.into(), 400, "BadRequest", "http_request_error", None),
        (
            RequestError::ForeignHost { host }.into(),
            421,
            "Forbidden",
            "http_request_denied",
            None,
        ),
        (
            RequestError::CrossSite.into(),
            403,
            "Forbidden",
            "http_request_denied",
            None,
        ),
        (RequestError::Path.into(), 404, "NotFound", "http_request_error", None),
        (
            RequestError::Method(Operation::HistoryByDefinition).into(),
            405,
            "MethodNotAllowed",
            "http_request_error",
            None,
        ),
        (
            RequestError::ContentType.into(),
            415,
            "UnsupportedMediaType",
            "http_request_error",
            None,
        ),
        (
            RequestError::ContentEncoding.into(),
            415,
            "UnsupportedMediaType",
            "http_request_error",
            None,
        ),
        (
            RequestError::BodySize { limit: 9 }.into(),
            413,
            "RequestEntityTooLarge",
            "http_request_error",
            None,
        ),
        (
            RequestError::BodyTimeout { limit }.into(),
            408,
            "RequestTimeout",
            "http_request_error",
            None,
        ),
        (
            RequestError::BodyBroken.into(),
            400,
            "BadRequest",
            "http_request_error",
            None,
        ),
        (
            RequestError::Authorization.into(),
            400,
            "BadRequest",
            "http_request_error",
            None,
        ),
        (
            RequestError::Busy.into(),
            503,
            "ServiceUnavailable",
            "proxy_internal_response",
            Some(1),
        ),
        (
            RequestError::TransferEncoding.into(),
            501,
            "NotImplemented",
            "http_request_error",
            None,
        ),
        (
            crate::memory::Exhausted { of: "requests" }.into(),
            503,
            "ServiceUnavailable",
            "proxy_internal_response",
            Some(1),
        ),
        (
            crate::quota::SlotEnded.into(),
            503,
            "ServiceUnavailable",
            "proxy_internal_response",
            Some(1),
        ),
        (
            RequestError::Fields.into(),
            431,
            "RequestHeaderFieldsTooLarge",
            "http_request_error",
            None,
        ),
        (
            ParseError::Empty("ScanDefinitionIds").into(),
            400,
            "InvalidRequestBody",
            "http_request_error",
            None,
        ),
        (ParseError::Top.into(), 400, "ODataError", "http_request_error", None),
        (
            Panicked.into(),
            500,
            "InternalServerError",
            "proxy_internal_error",
            None,
        ),
        (
            refused(queue::Reason::Late),
            429,
            "TooManyRequests",
            "http_request_error",
            Some(7),
        ),
        (
            refused(queue::Reason::CallerLimiter),
            429,
            "TooManyRequests",
            "http_request_error",
            Some(7),
        ),
        (
            refused(queue::Reason::Tokens),
            503,
            "ServiceUnavailable",
            "proxy_internal_response",
            Some(7),
        ),
        (
            refused(queue::Reason::StoreLost),
            503,
            "QuotaUnavailable",
            "proxy_internal_response",
            Some(7),
        ),
        (
            upstream::Error::new("eu.example", upstream::Reason::Exchange(no_answer("eu.example"))).into(),
            504,
            "UpstreamTimeout",
            "http_response_timeout",
            None,
        ),
        (
            upstream::Error::new("eu.example", upstream::Reason::Unbuildable).into(),
            502,
            "UpstreamUnreachable",
            "proxy_internal_error",
            None,
        ),
        (
            upstream::Error::new("eu.example", upstream::Reason::Exchange(too_large("eu.example"))).into(),
            502,
            "AnswerTooLarge",
            "http_response_body_size",
            None,
        ),
        (
            refused(queue::Reason::ShuttingDown),
            503,
            "ShuttingDown",
            "proxy_internal_response",
            Some(1),
        ),
        (
            cache::NotCached.into(),
            504,
            "NotCached",
            "proxy_internal_response",
            None,
        ),
        (
            token::Error::Refused {
                code: token::Code::Aadsts(7_000_215),
                message: "".into(),
                retry_after: 60 * SECOND,
            }
            .into(),
            502,
            "SignInRefused",
            "proxy_configuration_error",
            Some(60),
        ),
        (
            token::Error::Unavailable {
                reason: token::Reason::Throttled,
                message: "".into(),
                retry_after: None,
                source: None,
            }
            .into(),
            503,
            "SignInUnavailable",
            "destination_unavailable",
            Some(1),
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
fn every_error_has_its_response() {
    for (error, status, code, proxy_status, retry_after) in rows() {
        let problem = problem(&error);
        assert_eq!(problem.status.as_u16(), status, "{error}");
        assert_eq!(problem.code, code, "{error}");
        assert_eq!(problem.proxy_status, proxy_status, "{error}");
        assert_eq!(problem.retry_after, retry_after.map(Duration::from_secs), "{error}");
    }
}

#[test]
fn every_error_code_has_a_cause() {
    let caused: BTreeSet<_> = rows().into_iter().map(|(_, status, code, ..)| (status, code)).collect();
    let codes = ErrorCode::ALL.map(|kind| (kind.status().as_u16(), kind.code()));
    assert_eq!(caused, BTreeSet::from(codes));
}

#[test]
fn described_errors_are_those_that_are_sent() {
    for (error, status, code, ..) in rows() {
        let responses = shared();
        let of_status = &responses[format!("Error{status}")]["content"]["application/problem+json"]["schema"];
        let described = described_body();
        let codes = of_status["properties"]["error"]["properties"]["code"]["enum"]
            .as_array()
            .unwrap();
        assert!(codes.iter().any(|one| one == code), "{code} in {codes:?}");
        let window = Window {
            name: "1m".into(),
            quota: 100,
            window_s: 60,
            remaining: 0,
            reset_s: 7,
            spread: None,
        };
        let body = problem(&error).body(&RequestId::random(), &Windows::new(vec![window], None));
        let body: Value = serde_json::from_slice(&body).unwrap();
        for (sent, described) in [(&body, &described), (&body["error"], &described["properties"]["error"])] {
            let sent: BTreeSet<_> = sent.as_object().unwrap().keys().cloned().collect();
            let known: BTreeSet<_> = described["properties"].as_object().unwrap().keys().cloned().collect();
            assert!(sent.is_subset(&known), "{sent:?} in {known:?}");
            let required = described["required"].as_array().unwrap();
            assert!(
                required.iter().all(|name| sent.contains(name.as_str().unwrap())),
                "{sent:?}"
            );
        }
        assert!(
            described["properties"]["type"]["enum"]
                .as_array()
                .unwrap()
                .contains(&body["type"])
        );
    }
}

#[test]
fn the_cause_decides_however_deep_it_is() {
    let wrapped = Failure {
        delivery: Delivery::NotSent,
        again: RetryHint::Never,
        answer: None,
        source: RequestError::Busy.into(),
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
        problem(&RequestError::Method(Operation::HistoryByDefinition).into()).fields,
        [("allow", "OPTIONS, POST, QUERY")]
    );
}

#[test]
fn a_wrong_option_is_named_as_the_target() {
    assert_eq!(problem(&ParseError::Skip.into()).target.as_deref(), Some("$skip"));
    assert_eq!(problem(&ParseError::Empty("ScanDefinitionIds").into()).target, None);
}

#[test]
fn a_rejected_sign_in_contains_its_code_and_advice() {
    let error = token::Error::Refused {
        code: token::Code::Aadsts(7_000_215),
        message: "".into(),
        retry_after: SECOND,
    };
    let problem = problem(&error.into());
    assert!(problem.detail.contains("AADSTS7000215"), "{}", problem.detail);
    assert!(problem.detail.contains("secret"), "{}", problem.detail);
}
