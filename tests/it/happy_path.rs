//! The main job: a request goes in, the upstream's answer comes out, and nothing else passes.

use http::{Method, StatusCode};

use crate::support::{Caller, PATH, Program, Running, Setup, ask_at_socket, body, id, ids};

/// Three ids, as in Defender's documented example request.
const EXAMPLE: [&str; 3] = [
    "4ad8d463-6b3c-4894-b627-e2e08d38b6c6",
    "60c4aa57-c0fb-4b6e-8b7d-9d7d22d05b8c",
    "a1b2c3d4-0000-4000-8000-00000000000f",
];

#[tokio::test]
async fn two_processes_answer_the_example_and_share_the_answer() {
    let mut simulate = Program::start(&["simulate", "--listen", "127.0.0.1:0", "--log", "calls.jsonl"], &[]);
    let export = simulate.line("# export AZURE_CLIENT_SECRET=").await;
    // What it prints is a configuration that can be saved as it is.
    let mut gateway = Program::gateway(
        &simulate.output(),
        &[
            ("AZURE_CLIENT_SECRET".into(), export.trim_matches('\'').into()),
            ("DEFENDER_GATEWAY_SERVER_LISTEN".into(), "127.0.0.1:0".into()),
            ("DEFENDER_GATEWAY_ADMIN_LISTEN".into(), "127.0.0.1:0".into()),
        ],
    )
    .await;
    let caller = gateway.caller();

    let first = caller.ask(&EXAMPLE).await;
    assert_eq!(first.status, StatusCode::OK, "{first:?}");
    assert_eq!(first.row_ids(), EXAMPLE);
    assert!(first.field("cache-status").contains("fwd=miss"), "{:?}", first.headers);
    assert!(first.headers.get("age").is_none());

    let upper = EXAMPLE[0].to_uppercase();
    let second = caller
        .ask(&[EXAMPLE[2], &upper, EXAMPLE[1], EXAMPLE[0], EXAMPLE[2]])
        .await;
    assert_eq!(second.body, first.body);
    assert!(
        second.field("cache-status").starts_with("defender-gateway; hit; ttl="),
        "{:?}",
        second.headers
    );
    assert!(second.field("age").parse::<u64>().is_ok(), "{:?}", second.headers);

    let top = caller.request(Method::POST, &format!("{PATH}?$top=1"));
    let top = top.header("content-type", "application/json").body(body(&EXAMPLE));
    let third = caller.send(top.unwrap()).await;
    assert_eq!((third.status, third.rows()), (StatusCode::OK, 1));
    assert!(third.field("cache-status").contains("fwd=miss"), "{:?}", third.headers);

    for program in [&mut gateway, &mut simulate] {
        program.signal("TERM").await;
        let ended = program.ended().await;
        assert_eq!(ended.code, Some(0), "{}", ended.output);
    }
    let log = std::fs::read_to_string(simulate.folder().join("calls.jsonl")).unwrap();
    let calls: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(calls.len(), 2, "{log}");
    assert_eq!(calls[0]["ids"], serde_json::json!(EXAMPLE), "sent in canonical form");
    // Which region is nearest is up to the machine here; `regions` measures it.
    assert!(calls[0]["region"].is_string(), "{log}");
    assert_eq!(calls[0]["status"], 200);
    assert_eq!(
        (&calls[0]["top"], &calls[1]["top"]),
        (&serde_json::Value::Null, &1.into())
    );
}

#[tokio::test]
async fn every_bad_request_is_told_what_is_wrong_and_costs_no_call() {
    let running = Setup::new().start().await;
    let bodies: [(&str, &str, u16, &str); 12] = [
        ("?$top=10001", r#"{"ScanDefinitionIds":["x"]}"#, 400, "ODataError"),
        ("?$top=0", r#"{"ScanDefinitionIds":["x"]}"#, 400, "ODataError"),
        ("?$top=ten", r#"{"ScanDefinitionIds":["x"]}"#, 400, "ODataError"),
        ("?$skip=-1", r#"{"ScanDefinitionIds":["x"]}"#, 400, "ODataError"),
        ("", r#"{"ScanDefinitionIds":"x""#, 400, "InvalidRequestBody"),
        ("", "{}", 400, "InvalidRequestBody"),
        ("", "[]", 400, "InvalidRequestBody"),
        ("", "", 400, "InvalidRequestBody"),
        ("", r#"{"ScanDefinitionIds":[]}"#, 400, "InvalidRequestBody"),
        ("", r#"{"ScanDefinitionIds":[7]}"#, 400, "InvalidRequestBody"),
        ("", r#"{"scanDefinitionIds":["x"]}"#, 400, "InvalidRequestBody"),
        ("", r#"{"ScanDefinitionIds":null}"#, 400, "InvalidRequestBody"),
    ];
    for (query, body, status, code) in bodies {
        let request = running.caller.request(Method::POST, &format!("{PATH}{query}"));
        let request = request.header("content-type", "application/json").body(body.into());
        let answer = running.caller.send(request.unwrap()).await;
        let told = (answer.status.as_u16(), answer.error_code());
        assert_eq!(told, (status, code.to_owned()), "{query} {body}: {}", answer.text());
    }

    let sibling = "/api/DeviceAuthenticatedScanDefinitions/BatchDelete";
    let wrong: [(Method, &str, &str, u16, &str); 7] = [
        (Method::POST, PATH, "text/plain", 415, "UnsupportedMediaType"),
        (Method::POST, PATH, "", 415, "UnsupportedMediaType"),
        (Method::GET, PATH, "application/json", 405, "MethodNotAllowed"),
        (Method::DELETE, PATH, "application/json", 405, "MethodNotAllowed"),
        (Method::POST, sibling, "application/json", 404, "NotFound"),
        (Method::POST, "/api/machines", "application/json", 404, "NotFound"),
        (
            Method::POST,
            &format!("{PATH}/../BatchDelete"),
            "application/json",
            404,
            "NotFound",
        ),
    ];
    for (method, path, media, status, code) in wrong {
        let request = running.caller.request(method.clone(), path);
        let request = if media.is_empty() {
            request
        } else {
            request.header("content-type", media)
        };
        let answer = running.caller.send(request.body(body(&[id(1)])).unwrap()).await;
        let told = (answer.status.as_u16(), answer.error_code());
        assert_eq!(told, (status, code.to_owned()), "{method} {path} {media:?}");
        let allow = if status == 405 { "OPTIONS, POST, QUERY" } else { "" };
        assert_eq!(answer.field("allow"), allow);
    }

    let large = running.caller.history_request().body(vec![b' '; 2 << 20].into());
    let answer = running.caller.send(large.unwrap()).await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.error_code()),
        (413, "RequestEntityTooLarge")
    );

    assert!(
        running.simulator.calls().is_empty(),
        "nothing of this may reach the upstream"
    );
    running.finish().await;
}

#[tokio::test]
async fn strangers_are_turned_away() {
    let running = Setup::new().start().await;
    let fields = [
        ("host", "evil.example", 421),
        ("origin", "https://evil.example", 403),
        ("sec-fetch-site", "cross-site", 403),
    ];
    for (name, value, status) in fields {
        let answer = running.caller.ask_with(&[id(1)], &[(name, value)]).await;
        let told = (answer.status.as_u16(), answer.error_code());
        assert_eq!(told, (status, "Forbidden".into()), "{name}: {value}");
    }
    assert!(running.simulator.calls().is_empty());
    running.finish().await;
}

#[tokio::test]
async fn query_is_as_good_as_post_and_options_says_so() {
    let running = Setup::new().start().await;
    let posted = running.caller.ask(&[id(1)]).await;
    let request = running.caller.request(Method::QUERY, PATH);
    let request = request.header("content-type", "application/json").body(body(&[id(1)]));
    let queried = running.caller.send(request.unwrap()).await;
    assert_eq!((queried.status, &queried.body), (StatusCode::OK, &posted.body));
    assert!(queried.field("cache-status").contains("; hit"), "the same entry");

    let options = running.caller.request(Method::OPTIONS, PATH).body("".into());
    let options = running.caller.send(options.unwrap()).await;
    assert!(options.status.is_success());
    assert_eq!(options.field("accept-query"), r#""application/json""#);
    assert_eq!(options.field("allow"), "OPTIONS, POST, QUERY");
    assert_eq!(running.simulator.calls().len(), 1);
    running.finish().await;
}

#[tokio::test]
async fn the_versioned_path_is_asked_at_the_versioned_path() {
    let running = Setup::new().start().await;
    let versioned = PATH.replace("/api/", "/api/v1.0/");
    let request = running.caller.request(Method::POST, &versioned);
    let request = request.header("content-type", "application/json").body(body(&[id(1)]));
    assert_eq!(running.caller.send(request.unwrap()).await.row_ids(), ids([1]));
    assert_eq!(running.simulator.calls()[0].path, versioned);
    running.finish().await;
}

#[tokio::test]
async fn a_unix_socket_is_as_good_as_a_port() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("gateway.sock");
    let listen = format!("127.0.0.1:0,unix:{}", socket.display());
    let running = Setup::new().set("server.listen", &listen).start().await;
    let answer = ask_at_socket(&socket, &ids([1, 2])).await;
    assert_eq!(answer.row_ids(), ids([1, 2]));
    let again = running.caller.ask(&ids([2, 1])).await;
    assert_eq!(again.body, answer.body);
    assert!(again.field("cache-status").contains("; hit"));
    running.finish().await;
    assert!(!socket.exists(), "the socket goes with the gateway");
}

#[tokio::test]
async fn http2_with_prior_knowledge_carries_many_requests_on_one_connection() {
    let running = Setup::new().start().await;
    let caller = Caller::http2(&base(&running));
    let answers = caller.ask_each(0..50).await;
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!((answer.status, answer.row_ids()), (StatusCode::OK, ids([n])));
    }
    drop(caller);
    running.finish().await;
}

#[tokio::test]
async fn what_is_forwarded_is_on_the_list_and_an_id_of_the_request_goes_along() {
    let running = Setup::new().start().await;
    let fields = [
        ("authorization", "Bearer of-the-caller"),
        ("cookie", "a=b"),
        ("forwarded", "for=10.0.0.1"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-secret-thing", "1"),
        ("x-request-id", "request-7"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let answer = running.caller.ask_with(&[id(1)], &fields).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.field("x-request-id"), "request-7");
    let call = running.simulator.calls().remove(0);
    for name in ["cookie", "forwarded", "x-forwarded-for", "x-secret-thing"] {
        assert!(!call.headers.contains_key(name), "{name} was forwarded");
    }
    assert!(call.token_id.is_some(), "the gateway's own token");
    running.finish().await;
}

#[tokio::test]
async fn an_answer_says_what_is_left_of_the_quota() {
    let running = Setup::new().start().await;
    let answer = running.caller.ask(&[id(1)]).await;
    assert_eq!(
        answer.field("ratelimit-policy"),
        r#""1m";q=100;w=60, "1h";q=1500;w=3600, "pace";q=100;w=240"#
    );
    assert!(
        answer.field("ratelimit").starts_with(r#""1m";r=99;t="#),
        "{:?}",
        answer.headers
    );
    assert!(
        answer.field("ratelimit").contains(r#", "1h";r=1499;t="#),
        "{:?}",
        answer.headers
    );
    assert!(
        answer.field("ratelimit").contains(r#", "pace";r=99;t="#),
        "{:?}",
        answer.headers
    );
    running.finish().await;
}

#[tokio::test]
async fn a_next_page_leads_through_the_gateway() {
    let setup = Setup::new().simulator(|config| config.history.page_size = 1);
    let running = setup.start().await;
    let first = running.caller.ask(&[id(1)]).await;
    assert_eq!(first.rows(), 1);
    let link = first.json()["@odata.nextLink"].as_str().unwrap().to_owned();
    let base = base(&running);
    let target = link
        .strip_prefix(&base)
        .unwrap_or_else(|| panic!("{link} leads around {base}"));
    let second = running.caller.request(Method::POST, target);
    let second = second.header("content-type", "application/json").body(body(&[id(1)]));
    let second = running.caller.send(second.unwrap()).await;
    assert_eq!((second.status, second.rows()), (StatusCode::OK, 1));
    assert_ne!(second.json()["value"], first.json()["value"]);
    running.finish().await;
}

fn base(running: &Running) -> String {
    running.caller.base().to_owned()
}
