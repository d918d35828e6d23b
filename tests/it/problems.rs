//! One thing is broken at a time, and everything that operators look at says so: the mode,
//! `/status`, `/readyz?verbose`, `status`, the metric and the log. What a browser shows of the same
//! list is `tests/page`, and what monitors make of the metric is `tests/deploy`.

use std::any::Any;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{FutureExt as _, LocalBoxFuture, join_all};
use http::{Method, StatusCode};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use defender_gateway::testing::sim::{Fault, Often, Plan, Shape, SignInFault};

use crate::shared_cache::proxy::Proxy;
use crate::support::redis::Redis;
use crate::support::{Controls, Program, Setup, Spawned, id, until};

/// A gateway with something broken, and what has to live as long as it.
struct Broken {
    spawned: Spawned,
    held: Vec<Box<dyn Any>>,
}

impl Broken {
    fn new(spawned: Spawned) -> Self {
        Self {
            spawned,
            held: Vec::new(),
        }
    }

    fn with(spawned: Spawned, held: impl Any) -> Self {
        Self {
            spawned,
            held: vec![Box::new(held)],
        }
    }

    async fn status(&self) -> Value {
        self.spawned.admin().fetch("/status").await.json()
    }

    /// Waits until there is this problem. It is among the first things that `/status` says.
    async fn has(&self, code: &str) -> Value {
        let look = async || {
            let status = self.status().await;
            let problems = status["problems"].as_array().unwrap().clone();
            problems.into_iter().find(|problem| problem["code"] == code)
        };
        until(code, look).await
    }
}

type Break = fn() -> LocalBoxFuture<'static, Broken>;

/// Three calls that the fault meets.
async fn faulty(fault: Fault) -> Broken {
    let spawned = Setup::new().spawn().await;
    spawned.simulator.set_faults_everywhere(&Plan::of(fault, Often::Always));
    for n in 0..3 {
        spawned.caller().ask(&[id(n)]).await;
    }
    Broken::new(spawned)
}

async fn impatient(setup: Setup) -> Broken {
    let spawned = setup.spawn().await;
    for n in 0..4 {
        spawned.caller().ask_with(&[id(n)], &[("prefer", "wait=0")]).await;
    }
    Broken::new(spawned)
}

async fn rewritten(changes: &[(&str, &str)]) -> Broken {
    let spawned = Setup::new().spawn().await;
    spawned.rewrite(changes);
    Broken::new(spawned)
}

/// `eu` is the simulator's, the other one is nobody's.
async fn with_dead_host(keep: bool) -> Broken {
    let spawned = Setup::new().spawn().await;
    let eu = spawned.simulator.region("eu").unwrap();
    let dead = r#"{ name = "uk", url = "http://127.0.0.1:9" }"#;
    let regions = if keep {
        format!("[{{ name = \"eu\", url = \"{eu}\" }}, {dead}]")
    } else {
        format!("[{dead}]")
    };
    spawned.rewrite(&[("defender.regions", &regions)]);
    Broken::new(spawned)
}

async fn unrenewable() -> Broken {
    let spawned = Setup::new().spawn().await;
    let refused = SignInFault::Status(StatusCode::INTERNAL_SERVER_ERROR);
    spawned.simulator.set_sign_in_faults(Plan::of(refused, Often::Always));
    let rejected = Plan::of(Fault::NoLicence, Often::Times(1));
    spawned.simulator.set_faults_everywhere(&rejected);
    spawned.caller().ask(&[id(1)]).await;
    Broken::new(spawned)
}

async fn crowded() -> Broken {
    // Half of the files are for connections.
    let spawned = Setup::new().spawn_behind("ulimit -n 64").await;
    let address = spawned.caller().base().trim_start_matches("http://").to_owned();
    let connections = join_all((0..32).map(|_| TcpStream::connect(address.clone()))).await;
    Broken::with(spawned, connections)
}

async fn with_store(settings: &[&str], then: impl AsyncFnOnce(&mut Redis)) -> Broken {
    let mut store = Redis::start_with(settings).await;
    let spawned = Setup::new().set("store.url", &store.url()).spawn().await;
    spawned.caller().ask(&[id(1)]).await;
    then(&mut store).await;
    Broken::with(spawned, store)
}

/// The certificate is over, and nobody knows it.
async fn with_old_certificate() -> Broken {
    const KEY: &str = include_str!("../../src/token/credential/testdata/rsa-2.pem");
    let pair = rcgen::KeyPair::from_pkcs8_pem_and_sign_algo(KEY, &rcgen::PKCS_RSA_SHA256).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["gateway.test".into()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let certificate = params.self_signed(&pair).unwrap().pem();
    let folder = tempfile::tempdir().unwrap();
    let [certificate_file, key_file] = [("certificate", certificate.as_str()), ("key", KEY)].map(|(name, pem)| {
        let path = folder.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let setup = Setup::new()
        .set("credentials.kind", "certificate")
        .set("credentials.certificate_file", &certificate_file)
        .set("credentials.private_key_file", &key_file);
    Broken::with(setup.spawn().await, folder)
}

/// The folder of the quota's state file is taken away.
async fn without_folder() -> Broken {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("quota");
    let spawned = Setup::new()
        .set("quota.state_file", file.to_str().unwrap())
        .spawn()
        .await;
    drop(folder);
    Broken::new(spawned)
}

/// Two gateways share a quota, and go by different limits of it.
async fn with_other_limits() -> Broken {
    let store = Redis::start_with(&[]).await;
    let setup = || Setup::new().set("store.url", &store.url());
    let other = setup().set("quota.burst", "7").spawn().await;
    let spawned = setup().spawn().await;
    let both = async || {
        let status = spawned.admin().fetch("/status").await.json();
        (status["quota"]["replicas"] == 2).then_some(())
    };
    until("two gateways to know each other", both).await;
    Broken {
        spawned,
        held: vec![Box::new(other), Box::new(store)],
    }
}

/// It answers in time for the quota and too late for answers.
async fn with_slow_store() -> Broken {
    let store = Redis::start_with(&[]).await;
    let there = Proxy::slow(&store.url(), Duration::from_millis(60)).await;
    let spawned = Setup::new().set("store.url", &there.url()).spawn().await;
    spawned.caller().ask(&[id(1)]).await;
    Broken::with(spawned, (store, there))
}

/// Bodies of which the end does not come.
async fn half_sent() -> Broken {
    let spawned = Setup::new().set("server.memory", "48MiB").spawn().await;
    let address = spawned.caller().base().trim_start_matches("http://").to_owned();
    let mut streams = Vec::new();
    for _ in 0..24 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let path = crate::support::PATH;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 131072\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // Not all of it is taken of those that are refused.
        let _ = stream.write_all(" ".repeat(120_000).as_bytes()).await;
        streams.push(stream);
    }
    Broken::with(spawned, streams)
}

async fn contradicted() -> Broken {
    // Two rows a page: an answer for several requests comes in pages, and cannot be taken apart.
    let spawned = Setup::new()
        .simulator(|config| config.history.page_size = 2)
        .region("eu", 10)
        // While slots are plenty, each call leaves by itself.
        .limits(Shape::SlidingLog, &["1/1s"])
        .set("merge.enabled", "true")
        .spawn()
        .await;
    let mut next = 0;
    let resting = async || {
        spawned.caller().ask_each(next..next + 4).await;
        next += 4;
        let status = spawned.admin().fetch("/status").await.json();
        status["merge"]["rests_for_s"].is_number().then_some(())
    };
    until("merging to rest", resting).await;
    Broken::new(spawned)
}

/// Each problem, the level of its log line, and how to have it.
const TABLE: [(&str, &str, Break); 22] = [
    ("no-token", "ERROR", || {
        async { Broken::new(Setup::new().secret("wrong").spawn().await) }.boxed_local()
    }),
    ("roles-missing", "ERROR", || {
        let roles = vec!["Alert.Read.All".to_owned()];
        let setup = Setup::new().simulator(|config| config.sign_in.roles = roles);
        async { Broken::new(setup.spawn().await) }.boxed_local()
    }),
    ("upstream-unauthorized", "ERROR", || {
        faulty(Fault::NoLicence).boxed_local()
    }),
    ("upstream-forbidden", "ERROR", || {
        faulty(Fault::Status(StatusCode::FORBIDDEN)).boxed_local()
    }),
    ("upstream-failing", "ERROR", || {
        faulty(Fault::Status(StatusCode::INTERNAL_SERVER_ERROR)).boxed_local()
    }),
    ("no-region", "ERROR", || with_dead_host(false).boxed_local()),
    ("region-lost", "WARN", || with_dead_host(true).boxed_local()),
    ("store-lost", "ERROR", || {
        with_store(&[], async |store: &mut Redis| store.kill().await).boxed_local()
    }),
    ("store-slow", "WARN", || with_slow_store().boxed_local()),
    ("store-evicting", "WARN", || {
        with_store(&["--maxmemory-policy", "allkeys-lru"], async |_: &mut Redis| {}).boxed_local()
    }),
    ("store-unheard", "WARN", || {
        with_store(&[], async |store: &mut Redis| {
            store.command(&["ACL", "SETUSER", "default", "-subscribe"]).await;
            store.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
            // A connection over which messages come may be of either type.
            store.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        })
        .boxed_local()
    }),
    ("state-file", "WARN", || without_folder().boxed_local()),
    ("sign-in-failing", "WARN", || unrenewable().boxed_local()),
    ("certificate-expiring", "WARN", || with_old_certificate().boxed_local()),
    ("paused", "WARN", || {
        faulty(Fault::Throttle(Duration::from_mins(5))).boxed_local()
    }),
    ("quota-spent", "WARN", || {
        impatient(Setup::new().limits(Shape::SlidingLog, &["2/1h"])).boxed_local()
    }),
    ("paced", "WARN", || {
        impatient(Setup::new().set("quota.burst", "1")).boxed_local()
    }),
    ("memory-full", "WARN", || half_sent().boxed_local()),
    ("connections-full", "WARN", || crowded().boxed_local()),
    ("config-refused", "WARN", || {
        rewritten(&[("cache.ttl", "\"soon\"")]).boxed_local()
    }),
    ("config-pending", "INFO", || {
        rewritten(&[("telemetry.format", "\"text\"")]).boxed_local()
    }),
    ("merge-resting", "INFO", || contradicted().boxed_local()),
];

/// Those that begin when a rollout would be over.
const SLOW: [(&str, &str, Break); 1] = [("limits-differ", "WARN", || with_other_limits().boxed_local())];

/// Everything that operators look at names the problem.
async fn is_told(code: &str, level: &str, broken: &Broken) {
    let problem = broken.has(code).await;
    for member in ["message", "advice"] {
        assert!(!problem[member].as_str().unwrap().is_empty(), "{problem}");
    }
    assert!(
        problem["since_s"].is_number() && problem["count"].is_number(),
        "{problem}"
    );
    let admin = broken.spawned.admin();
    let mode = broken.status().await["mode"].clone();
    let expected = if code == "store-lost" { "store-lost" } else { "degraded" };
    assert_eq!(mode, expected, "{code}");
    let checks = admin.fetch("/readyz?verbose").await;
    assert!(checks.text().contains(&format!("[-] {code}: ")), "{}", checks.text());
    let metrics = admin.fetch("/metrics").await;
    let gauge = format!("defender_gateway_problem{{code=\"{code}\"}} 1\n");
    assert!(metrics.text().contains(&gauge), "{gauge} in {}", metrics.text());
    let severity = problem["severity"].as_str().unwrap();
    let address = admin.base().trim_start_matches("http://").to_owned();
    let shown = Program::start(&["status", "--admin", &address], &[])
        .ended()
        .await
        .output;
    assert!(shown.contains(&format!("{code} ({severity}, for ")), "{shown}");
    let line = broken
        .spawned
        .gateway
        .line_with(&format!("\"problem\":\"{code}\""))
        .await;
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&line["message"], &line["level"]),
        (&"a problem has begun".into(), &level.into())
    );
    assert_eq!(line["advice"], problem["advice"]);
}

#[tokio::test]
async fn whatever_is_broken_everything_says_so() {
    let cases = TABLE.map(|(code, level, make)| async move { is_told(code, level, &make().await).await });
    // One after the other they would mostly wait.
    join_all(cases).await;
}

#[tokio::test]
#[ignore = "five minutes: limits may differ for as long as a rollout takes"]
async fn what_outlasts_a_rollout_is_said_by_everything_and_ends_with_the_other_replica() {
    let [(code, level, make)] = SLOW;
    let mut broken = make().await;
    tokio::time::sleep(Duration::from_mins(5)).await;
    is_told(code, level, &broken).await;
    // The other replica is gone, and its lease ends.
    drop(broken.held.remove(0));
    let ended = async || (broken.status().await["mode"] == "normal").then_some(());
    until("the other replica to be gone", ended).await;
}

/// What a proxy or portal answers is not taken for Defender's answer, whatever its status.
#[tokio::test]
async fn pages_of_others_are_failures_and_no_advice_about_permissions() {
    let page = |status| Fault::Page(StatusCode::from_u16(status).unwrap());
    for fault in [Fault::Portal, page(401), page(403), page(404)] {
        let broken = faulty(fault).await;
        let problem = broken.has("upstream-failing").await;
        assert!(
            problem["message"].as_str().unwrap().contains("http_protocol_error"),
            "{problem}"
        );
        let status = broken.status().await;
        let codes: Vec<_> = status["problems"]
            .as_array()
            .unwrap()
            .iter()
            .map(|problem| &problem["code"])
            .collect();
        assert!(
            codes
                .iter()
                .all(|code| *code == "upstream-failing" || *code == "no-region"),
            "{codes:?}"
        );
        let metrics = broken.spawned.admin().fetch("/metrics").await;
        let calls: Vec<_> = metrics
            .text()
            .lines()
            .filter(|line| line.contains("upstream_calls_total{"))
            .map(str::to_owned)
            .collect();
        assert!(
            calls.iter().all(|line| line.contains("http_protocol_error")),
            "{fault:?}: {calls:?}"
        );
    }
}

#[tokio::test]
async fn a_store_that_refuses_is_shown_with_what_it_says() {
    let broken = with_store(&[], async |store: &mut Redis| {
        store.command(&["ACL", "SETUSER", "default", "-eval", "-evalsha"]).await;
    })
    .await;
    let shown = async || {
        let message = broken.has("store-lost").await["message"].as_str().unwrap().to_owned();
        message.contains("no permissions").then_some(())
    };
    until("the reason", shown).await;
}

#[tokio::test]
async fn a_gateway_that_is_well_says_that_and_nothing_else() {
    let well = Broken::new(Setup::new().spawn().await);
    well.spawned.caller().ask(&[id(1)]).await;
    let status = well.status().await;
    assert_eq!(
        (&status["mode"], &status["problems"]),
        (&"normal".into(), &Value::Array(Vec::new()))
    );
    assert!(
        !status["host"].as_str().unwrap().is_empty() && status["cloud"] == "public",
        "{status}"
    );
    let metrics = well.spawned.admin().fetch("/metrics").await;
    for (code, ..) in TABLE.into_iter().chain(SLOW) {
        let gauge = format!("defender_gateway_problem{{code=\"{code}\"}} 0\n");
        assert!(metrics.text().contains(&gauge), "{gauge} in {}", metrics.text());
    }
    assert_eq!(
        metrics.text().matches("defender_gateway_problem{").count(),
        TABLE.len() + SLOW.len()
    );
    let log = well.spawned.finish().await;
    assert!(!log.contains("\"problem\":"), "{log}");
}

#[tokio::test]
async fn a_store_that_is_well_is_not_called_lost_before_it_can_answer() {
    let well = with_store(&[], async |_: &mut Redis| {}).await;
    well.spawned.caller().ask(&[id(1)]).await;
    let status = well.status().await;
    assert_eq!(
        (&status["mode"], &status["problems"]),
        (&"normal".into(), &Value::Array(Vec::new()))
    );
    let log = well.spawned.finish().await;
    assert!(!log.contains("\"problem\":"), "{log}");
}

#[tokio::test]
async fn while_the_store_is_lost_callers_are_told_that_none_may_go_and_people_what_is_used() {
    let broken = with_store(&[], async |store: &mut Redis| store.kill().await).await;
    broken.has("store-lost").await;
    let caller = broken.spawned.caller();
    // One that is answered from memory, and one that is refused.
    for number in [1, 2] {
        let request = caller.history_request().header("prefer", "wait=0");
        let answer = caller
            .send(request.body(crate::support::body(&[id(number)])).unwrap())
            .await;
        let limits = answer.headers["ratelimit"].to_str().unwrap();
        assert!(
            !limits.is_empty() && limits.split(',').all(|limit| limit.contains(";r=0")),
            "{limits}"
        );
    }
    let admin = broken.spawned.admin();
    let checks = admin.fetch("/readyz?verbose").await;
    assert!(
        checks.text().contains("[-] quota: the store is lost"),
        "{}",
        checks.text()
    );
    let metrics = admin.fetch("/metrics").await;
    for line in metrics
        .text()
        .lines()
        .filter(|line| line.starts_with("defender_gateway_quota_remaining{"))
    {
        assert!(!line.ends_with(" 0"), "what the windows have is known: {line}");
    }
    assert!(
        metrics
            .text()
            .contains("defender_gateway_queue_predicted_wait_seconds NaN\n"),
        "nobody knows when slots come"
    );
    let status = broken.status().await;
    assert_eq!(status["queue"]["predicted_wait_s"], Value::Null);
    for window in status["quota"]["windows"].as_array().unwrap() {
        let [used, remaining, limit] = ["used", "remaining", "limit"].map(|member| window[member].as_u64().unwrap());
        assert_eq!(used + remaining, limit, "{window}");
    }
    let problems = status["problems"].as_array().unwrap();
    assert!(
        problems.iter().all(|problem| problem["code"] != "quota-spent"),
        "{problems:?}"
    );
}

#[tokio::test]
async fn a_problem_that_has_passed_is_over_everywhere() {
    let broken = faulty(Fault::Status(StatusCode::FORBIDDEN)).await;
    broken.has("upstream-forbidden").await;
    broken.spawned.simulator.set_faults_everywhere(&Plan::none());
    // Twenty calls later no failure is among the latest twenty.
    broken.spawned.caller().ask_each(100..121).await;
    let well = async || (broken.status().await["mode"] == "normal").then_some(());
    until("the mode to be normal", well).await;
    let log = broken.spawned.gateway.line_with("a problem has ended").await;
    assert!(log.contains("\"problem\":\"upstream-forbidden\""), "{log}");
}

#[tokio::test]
async fn failures_refusals_and_mistakes_name_who_asked_what() {
    let spawned = Setup::new()
        .limits(Shape::SlidingLog, &["2/1h"])
        .set("telemetry.access_log", "true")
        .spawn()
        .await;
    let caller = spawned.caller();
    let forbidden = Plan::of(Fault::Status(StatusCode::FORBIDDEN), Often::Times(1));
    spawned.simulator.set_faults_everywhere(&forbidden);
    let soar = [("x-caller", "soar"), ("prefer", "wait=0")];
    assert_eq!(caller.ask_with(&[id(1)], &soar).await.status, StatusCode::FORBIDDEN);
    assert_eq!(caller.ask_with(&[id(2)], &soar).await.status, StatusCode::OK);
    assert_eq!(
        caller.ask_with(&[id(3)], &soar).await.status,
        StatusCode::TOO_MANY_REQUESTS
    );
    assert_eq!(
        caller.fetch("/api/elsewhere?token=hidden").await.status,
        StatusCode::NOT_FOUND
    );

    let options = caller.request(Method::OPTIONS, crate::support::PATH);
    let options = caller.send(options.body(Bytes::new()).unwrap()).await;
    assert_eq!(options.status, StatusCode::NO_CONTENT);
    let head = caller.request(Method::HEAD, "/api/elsewhere");
    let head = caller.send(head.body(Bytes::new()).unwrap()).await;
    assert_eq!((head.status, head.body.len()), (StatusCode::NOT_FOUND, 0));

    let status = spawned.admin().fetch("/status").await.json();
    let latest = status["trouble"]["latest"].as_array().unwrap();
    let told: Vec<_> = latest
        .iter()
        .map(|one| ["outcome", "caller", "operation", "target"].map(|name| one[name].as_str().unwrap_or("-")))
        .collect();
    let operation = "history_by_definition";
    let target = format!("POST {}", crate::support::PATH);
    assert_eq!(
        told,
        [
            ["invalid", "127.0.0.1", "-", "HEAD /api/elsewhere"],
            ["invalid", "127.0.0.1", "-", "GET /api/elsewhere"],
            ["refused", "soar", operation, &target],
            ["failed", "soar", operation, &target],
        ]
    );
    let metrics = spawned.admin().fetch("/metrics").await;
    for line in [
        r#"caller_requests_total{caller="soar",outcome="failed"} 1"#,
        r#"caller_requests_total{caller="soar",outcome="forwarded"} 1"#,
        r#"requests_total{operation="history_by_definition",outcome="failed",status="403"} 1"#,
        r#"requests_total{operation="none",outcome="invalid",status="404"} 2"#,
    ] {
        assert!(metrics.text().contains(line), "{line} in {}", metrics.text());
    }
    let log = spawned.finish().await;
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let failed = lines.iter().find(|line| line["message"] == "request failed").unwrap();
    assert_eq!(
        (&failed["caller"], &failed["peer"]),
        (&"soar".into(), &"127.0.0.1".into())
    );
    assert_eq!(
        (&failed["operation"], &failed["level"]),
        (&operation.into(), &"WARN".into())
    );
    let access: Vec<_> = lines.iter().filter(|line| line["message"] == "access").collect();
    let statuses: Vec<_> = access.iter().map(|line| line["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [403, 200, 429, 404, 204, 404]);
    assert_eq!(access[5]["bytes"], 0, "no body was sent");
    assert_eq!(access[4]["method"], "OPTIONS");
    assert_eq!(access[4].get("outcome"), None, "it is no request to an operation");
    assert!(
        access
            .iter()
            .all(|line| line["bytes"].is_number() && line["protocol"] == "HTTP/1.1")
    );
    assert!(!log.contains("hidden"), "{log}");
}
