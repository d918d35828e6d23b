//! The `OpenAPI` document is as the paths, limits and error codes that the program uses.

use serde_json::{Map, Value, json};

use crate::caller::RequestId;
use crate::operation::endpoint::Version;
use crate::operation::{Declaration, Input, Query, Shape};
use crate::response::tests::openapi as response;
use crate::scan::{Endpoint, EntityId, Operation, Options, Request};
use crate::server::{OPENAPI, access_log};
use crate::telemetry::trace::{TRACEPARENT, TRACESTATE};

/// The document as the code describes it.
fn described() -> String {
    let paths: Map<String, Value> = Endpoint::all()
        .map(|endpoint| (endpoint.template(), path(endpoint)))
        .collect();
    let mut schemas = Map::from_iter([
        ("Problem".to_owned(), response::body()),
        ("DefenderError".to_owned(), response::defenders_body()),
    ]);
    for operation in Operation::ALL {
        let declared = operation.declaration();
        if let Input::Ids { member, .. } = declared.input {
            schemas.insert(name(operation, "Question"), request_schema(member));
        }
        schemas.insert(name(operation, "Answer"), answer(declared));
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "defender-gateway",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Authenticated scans of Microsoft Defender for Endpoint (definitions, scanners, history) through one shared quota. \
                Callers send no credentials. The method QUERY (RFC 10008) is accepted wherever POST is; OpenAPI 3.1 has no place for it.",
        },
        // An example, because the document does not know where it was fetched from.
        "servers": [{"url": "http://127.0.0.1:8080"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": parameters(),
            "headers": response::fields(),
            "responses": response::shared(),
        },
    });
    format!("{document:#}\n")
}

/// A name that begins with the operation's, in capitals: `ScanHistoryQuestion`.
fn name(operation: Operation, what: &str) -> String {
    let id = operation.declaration().operation_id;
    let (first, rest) = id.split_at(1);
    format!("{}{rest}{what}", first.to_ascii_uppercase())
}

fn reference(kind: &str, name: &str) -> Value {
    json!({"$ref": format!("#/components/{kind}/{name}")})
}

fn path(endpoint: Endpoint) -> Value {
    let Endpoint { operation, version } = endpoint;
    let declared = operation.declaration();
    let (suffix, which) = match version {
        Version::Latest => ("", "the current version"),
        Version::V1 => ("V1", "version 1.0"),
    };
    let mut described = json!({
        "operationId": format!("{}{suffix}", declared.operation_id),
        "summary": format!("{}, in {which}", declared.summary),
        "parameters": taken(declared).map(|name| reference("parameters", name)).collect::<Vec<_>>(),
        "responses": response::answers(operation, &reference("schemas", &name(operation, "Answer"))),
    });
    let method = match declared.input {
        Input::Path => "get",
        Input::Ids { member, example } => {
            described["requestBody"] = json!({
                "required": true,
                "content": {"application/json": {
                    "schema": reference("schemas", &name(operation, "Question")),
                    "example": {member: [example]},
                }},
            });
            "post"
        }
    };
    json!({
        method: described,
        "options": {
            "operationId": format!("whatMayBeAskedOf{}{suffix}", name(operation, "")),
            "summary": "What may be asked here",
            "parameters": taken(declared).filter(|name| *name == ID).map(|name| reference("parameters", name)).collect::<Vec<_>>(),
            "responses": response::options(operation),
        },
    })
}

/// The name of the path parameter.
const ID: &str = "Id";

/// The names of an operation's parameters.
fn taken(declared: &'static Declaration) -> impl Iterator<Item = &'static str> {
    let (_, has_id) = declared.fixed_path();
    let query: &[&str] = match declared.query {
        Query::Paging => &["Top", "Skip", "SkipToken"],
        Query::Any => &["PageSize", "Top", "Skip", "Filter", "SkipToken"],
    };
    let query = if has_id { &[] } else { query };
    let tag: &[&str] = match declared.input {
        Input::Path => &["IfNoneMatch"],
        Input::Ids { .. } => &[],
    };
    let fields = [
        "Prefer",
        "Priority",
        "CacheControl",
        "TraceParent",
        "TraceState",
        "RequestId",
    ];
    let caller = access_log::Config::default().caller_header.map(|_| "Caller");
    let id = has_id.then_some(ID);
    id.into_iter()
        .chain(query.iter().copied())
        .chain(tag.iter().copied())
        .chain(fields)
        .chain(caller)
}

fn request_schema(member: &str) -> Value {
    // White space around an id is ignored, and the id must not consist of it.
    let id = json!({"type": "string", "minLength": 1, "maxLength": Request::MAX_ID_BYTES, "pattern": "\\S"});
    json!({
        "type": "object",
        "required": [member],
        "additionalProperties": false,
        "properties": {member: {
            "oneOf": [
                {"type": "array", "minItems": 1, "maxItems": Request::MAX_IDS, "items": id},
                id,
            ],
            "description": format!(
                "Ids, each of at most {} bytes; order, duplicates and the case of GUIDs do not matter.",
                Request::MAX_ID_BYTES
            ),
        }},
    })
}

fn answer(declared: &Declaration) -> Value {
    // A declaration's example is JSON; a test parses each.
    let row: Value = serde_json::from_str(declared.example).unwrap_or_default();
    let (properties, example) = match declared.shape {
        Shape::List => (
            json!({
                "@odata.context": {"type": "string"},
                "@odata.nextLink": {"type": "string", "description": "The address of the next page, at the gateway."},
                "value": {"type": "array", "items": {"type": "object"}},
            }),
            json!({"value": [row]}),
        ),
        Shape::Entity => (
            json!({"@odata.context": {"type": "string"}, "id": {"type": "string"}}),
            row,
        ),
    };
    json!({"type": "object", "properties": properties, "examples": [example]})
}

fn parameters() -> Value {
    let header = |name: &str, description: &str, example: &str| json!({"name": name, "in": "header", "description": description, "schema": {"type": "string"}, "example": example});
    let mut parameters = json!({
        "Top": {
            "name": "$top",
            "in": "query",
            "description": "At most this many rows.",
            "schema": {"type": "integer", "minimum": 1, "maximum": Options::MAX_TOP},
        },
        "Skip": {
            "name": "$skip",
            "in": "query",
            "description": "Leave out this many rows.",
            "schema": {"type": "integer", "minimum": 0, "maximum": Options::MAX_SKIP},
        },
        "PageSize": {
            "name": "pagesize",
            "in": "query",
            "description": "At most this many rows. Not documented; it goes upstream as it is, as every other option of a list does.",
            "schema": {"type": "integer", "minimum": 1},
        },
        "Filter": {
            "name": "$filter",
            "in": "query",
            "description": "Goes upstream as it is.",
            "schema": {"type": "string"},
        },
        (ID): {
            "name": "id",
            "in": "path",
            "required": true,
            "description": "The id of an entity: it has a digit, and no separator of any kind.",
            "schema": {"type": "string", "minLength": 1, "maxLength": EntityId::MAX_BYTES},
        },
        "SkipToken": {
            "name": "$skiptoken",
            "in": "query",
            "description": "Part of a link to a further page. The link's whole query goes upstream as it is; a body is the one of the first page.",
            "schema": {"type": "string"},
        },
        "Prefer": header(
            "Prefer",
            "`wait=N` (RFC 7240): wait at most N seconds for a slot of the quota; 0 answers now or refuses.",
            "wait=20",
        ),
        "Priority": header("Priority", "`u=0..7` (RFC 9218): 0 is most urgent, 3 the default.", "u=5"),
        "CacheControl": header(
            "Cache-Control",
            "`no-cache`, `no-store`, `max-age`, `max-stale`, `min-fresh`, `only-if-cached` (RFC 9111).",
            "max-age=10",
        ),
        "IfNoneMatch": header(
            "If-None-Match",
            "The `ETag` of an answer that the caller has (RFC 9110 §13.1.2).",
            "\"9f2d6c0e4b7a4c1d8e3f5a6b7c8d9e0f\"",
        ),
        "TraceParent": header(
            TRACEPARENT.as_str(),
            "W3C Trace Context: the caller's span. A malformed one begins a new trace.",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
        "TraceState": header(TRACESTATE.as_str(), "W3C Trace Context: goes upstream with it.", "congo=t61rcWkgMzE"),
        "RequestId": header(
            "x-request-id",
            &format!(
                "Taken over when it is 1 to {} visible characters without quotes and backslashes.",
                RequestId::MAX_BYTES
            ),
            "01J9Z3W7Q4",
        ),
    });
    if let Some(caller) = access_log::Config::default().caller_header {
        parameters["Caller"] = header(
            caller.as_str(),
            "Who is asking, for fairness only; `queue.caller_header` is its name.",
            "nightly-report",
        );
    }
    parameters
}

#[test]
fn the_document_is_what_the_code_describes() {
    let described = described();
    if described != OPENAPI {
        let path = std::env::temp_dir().join("openapi.json");
        std::fs::write(&path, described).unwrap();
        panic!(
            "src/server/openapi.json is out of date; the new one is {}",
            path.display()
        );
    }
}

#[test]
fn shared_parts_are_described_once_and_referenced() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    for endpoint in Endpoint::all() {
        let described = &document["paths"][endpoint.template()];
        let described = described.get("post").or(described.get("get")).unwrap();
        let references = described["parameters"].as_array().unwrap().iter();
        let references = references.chain(described["responses"].as_object().unwrap().values());
        assert!(
            references.into_iter().any(|value| value["$ref"].is_string()),
            "{}",
            endpoint.template()
        );
    }
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

/// Every `$ref` in a part of the document.
fn collect_references<'a>(part: &'a Value, into: &mut Vec<&'a str>) {
    match part {
        Value::Object(members) => {
            into.extend(members.get("$ref").and_then(Value::as_str));
            members.values().for_each(|member| collect_references(member, into));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, into)),
        _ => {}
    }
}
