//! The description of the data listener, for people and generators: made from the paths, limits and kinds of error that it works with.

use serde_json::{Map, Value, json};

use super::count;
use crate::caller::RequestId;
use crate::respond;
use crate::scan::{Options, Request, Version};
use crate::telemetry::trace::{TRACEPARENT, TRACESTATE};

/// `OpenAPI` 3.1, as `defender-gateway openapi` prints it and the admin listener serves it. The same for every configuration.
#[must_use]
pub fn openapi() -> String {
    let (answers, responses) = respond::answers(&answer());
    let paths: Map<String, Value> = Version::ALL
        .into_iter()
        .map(|version| (version.path().to_owned(), path(version, &answers)))
        .collect();
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "defender-gateway",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Scan history of Microsoft Defender for Endpoint through one shared quota. Callers send no credentials. The method \
                QUERY (RFC 10008) is accepted wherever POST is; OpenAPI 3.1 has no place for it.",
        },
        // Wherever this document was got from.
        "servers": [{"url": "http://127.0.0.1:8080"}],
        "paths": paths,
        "components": {
            "schemas": {"Question": question(), "Problem": respond::body()},
            "parameters": parameters(),
            "responses": responses,
        },
    });
    format!("{document:#}\n")
}

fn path(version: Version, answers: &Value) -> Value {
    let (suffix, which) = match version {
        Version::Latest => ("", "the current version"),
        Version::V1 => ("V1", "version 1.0"),
    };
    let named = parameters();
    let parameters: Vec<_> = named
        .as_object()
        .into_iter()
        .flat_map(Map::keys)
        .map(|name| json!({"$ref": format!("#/components/parameters/{name}")}))
        .collect();
    json!({
        "post": {
            "operationId": format!("scanHistory{suffix}"),
            "summary": format!("Scan history of a list of scan definitions, in {which}"),
            "parameters": parameters,
            "requestBody": {
                "required": true,
                "content": {"application/json": {
                    "schema": {"$ref": "#/components/schemas/Question"},
                    "example": {"ScanDefinitionIds": ["4ad8d463-6b3f-4894-b20b-ee9a0b5a4d6a"]},
                }},
            },
            "responses": answers,
        },
        "options": {
            "operationId": format!("whatMayBeAsked{suffix}"),
            "summary": "What may be asked here",
            "responses": respond::options(),
        },
    })
}

fn question() -> Value {
    // White space around an id does not count, and is not all there may be.
    let id = json!({"type": "string", "minLength": 1, "maxLength": Request::MAX_ID_BYTES, "pattern": "\\S"});
    json!({
        "type": "object",
        "required": ["ScanDefinitionIds"],
        "additionalProperties": false,
        "properties": {"ScanDefinitionIds": {
            "oneOf": [
                {"type": "array", "minItems": 1, "maxItems": Request::MAX_IDS, "items": id},
                id,
            ],
            "description": format!(
                "Scan definition ids, each of at most {} bytes; order, duplicates and the case of GUIDs do not matter.",
                Request::MAX_ID_BYTES
            ),
        }},
    })
}

fn answer() -> Value {
    json!({
        "type": "object",
        "properties": {
            "@odata.context": {"type": "string"},
            "@odata.nextLink": {"type": "string", "description": "The address of the next page, at the gateway."},
            "value": {"type": "array", "items": {"type": "object"}},
        },
    })
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
        "SkipToken": {
            "name": "$skiptoken",
            "in": "query",
            "description": "Part of a link to a further page. The link's whole query goes upstream as it is; the body is the one of the first page.",
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
    if let Some(caller) = count::Config::default().caller_header {
        parameters["Caller"] = header(
            caller.as_str(),
            "Who is asking, for fairness only; `queue.caller_header` is its name.",
            "nightly-report",
        );
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_described_is_described_once_and_referred_to() {
        let text = openapi();
        assert_eq!(text, openapi(), "the same every time");
        let document: Value = serde_json::from_str(&text).unwrap();
        for path in Version::ALL.map(Version::path) {
            let post = &document["paths"][path]["post"];
            let references = post["parameters"].as_array().unwrap().iter();
            let references = references.chain(post["responses"].as_object().unwrap().values());
            for reference in references.filter_map(|value| value["$ref"].as_str()) {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
        }
    }
}
