//! What shares its paths with the operations and changes something never leaves.

use defender_gateway::testing::scan::{Endpoint, Operation};
use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Setup, within};

const METHODS: [&str; 13] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "MERGE", "PROPFIND", "post", "patch",
];

/// Other spellings of a path, which some servers take for the same, and the path itself.
fn spellings(path: &str) -> Vec<String> {
    let segments: Vec<_> = path.split('/').skip(1).collect();
    let mut all: Vec<_> = [
        "", "/", "//", ";", ";a=b", "%20", "%00", "/.", "/%2e", "%2f", ".", "?x=1", "/$value", "()",
    ]
    .map(|end| format!("{path}{end}"))
    .into();
    all.extend([
        path.to_lowercase(),
        path.to_uppercase(),
        path.replacen('D', "%44", 1),
        format!("/{path}"),
    ]);
    for at in 1..segments.len() {
        let (head, tail) = segments.split_at(at);
        let with = |between: &str| format!("/{}{between}{}", head.join("/"), tail.join("/"));
        all.extend(
            [
                "//",
                "/./",
                "/%2e/",
                "%2f",
                "%2F",
                "%5c",
                ";/",
                ";x=1/",
                "/x/../",
                "/x/%2e%2e/",
            ]
            .map(with),
        );
    }
    all
}

/// The statuses of one request for each method, over one connection.
async fn statuses(address: &str, target: &str, methods: &[&str]) -> Vec<u16> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = r#"{"ScanDefinitionIds":["a1"],"SessionIds":["a1"]}"#;
    let mut sent = String::new();
    for (nth, method) in methods.iter().enumerate() {
        let connection = if nth + 1 == methods.len() {
            "close"
        } else {
            "keep-alive"
        };
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             X-HTTP-Method-Override: DELETE\r\nX-HTTP-Method: PATCH\r\nConnection: {connection}\r\n\r\n{body}",
            body.len()
        );
        sent.push_str(&request);
    }
    // It may be refused before it is read whole.
    let _ = stream.write_all(sent.as_bytes()).await;
    let mut answers = Vec::new();
    let _ = within("the answers", stream.read_to_end(&mut answers)).await;
    let answers = String::from_utf8_lossy(&answers);
    let lines = answers.split("HTTP/1.1 ").skip(1);
    lines.filter_map(|line| line.get(..3)?.parse().ok()).collect()
}

/// Whether Defender's documentation has it among the reads, written out here so that it is not the
/// gateway's own table which says so.
fn is_read(method: &str, target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    let Some(below) = path.strip_prefix("/api/") else {
        return false;
    };
    let below = below.strip_prefix("v1.0/").unwrap_or(below);
    let (is_list, is_one, is_history) = match below.split_once('/') {
        None => (
            matches!(
                below,
                "DeviceAuthenticatedScanDefinitions" | "DeviceAuthenticatedScanAgents"
            ),
            false,
            false,
        ),
        Some((
            "DeviceAuthenticatedScanDefinitions",
            "GetScanHistoryByScanDefinitionId" | "GetScanHistoryBySessionId",
        )) => (false, false, true),
        Some(("DeviceAuthenticatedScanDefinitions" | "DeviceAuthenticatedScanAgents", id)) => {
            (false, !id.is_empty() && !id.contains('/') && id != "BatchDelete", false)
        }
        Some(_) => (false, false, false),
    };
    match method {
        "GET" => is_list || is_one,
        "POST" => is_history,
        "OPTIONS" => is_list || is_one || is_history,
        _ => false,
    }
}

#[tokio::test]
async fn no_write_leaves_in_any_method_and_spelling() {
    let running = Setup::new().start().await;
    let address = running.caller.base().trim_start_matches("http://").to_owned();
    let mut paths = vec![
        "/api/DeviceAuthenticatedScanDefinitions/BatchDelete".to_owned(),
        "/api/v1.0/DeviceAuthenticatedScanDefinitions/BatchDelete".to_owned(),
        "/api/$batch".to_owned(),
        "/api/machines/1/isolate".to_owned(),
    ];
    paths.extend(Endpoint::all().map(|endpoint| {
        endpoint
            .template()
            .replace("{id}", "7e8da3a5-90e9-4e22-ac1a-9b3d9a3b1d0f")
    }));
    let mut answered = 0;
    for path in paths {
        for target in spellings(&path) {
            let methods: Vec<_> = METHODS.into_iter().filter(|method| !is_read(method, &target)).collect();
            for status in statuses(&address, &target, &methods).await {
                assert!(matches!(status, 400 | 404 | 405), "{status}: {target}");
                answered += 1;
            }
        }
    }
    assert!(answered > 3000, "{answered}");
    assert_eq!(running.simulator.calls().len(), 0);
    running.finish().await;
}

#[tokio::test]
async fn what_leaves_is_in_the_table_and_nothing_else() {
    let running = Setup::new().start().await;
    let address = running.caller.base().trim_start_matches("http://").to_owned();
    for endpoint in Endpoint::all() {
        let target = endpoint
            .template()
            .replace("{id}", "7e8da3a5-90e9-4e22-ac1a-9b3d9a3b1d0f");
        for method in endpoint.operation.declaration().methods() {
            // The body has a member too many for one operation, and is one too many for another.
            statuses(&address, &target, &[method.as_str()]).await;
        }
        let answer = running.caller.fetch(&target).await;
        let is_get = endpoint.operation.declaration().methods() == [Method::GET];
        // No scanner has this id.
        let is_known = endpoint.operation != Operation::Agent;
        let expected = match (is_get, is_known) {
            (true, true) => 200,
            (true, false) => 404,
            (false, _) => 405,
        };
        assert_eq!(answer.status.as_u16(), expected, "{target}");
    }
    let calls = running.simulator.calls();
    assert_eq!(calls.len(), 8, "one for each operation without a body, under each path");
    for call in calls {
        assert_eq!(call.method, "GET");
        assert!(
            call.operation.is_some() && call.headers.get("content-type").is_none(),
            "{call:?}"
        );
    }
    running.finish().await;
}
