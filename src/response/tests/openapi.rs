//! The responses for the `OpenAPI` document, built from the same error codes and the same body that
//! are sent.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::operation::Input;
use crate::response::{ErrorCode, Problem, table};
use crate::scan::Operation;

/// A response header field: its name, its meaning, an example.
type Field = (&'static str, &'static str, &'static str);

const REQUEST_ID: Field = (
    "x-request-id",
    "Names the request in the gateway's logs.",
    "9f2d6c0e4b7a4c1d8e3f5a6b7c8d9e0f",
);
const CACHE_STATUS: Field = (
    "Cache-Status",
    "RFC 9211: how the gateway's cache took part.",
    "defender-gateway; hit; ttl=21",
);
const AGE: Field = (
    "Age",
    "Seconds since Defender gave this answer; only on answers from the cache.",
    "9",
);
const POLICY: Field = (
    "RateLimit-Policy",
    "The quota's windows, and `pace`, the bucket that spreads the longest one (draft-ietf-httpapi-ratelimit-headers-11).",
    "\"1m\";q=100;w=60, \"1h\";q=1500;w=3600",
);
const RATE_LIMIT: Field = (
    "RateLimit",
    "What is left of them now. Absent where a caller's own token is used.",
    "\"1m\";r=37;t=12, \"1h\";r=410;t=1630",
);
const PREFERENCE: Field = ("Preference-Applied", "RFC 7240: the wait that was granted.", "wait=20");
const PROXY_STATUS: Field = (
    "Proxy-Status",
    "RFC 9209: why the gateway answered by itself, or what the upstream answered.",
    "defender-gateway; error=http_request_error",
);
const RETRY_AFTER: Field = ("Retry-After", "When to come back, in seconds.", "12");
const CACHE_CONTROL: Field = (
    "Cache-Control",
    "`no-store` on the gateway's own errors; otherwise Defender's.",
    "no-store",
);
const ETAG: Field = (
    "ETag",
    "Names this answer as it is (RFC 9110 §8.8.3), for `If-None-Match`.",
    "\"9f2d6c0e4b7a4c1d8e3f5a6b7c8d9e0f\"",
);
const VARY: Field = (
    "Vary",
    "Only where callers may bring tokens of their own: answers depend on them.",
    "authorization",
);
const CHALLENGE: Field = (
    "WWW-Authenticate",
    "Defender's, with a 401 that rejects the caller's own token.",
    "Bearer error=\"invalid_token\"",
);
const ALLOW: Field = ("Allow", "The methods of this path.", "OPTIONS, POST, QUERY");
const ACCEPT_QUERY: Field = (
    "Accept-Query",
    "RFC 10008: the content type of QUERY requests.",
    "\"application/json\"",
);
const ACCEPT_ENCODING: Field = ("Accept-Encoding", "The content coding that is accepted.", "identity");

/// Defender's header fields that pass. There may be others whose names begin with `x-ms-`.
const DEFENDERS: [Field; 4] = [
    ("OData-Version", "Defender's.", "4.0"),
    (
        "request-id",
        "Defender's, for Microsoft's support.",
        "6ad9d2a7-0c55-4b8e-9c1f-4a8cf2b4c3b1",
    ),
    (
        "mise-correlation-id",
        "Defender's, for Microsoft's support.",
        "0b4e7a5e-3c0e-4d1f-8a43-3c6d8f1d2b10",
    ),
    RETRY_AFTER,
];

const DEFENDERS_OWN: &str = "Defender's own error, unchanged.";

/// All responses of an operation: Defender's answers, of which `good` is the successful one, and
/// the gateway's own errors by status.
pub(crate) fn answers(operation: Operation, good: &Value) -> Value {
    let mut answers = Map::new();
    let content = json!({"application/json": {"schema": good}});
    let description = "Defender's answer; only links in it lead to the gateway, and credentials are replaced by null.";
    let is_tagged = operation.declaration().input == Input::Path;
    let tag = is_tagged.then_some(ETAG);
    answers.insert("200".into(), served(description, tag, &content));
    if is_tagged {
        let fields = [
            CACHE_STATUS,
            AGE,
            POLICY,
            RATE_LIMIT,
            PREFERENCE,
            CACHE_CONTROL,
            REQUEST_ID,
            ETAG,
            VARY,
        ];
        let unchanged = json!({"description": "The caller has the same answer already.", "headers": headers(fields)});
        answers.insert("304".into(), unchanged);
    }
    for (status, codes) in by_status() {
        if codes.iter().any(|code| is_of_operation(*code, operation)) {
            answers.insert(status.as_str().into(), shared_as("Error", status));
        }
    }
    let content = json!({"application/json": {"schema": {"$ref": "#/components/schemas/DefenderError"}}});
    let fields = [CHALLENGE];
    answers.insert("default".into(), served(DEFENDERS_OWN, fields, &content));
    answers.into()
}

/// What `answers` and `options` refer to: `#/components/responses`. Those whose names begin with
/// `Problem` are the gateway's own only, as no call is made for `OPTIONS`. With the status of an
/// `Error` Defender may answer too.
pub(crate) fn shared() -> Value {
    let mut responses = Map::new();
    for (status, codes) in by_status() {
        responses.insert(format!("Error{}", status.as_u16()), own_or_defenders(status, &codes));
    }
    for code in OF_OPTIONS {
        let status = code.status();
        let codes = by_status().remove(&status).unwrap_or_default();
        responses.insert(format!("Problem{}", status.as_u16()), own(status, &codes));
    }
    responses.into()
}

fn shared_as(kind: &str, status: StatusCode) -> Value {
    json!({"$ref": format!("#/components/responses/{kind}{}", status.as_u16())})
}

/// The body of the gateway's own errors, `#/components/schemas/Problem`.
pub(crate) fn body() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["type", "title", "status", "detail", "instance", "error"],
        "properties": {
            "type": {"type": "string", "enum": [Problem::BLANK, Problem::QUOTA_EXCEEDED, Problem::REDUCED_CAPACITY]},
            "title": text("The same for all problems of this kind."),
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": text("This case, for people."),
            "instance": text("`/requests/` and the request's id."),
            "violated-policies": {
                "type": "array",
                "minItems": 1,
                "items": {"type": "string"},
                "description": "The quota policies with no call left, by their names in RateLimit-Policy: windows, or `pace` while the longest one is being spread.",
            },
            "wait_needed": {
                "type": "integer",
                "minimum": 1,
                "description": "How many seconds of `Prefer: wait` the same request needs if it is sent again now, where a longer wait helps.",
            },
            "error": {
                "type": "object",
                "additionalProperties": false,
                "required": ["code", "message", "target"],
                "properties": {
                    "code": {"type": "string"},
                    "message": text("The same as `detail`."),
                    "target": text("The part of the request that is wrong, or the request's id."),
                },
                "description": "Defender's form, for clients that were written for it.",
            },
        },
    })
}

/// The body of Defender's own errors, `#/components/schemas/DefenderError`.
pub(crate) fn defenders_body() -> Value {
    let text = json!({"type": "string"});
    json!({
        "type": "object",
        "required": ["error"],
        "properties": {"error": {
            "type": "object",
            "properties": {"code": text, "message": text, "target": text},
        }},
    })
}

/// Errors that are found before the method is looked at.
const OF_OPTIONS: [ErrorCode; 5] = [
    ErrorCode::BadRequest,
    ErrorCode::CrossSite,
    ErrorCode::Misdirected,
    ErrorCode::RequestHeaderFieldsTooLarge,
    ErrorCode::InternalServerError,
];

/// The responses to `OPTIONS` on the path of an operation.
pub(crate) fn options(operation: Operation) -> Value {
    let fields = table::options(Some(operation));
    let fields = fields.into_iter().flatten().map(|(name, _)| *name);
    let known = [ALLOW, ACCEPT_QUERY];
    let fields = fields.filter_map(|name| known.into_iter().find(|field| field.0.eq_ignore_ascii_case(name)));
    let mut answers = Map::new();
    let what = json!({"description": "What may be asked.", "headers": headers(fields.chain([REQUEST_ID]))});
    answers.insert("204".into(), what);
    for code in OF_OPTIONS {
        let status = code.status();
        answers.insert(status.as_str().into(), shared_as("Problem", status));
    }
    answers.into()
}

fn by_status() -> BTreeMap<StatusCode, Vec<ErrorCode>> {
    let mut codes = BTreeMap::<_, Vec<_>>::new();
    for code in ErrorCode::ALL {
        codes.entry(code.status()).or_default().push(code);
    }
    codes
}

fn served(description: &str, more: impl IntoIterator<Item = Field>, content: &Value) -> Value {
    let fields = [
        CACHE_STATUS,
        AGE,
        POLICY,
        RATE_LIMIT,
        PREFERENCE,
        PROXY_STATUS,
        CACHE_CONTROL,
        VARY,
        REQUEST_ID,
    ];
    json!({
        "description": description,
        "headers": headers(fields.into_iter().chain(more).chain(DEFENDERS)),
        "content": content,
    })
}

/// The gateway's own errors with this status, or Defender's. Generators that know one body for each
/// status take the first content, so it has both.
fn own_or_defenders(status: StatusCode, codes: &[ErrorCode]) -> Value {
    let mut error = own(status, codes);
    let content = json!({"application/json": {"schema": {
        "description": "Defender's own. The gateway's are written here too, for clients that know one body for each status.",
        "anyOf": [{"$ref": "#/components/schemas/Problem"}, {"$ref": "#/components/schemas/DefenderError"}],
    }}});
    let theirs = served(DEFENDERS_OWN, [], &content);
    for part in ["headers", "content"] {
        for (name, described) in theirs[part].as_object().into_iter().flatten() {
            error[part][name] = described.clone();
        }
    }
    let description = error["description"].as_str().unwrap_or_default();
    error["description"] = format!("{description}\n\nAs `application/json`: {DEFENDERS_OWN}").into();
    error
}

/// The gateway's own errors with this status.
fn own(status: StatusCode, codes: &[ErrorCode]) -> Value {
    let description: Vec<_> = codes
        .iter()
        .map(|code| format!("`{}`: {}", code.code(), meaning(*code)))
        .collect();
    let mut codes: Vec<_> = codes.iter().map(|code| code.code()).collect();
    codes.dedup();
    let mut fields = vec![PROXY_STATUS, CACHE_CONTROL, REQUEST_ID];
    if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
        fields.extend([POLICY, RATE_LIMIT]);
    }
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY => {
            fields.push(RETRY_AFTER);
        }
        StatusCode::METHOD_NOT_ALLOWED => fields.push(ALLOW),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => fields.extend([ACCEPT_QUERY, ACCEPT_ENCODING]),
        _ => {}
    }
    json!({
        "description": description.join("\n\n"),
        "headers": headers(fields),
        "content": {"application/problem+json": {"schema": {
            "allOf": [{"$ref": "#/components/schemas/Problem"}],
            "properties": {
                "status": {"const": status.as_u16()},
                "error": {"properties": {"code": {"enum": codes}}},
            },
        }}},
    })
}

fn headers(fields: impl IntoIterator<Item = Field>) -> Value {
    let named = fields.into_iter().map(|(name, ..)| {
        let described = json!({"$ref": format!("#/components/headers/{name}")});
        (name.to_owned(), described)
    });
    Value::Object(named.collect())
}

/// What the responses refer to: `#/components/headers`.
pub(crate) fn fields() -> Value {
    let own = [
        ACCEPT_ENCODING,
        ACCEPT_QUERY,
        AGE,
        ALLOW,
        CACHE_CONTROL,
        CACHE_STATUS,
        CHALLENGE,
        ETAG,
        POLICY,
        PREFERENCE,
        PROXY_STATUS,
        RATE_LIMIT,
        REQUEST_ID,
        VARY,
    ];
    let described = own.into_iter().chain(DEFENDERS).map(|(name, description, example)| {
        let is_number = example.bytes().all(|byte| byte.is_ascii_digit());
        let (code, example) = match example.parse::<u64>() {
            Ok(number) if is_number => ("integer", json!(number)),
            _ => ("string", json!(example)),
        };
        let header = json!({"description": description, "schema": {"type": code}, "example": example});
        (name.to_owned(), header)
    });
    Value::Object(described.collect())
}

/// What it means, in a sentence.
fn meaning(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::BadRequest => {
            "The request needs exactly one valid Host and a whole body, or its Authorization cannot be used."
        }
        ErrorCode::InvalidRequestBody => "The body does not name scan definitions as described.",
        ErrorCode::ODataError => "$top or $skip is out of range or there twice, or there is another query option.",
        ErrorCode::CrossSite => "A browser sent it on behalf of another site.",
        ErrorCode::NotFound => "There is nothing at this path.",
        ErrorCode::MethodNotAllowed => "The method is not allowed at this path; Allow names those that are.",
        ErrorCode::RequestTimeout => "The body did not arrive in time.",
        ErrorCode::RequestEntityTooLarge => "The body is larger than `server.max_body`.",
        ErrorCode::UnsupportedMediaType => "The body must be application/json, in UTF-8 and not compressed.",
        ErrorCode::Misdirected => "The gateway does not answer under this Host; see `server.hosts`.",
        ErrorCode::TooManyRequests => {
            "The turn cannot come before the deadline (which is known at once), the queue is full, or the caller is over its \
             fair-use limit. Retry-After says when to come back."
        }
        ErrorCode::RequestHeaderFieldsTooLarge => {
            "The header fields are too many or too large, or the query is longer than 8 KiB."
        }
        ErrorCode::InternalServerError => "A defect of the gateway; its log says more under the request's id.",
        ErrorCode::NotImplemented => "The body has another transfer coding than `chunked`.",
        ErrorCode::SignInRefused => "The gateway's credentials are refused.",
        ErrorCode::UpstreamUnreachable => "No region could be reached, or its answer was unusable.",
        ErrorCode::AnswerTooLarge => {
            "Defender's answer is longer than the gateway has memory for: ask for fewer ids, or fewer rows with $top."
        }
        ErrorCode::SignInUnavailable => "There is no token, and sign-in cannot be reached.",
        ErrorCode::ShuttingDown => "The gateway is about to end.",
        ErrorCode::QuotaUnavailable => {
            "The store through which replicas share the quota is lost, and nothing is cached."
        }
        ErrorCode::ServiceUnavailable => "The gateway is busy for a moment, or has no memory left for more.",
        ErrorCode::UpstreamTimeout => "Defender did not answer in time.",
        ErrorCode::NotCached => "Nothing is stored, and `only-if-cached` allows no call.",
    }
}

/// Whether a request to the operation can end with it; the others concern other requests. At the
/// path of an entity what can be no id is not found.
fn is_of_operation(code: ErrorCode, operation: Operation) -> bool {
    match code {
        ErrorCode::MethodNotAllowed => false,
        ErrorCode::NotFound => operation.declaration().fixed_path().1,
        _ => true,
    }
}
