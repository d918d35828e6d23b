use crate::scan::Headers;
use crate::scan::{Endpoint, ResponseFault, ResponseKind, UpstreamResponse};
use http::HeaderValue;
use http::{StatusCode, header};
use proptest::prelude::*;

const ROWS: &str = r#"{"@odata.context":"c","value":[{"scanDefinitionId":"a"}]}"#;
const ERROR: &str = r#"{"error":{"code":"NotFound","message":"m","target":"t"}}"#;
const PAGE: &str = "<html><body>Web App - Unavailable</body></html>";

fn kind(status: u16, media: Option<&'static str>, body: impl AsRef<[u8]>) -> ResponseKind {
    kind_at(Endpoint::HISTORY, status, media, body)
}

fn kind_at(endpoint: Endpoint, status: u16, media: Option<&'static str>, body: impl AsRef<[u8]>) -> ResponseKind {
    let media = media.map(|media| (header::CONTENT_TYPE, HeaderValue::from_static(media)));
    let response = UpstreamResponse {
        status: StatusCode::from_u16(status).unwrap(),
        headers: media.into_iter().collect::<Headers>(),
        body: body.as_ref().to_vec().into(),
    };
    ResponseKind::of(endpoint, &response)
}

#[test]
fn defenders_own_shapes_are_answers() {
    for media in [
        None,
        Some("application/json"),
        Some("application/json; odata.metadata=minimal; odata.streaming=true; charset=utf-8"),
        Some("Application/JSON;charset=UTF-8"),
        Some("application/problem+json"),
        Some("text/json"),
    ] {
        for body in [
            ROWS,
            r#"{"value":[]}"#,
            " \r\n{ \"value\" : [ ] }\n",
            r#"{"x":{"value":1},"value":[1],"error":null}"#,
            "\u{feff}{\"value\":[]}",
        ] {
            assert_eq!(kind(200, media, body), ResponseKind::Answer, "{media:?} {body}");
        }
        for status in [400, 401, 403, 404, 405, 409, 415, 451] {
            assert_eq!(kind(status, media, ERROR), ResponseKind::Answer, "{media:?} {status}");
        }
    }
}

#[test]
fn everything_else_is_a_fault_and_says_which() {
    use ResponseFault::{ContentType, Empty, NotJson, Shape, Status, Unavailable};
    let json = Some("application/json");
    for (status, media, body, fault) in [
        (200, Some("text/html"), PAGE, ContentType),
        (200, Some("text/html; charset=utf-8"), ROWS, ContentType),
        (200, Some("text/plain"), ROWS, ContentType),
        (200, Some(""), ROWS, ContentType),
        (200, Some("application/jsonp"), ROWS, ContentType),
        (200, json, PAGE, NotJson),
        (200, None, PAGE, NotJson),
        (200, json, "", Empty),
        (200, None, " \r\n\t", Empty),
        (200, json, &ROWS[..ROWS.len() - 1], NotJson),
        (200, json, "[]", NotJson),
        (200, json, "null", NotJson),
        (200, json, "\"value\"", NotJson),
        (200, json, "{\"value\":[]}{}", NotJson),
        (200, json, ERROR, Shape),
        (200, json, "{}", Shape),
        (200, json, r#"{"value":null}"#, Shape),
        (200, json, r#"{"value":{}}"#, Shape),
        (200, json, r#"{"Value":[]}"#, Shape),
        (200, json, r#"{"value":[],"error":{"code":"x"}}"#, Shape),
        (200, json, r#"{"value":[],"error":"x"}"#, Shape),
        (201, json, ROWS, Status),
        (203, json, ROWS, Status),
        (204, None, "", Status),
        (206, json, ROWS, Status),
        (302, json, ROWS, Status),
        (600, json, ERROR, Status),
        (404, Some("text/html"), PAGE, ContentType),
        (403, Some("text/html"), PAGE, ContentType),
        (404, json, "", Empty),
        (403, None, "", Empty),
        (401, Some("text/html"), PAGE, ContentType),
        (401, Some("text/html"), "", ContentType),
        (401, json, r#"{"message":"who are you?"}"#, Shape),
        (404, json, r#"{"message":"no such site"}"#, Shape),
        (404, json, r#"{"error":"not found"}"#, Shape),
        (404, json, ROWS, Shape),
        (408, json, ERROR, Unavailable),
        (421, Some("text/html"), PAGE, Unavailable),
        (425, json, ERROR, Unavailable),
        (500, json, ERROR, Unavailable),
        (503, Some("text/html"), PAGE, Unavailable),
        (520, Some("text/html"), PAGE, Unavailable),
        (599, None, "", Unavailable),
    ] {
        assert_eq!(
            kind(status, media, body),
            ResponseKind::Fault(fault),
            "{status} {media:?} {body}"
        );
        assert!(!kind(status, media, body).is_answer());
    }
    assert_eq!(kind(200, json, b"{\"value\":[\"\xff\"]}"), ResponseKind::Fault(NotJson));
    assert_eq!(kind(429, Some("text/html"), PAGE), ResponseKind::Throttled);
    assert_eq!(kind(429, json, ERROR), ResponseKind::Throttled);
}

/// What checks tokens in front of Defender's code rejects them without a body.
#[test]
fn a_token_may_be_rejected_without_defenders_error() {
    let kind = |media: Option<&'static str>, challenges: &[&'static str], body: &'static str| {
        let media = media.map(|media| (header::CONTENT_TYPE, HeaderValue::from_static(media)));
        let challenge = |text: &&'static str| (header::WWW_AUTHENTICATE, HeaderValue::from_static(text));
        let response = UpstreamResponse {
            status: StatusCode::UNAUTHORIZED,
            headers: media.into_iter().chain(challenges.iter().map(challenge)).collect(),
            body: body.into(),
        };
        ResponseKind::of(Endpoint::HISTORY, &response)
    };
    for (media, challenges, body) in [
        (None, &[][..], ""),
        (Some("application/json"), &[], " \r\n"),
        (None, &["Bearer"], ""),
        (Some("text/html"), &["bearer error=\"invalid_token\""], PAGE),
        (None, &["Negotiate", "Basic realm=\"x\", Bearer"], "expired"),
        (None, &["Negotiate"], ERROR),
    ] {
        assert_eq!(
            kind(media, challenges, body),
            ResponseKind::Answer,
            "{challenges:?} {body}"
        );
    }
    // A proxy on the way wants to know who the gateway is.
    for challenges in [
        &["Negotiate"][..],
        &["Basic realm=\"Bearer of news\"", "NTLM"],
        &["BearerToken"],
    ] {
        let fault = ResponseKind::Fault(ResponseFault::Empty);
        assert_eq!(kind(None, challenges, ""), fault, "{challenges:?}");
    }
}

#[test]
fn an_entity_may_be_bare_or_in_a_list() {
    use crate::operation::Operation;
    let of = |body| kind_at(Endpoint::latest(Operation::Agent), 200, None, body);
    for body in [
        r#"{"@odata.context":"c","id":"a"}"#,
        r#"{"Id":"a"}"#,
        r#"{"value":[{"id":"a"}]}"#,
        // Of `$select=scanName`.
        r#"{"@odata.context":"https://x/$metadata#Definitions(scanName)/$entity","scanName":"x"}"#,
        ROWS,
    ] {
        assert_eq!(of(body), ResponseKind::Answer, "{body}");
    }
    for body in [
        r#"{"message":"ok"}"#,
        "{}",
        r#"{"id":null}"#,
        r#"{"@odata.context":null,"scanName":"x"}"#,
        r#"{"@odata.context":"c","error":{"code":"x"}}"#,
        r#"{"id":{}}"#,
        r#"{"id":"a","error":{}}"#,
        ERROR,
    ] {
        assert_eq!(of(body), ResponseKind::Fault(ResponseFault::Shape), "{body}");
    }
    let in_a_list = kind(200, None, r#"{"id":"a"}"#);
    assert_eq!(in_a_list, ResponseKind::Fault(ResponseFault::Shape));
}

#[test]
fn only_a_status_that_speaks_for_itself_may_pass() {
    assert!(ResponseFault::Unavailable.may_pass());
    for fault in [
        ResponseFault::Status,
        ResponseFault::ContentType,
        ResponseFault::Empty,
        ResponseFault::NotJson,
        ResponseFault::Shape,
    ] {
        assert!(!fault.may_pass(), "{fault}");
    }
}

proptest! {
    #[test]
    fn a_good_answer_that_was_cut_is_none(at in any::<proptest::sample::Index>()) {
        let cut = &ROWS[..at.index(ROWS.len())];
        prop_assert!(!kind(200, Some("application/json"), cut).is_answer());
    }

    #[test]
    fn a_body_that_is_no_json_object_is_never_an_answer(
        status in 100_u16..1000, body in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        // A token may be rejected without any body.
        prop_assume!(status != 401);
        let is_object = serde_json::from_slice::<serde_json::Value>(&body).is_ok_and(|value| value.is_object());
        prop_assume!(!is_object);
        prop_assert!(!kind(status, None, body).is_answer());
    }
}
