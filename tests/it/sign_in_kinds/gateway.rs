//! A gateway in this process, and a caller.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use defender_gateway::testing::app::{Ended, Gateway};
use defender_gateway::testing::config::{self, Disk, Environment};
use defender_gateway::testing::sim::{Config, Limit, Region, Simulator};
use defender_gateway::testing::task::Tasks;

/// Only a test that fails waits this long.
const PATIENCE: Duration = Duration::from_secs(25);

const PATH: &str = "/api/DeviceAuthenticatedScanDefinitions/GetScanHistoryByScanDefinitionId";
const BODY: &str = r#"{"ScanDefinitionIds":["aaaaaaaa-0000-4000-8000-000000000001"]}"#;

/// One region, no latency, and a quota that is never felt.
pub(super) fn simulator() -> Simulator {
    Simulator::start(roomy(one_region())).unwrap()
}

pub(super) fn one_region() -> Config {
    Config {
        regions: vec![Region::new("eu", Duration::ZERO)],
        ..Config::instant()
    }
}

pub(super) fn roomy(mut config: Config) -> Config {
    config.limits = vec!["1000000/1m".parse::<Limit>().unwrap()];
    config
}

/// A running gateway, answering in the background. It can be asked like any [`Caller`]'s.
pub(super) struct Running {
    caller: Caller,
    stop: tokio_util::sync::CancellationToken,
    serving: JoinHandle<Ended>,
}

impl std::ops::Deref for Running {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

/// Somebody who asks a gateway, here or in another process, over one HTTP/2 connection.
pub(super) struct Caller {
    data: String,
    admin: String,
    http: Client<HttpConnector, Full<Bytes>>,
}

/// What a caller got.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<u64>,
    pub(super) text: String,
    pub(super) took: Duration,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }
}

impl Running {
    /// The simulator's own configuration, and these variables besides. Nothing is cached unless
    /// they say so.
    pub(super) async fn start(simulator: &Simulator, variables: &[(&str, &str)]) -> Self {
        Self::with(&simulator.config_toml(), variables).await
    }

    pub(super) async fn with(toml: &str, variables: &[(&str, &str)]) -> Self {
        let common = [
            ("DEFENDER_GATEWAY_SERVER_LISTEN", "127.0.0.1:0"),
            ("DEFENDER_GATEWAY_ADMIN_LISTEN", "127.0.0.1:0"),
            ("DEFENDER_GATEWAY_QUOTA_LIMITS", "1000000/1m"),
            ("DEFENDER_GATEWAY_QUOTA_BURST", "1000000"),
            ("DEFENDER_GATEWAY_CACHE_TTL", "0s"),
        ];
        let all = common.iter().chain(variables).copied();
        // The last one with a name wins.
        let env: Environment = all.collect();
        let loaded = config::parse(Path::new("gateway.toml"), toml, &env, &Disk);
        let loaded = loaded.unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let gateway = Gateway::start(&loaded.resolved).await.unwrap();
        Self {
            caller: Caller::new(gateway.addresses()[0].to_string(), gateway.admin_address().to_string()),
            stop: gateway.stop_token(),
            serving: Tasks::new().spawn("gateway", gateway.serve()),
        }
    }

    pub(super) async fn stop(self) {
        drop(self.caller);
        self.stop.cancel();
        let ended = self.serving.await.unwrap();
        assert_eq!((ended.cut, ended.left), (0, 0), "nothing is left behind");
    }
}

impl Caller {
    pub(super) fn new(data: String, admin: String) -> Self {
        Self {
            data,
            admin,
            http: Client::builder(TokioExecutor::new()).http2_only(true).build_http(),
        }
    }

    /// One request like any other.
    pub(super) async fn ask(&self) -> Answer {
        self.ask_with(0, &[]).await
    }

    /// The request about the rows from `skip` on: different ones share no call.
    pub(super) async fn ask_with(&self, skip: usize, fields: &[(&str, &str)]) -> Answer {
        let query = if skip == 0 {
            String::new()
        } else {
            format!("?$skip={skip}")
        };
        let mut request =
            Request::post(format!("{}{PATH}{query}", self.data)).header("content-type", "application/json");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::from(BODY)).unwrap()).await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let begun = Instant::now();
        let answer = self.http.request(request).await.unwrap();
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: head.status,
            retry_after: head
                .headers
                .get("retry-after")
                .map(|value| value.to_str().unwrap().parse().unwrap()),
            text: String::from_utf8(body.to_vec()).unwrap(),
            took: begun.elapsed(),
        }
    }

    /// A page of the admin listener.
    pub(super) async fn admin(&self, path: &str) -> String {
        let request = Request::get(format!("{}{path}", self.admin))
            .body(Full::default())
            .unwrap();
        self.send(request).await.text
    }

    /// The part of `/status` that is about sign-in.
    pub(super) async fn token(&self) -> Value {
        let status: Value = serde_json::from_str(&self.admin("/status").await).unwrap();
        status["token"].clone()
    }

    /// The value of a metric without labels.
    pub(super) async fn metric(&self, name: &str) -> Option<f64> {
        let text = self.admin("/metrics").await;
        let name = format!("defender_gateway_{name} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&name))?;
        Some(value.parse().unwrap())
    }

    /// Waits until sign-in stands as `wanted` says.
    pub(super) async fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let token = self.token().await;
            if wanted(&token) {
                return token;
            }
            assert!(begun.elapsed() < PATIENCE, "{what}: {token}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn until_signed_in(&self) -> Value {
        self.until("signed in", |token| token["expires_in_s"].is_number()).await
    }

    /// Tells the gateway to end.
    pub(super) async fn quit(&self) {
        let request = Request::post(format!("{}/quitquitquit", self.admin));
        let answer = self.send(request.body(Full::default()).unwrap()).await;
        assert!(answer.status.is_success(), "{answer:?}");
    }
}
