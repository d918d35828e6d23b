//! The choice of a host, in paused time with scripted probes and calls.

mod bad_answers;
mod distance;
mod fault;
mod log;
mod outlier;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::StatusCode;
use tokio::time::Instant;
use tower::{Layer as _, service_fn};
use url::Url;

use crate::BoxError;
use crate::attempt::{Attempt, Charged, Delivery, Failure, QueuePosition, Retries, RetryHint, Routed};
use crate::caller::{CacheDirectives, Caller, Name, RequestId, Urgency};
use crate::middleware::{self, Middleware as _, Next};
use crate::net::testing::{lost, no_answer, no_connection};
use crate::region::ConfigError;
use crate::region::{Candidate, Config, HostSelector, Metrics, Probe};
use crate::scan::{Endpoint, Headers, Request, UpstreamResponse};
use crate::task::Tasks;
use crate::upstream::Retry;

/// How a host behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Behaviour {
    /// Connects after this many milliseconds and answers.
    Up(u64),
    /// Connects after this many milliseconds, give or take 30 %, and answers.
    Noisy(u64),
    /// Refuses connections.
    Refused,
    /// Never answers a connection attempt, which the client gives up after 3 s.
    BlackHole,
    /// Connects after this many milliseconds and answers 503.
    Busy(u64),
    /// Connects, and loses the connection after the request was written.
    Losing(u64),
    /// Connects at once, and answers after this many milliseconds.
    Slow(u64),
    /// Connects at once, and answers nothing. The client waits this long, unless it gives up
    /// earlier.
    Silent,
    /// Connects at once, leaves one call in five without an answer, and answers the others at once.
    Patchy,
    /// Connects at once, and answers with a page.
    Page(u16),
    /// Connects at once, and redirects.
    Redirecting,
    /// Connects at once, and rejects every token.
    Rejecting,
}

/// The longest that the client waits without a stall timeout.
const HEAD: Duration = Duration::from_secs(45);

/// The hosts that probes and calls meet: `eu`, `us` and so on.
#[derive(Clone, Default)]
struct Network {
    hosts: Arc<Mutex<HashMap<String, Behaviour>>>,
    calls: Arc<Mutex<Vec<String>>>,
    /// Ids with which every host does this, after this time.
    hopeless: Arc<Mutex<HashMap<String, (Behaviour, Duration)>>>,
    /// For each host, so that the same test sees the same noise.
    noise: Arc<Mutex<HashMap<String, u64>>>,
}

impl Network {
    fn set(&self, host: &str, is: Behaviour) {
        self.hosts.lock().unwrap().insert(format!("{host}.test"), is);
    }

    /// Every host does this with requests for this id, after this time.
    fn cannot_answer(&self, id: &str, bad: Behaviour, after: Duration) {
        self.hopeless.lock().unwrap().insert(id.into(), (bad, after));
    }

    async fn connect(&self, base: &Url) -> Result<(Behaviour, Duration), BoxError> {
        let is = self.hosts.lock().unwrap()[base.host_str().unwrap()];
        let ms = match is {
            Behaviour::Up(ms) | Behaviour::Busy(ms) | Behaviour::Losing(ms) => ms,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "small and positive"
            )]
            Behaviour::Noisy(ms) => (ms as f64 * (0.7 + 0.6 * self.noise(base))) as u64,
            Behaviour::Slow(_)
            | Behaviour::Silent
            | Behaviour::Patchy
            | Behaviour::Page(_)
            | Behaviour::Redirecting
            | Behaviour::Rejecting => 1,
            Behaviour::Refused => return Err(no_connection(&authority(base)).into()),
            Behaviour::BlackHole => {
                tokio::time::sleep(Duration::from_secs(3)).await;
                return Err(no_connection(&authority(base)).into());
            }
        };
        let setup = Duration::from_millis(ms);
        tokio::time::sleep(setup).await;
        Ok((is, setup))
    }

    async fn call(&self, routed: Routed) -> Result<UpstreamResponse, Failure> {
        let host = routed.base.host_str().unwrap().trim_end_matches(".test").to_owned();
        let nth = {
            let mut calls = self.calls.lock().unwrap();
            calls.push(host);
            calls.len()
        };
        let failure = |delivery, source: BoxError| Failure {
            delivery,
            again: RetryHint::Once,
            answer: None,
            source,
        };
        let (is, _) = self
            .connect(&routed.base)
            .await
            .map_err(|error| failure(Delivery::NotSent, error))?;
        let id = routed.charged.request.ids().next().unwrap();
        let hopeless = self.hopeless.lock().unwrap().get(id).copied();
        let takes = match is {
            Behaviour::Slow(ms) => Duration::from_millis(ms),
            Behaviour::Silent => HEAD,
            Behaviour::Patchy if nth % 5 == 0 => HEAD,
            _ => hopeless.map_or(Duration::ZERO, |(_, after)| after),
        };
        let given_up = tokio::select! {
            biased;
            () = tokio::time::sleep(takes) => takes == HEAD,
            () = routed.stall_timeout.elapsed() => true,
        };
        if given_up {
            return Err(Failure {
                again: RetryHint::OtherHost,
                ..failure(Delivery::Unknown, no_answer(&authority(&routed.base)).into())
            });
        }
        let (status, body) = match hopeless.map_or(is, |(bad, _)| bad) {
            Behaviour::Losing(_) => return Err(failure(Delivery::Unknown, lost(&authority(&routed.base)).into())),
            Behaviour::Redirecting => return Err(failure(Delivery::Answered, "a redirect".into())),
            Behaviour::Busy(_) => (503, "busy"),
            Behaviour::Page(status) => (status, "<html>web app is stopped</html>"),
            Behaviour::Rejecting => (401, ""),
            _ => (200, r#"{"value":[]}"#),
        };
        Ok(UpstreamResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers: Headers::default(),
            body: bytes::Bytes::from_static(body.as_bytes()),
        })
    }

    /// The host's next number between 0 and 1, from a generator (splitmix64) seeded with its name.
    fn noise(&self, base: &Url) -> f64 {
        let host = base.host_str().unwrap();
        let mut states = self.noise.lock().unwrap();
        let seed = host.bytes().fold(0, |seed, byte| seed * 257 + u64::from(byte));
        let state = states.entry(host.into()).or_insert(seed);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn called(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    /// How many calls each of these hosts has had.
    fn counted<const N: usize>(&self, hosts: [&str; N]) -> [usize; N] {
        let calls = self.called();
        hosts.map(|host| calls.iter().filter(|called| *called == host).count())
    }

    fn service(
        &self,
    ) -> impl tower::Service<Routed, Response = UpstreamResponse, Error = Failure, Future: Send> + Clone + Send + use<>
    {
        let network = self.clone();
        service_fn(move |routed| {
            let network = network.clone();
            async move { network.call(routed).await }
        })
    }
}

impl Probe for Network {
    fn measure(&self, base: Arc<Url>) -> BoxFuture<'_, Result<Duration, BoxError>> {
        Box::pin(async move { Ok(self.connect(&base).await?.1) })
    }
}

fn authority(base: &Url) -> String {
    format!("{}:{}", base.host_str().unwrap(), base.port_or_known_default().unwrap())
}

fn candidate(name: &str) -> Candidate {
    Candidate {
        name: name.into(),
        url: format!("https://{name}.test").parse().unwrap(),
    }
}

struct Fixture {
    network: Network,
    selector: HostSelector,
    tasks: Tasks,
    /// How many requests were made that nobody made before.
    made: AtomicUsize,
}

impl Fixture {
    fn new<const N: usize>(hosts: [(&str, Behaviour); N]) -> Self {
        let fixture = Self::unwatched(hosts);
        fixture.selector.watch(&fixture.tasks, fixture.network.clone());
        fixture
    }

    fn unwatched<const N: usize>(hosts: [(&str, Behaviour); N]) -> Self {
        let network = Network::default();
        for (host, is) in hosts {
            network.set(host, is);
        }
        let config = Config::new(hosts.iter().map(|(name, _)| candidate(name)).collect()).unwrap();
        Self {
            network,
            selector: HostSelector::new(config, Metrics::default()),
            tasks: Tasks::new(),
            made: AtomicUsize::new(0),
        }
    }

    /// A call for another request each time.
    async fn call(&self) -> Result<UpstreamResponse, Failure> {
        self.attempt(&self.fresh()).await
    }

    /// One call of a request for this id.
    async fn attempt(&self, id: &str) -> Result<UpstreamResponse, Failure> {
        let charged = Charged {
            request: asking_for(id),
            ..charged()
        };
        self.selector.call(charged, &Next::new(self.network.service())).await
    }

    /// An id that nobody asked for before.
    fn fresh(&self) -> String {
        format!("id-{}", self.made.fetch_add(1, Ordering::Relaxed))
    }

    /// The status of the response to a request for this id with its further attempts; `None` when
    /// there is none.
    async fn status(&self, id: &str) -> Option<u16> {
        let (result, _) = self.ask_for(id, WAIT).await;
        result.ok().map(|answer| answer.status.as_u16())
    }

    /// A request with its further attempts, which may start within `deadline`; and how long it
    /// took.
    async fn ask(&self, deadline: Duration) -> (Result<UpstreamResponse, BoxError>, Duration) {
        self.ask_for("a", deadline).await
    }

    async fn ask_for(&self, id: &str, deadline: Duration) -> (Result<UpstreamResponse, BoxError>, Duration) {
        let region = middleware::layer(self.selector.clone()).layer(Next::new(self.network.service()));
        let request = asking_for(id);
        let asked = Arc::clone(&request);
        let attempts = service_fn(move |attempt: Attempt| {
            let charged = Charged {
                request: Arc::clone(&asked),
                retries: attempt.retries,
                caller: attempt.caller,
                ..charged()
            };
            region.call(charged)
        });
        let attempt = Attempt {
            request,
            caller: caller(deadline),
            position: QueuePosition::new(Instant::now()),
            retries: Retries::default(),
        };
        let begun = Instant::now();
        let result = Retry.call(attempt, &Next::new(attempts)).await;
        (result, begun.elapsed())
    }

    /// The same many times at once, all of which are answered well; how long the slowest took.
    async fn ask_all(&self, count: usize) -> Duration {
        let all = futures_util::future::join_all((0..count).map(|_| self.ask(WAIT))).await;
        let answered = all.into_iter().map(|(result, took)| {
            assert_eq!(result.unwrap().status, StatusCode::OK);
            took
        });
        answered.max().unwrap_or_default()
    }

    fn selected(&self) -> String {
        let rows = self.selector.snapshot();
        assert_eq!(rows.iter().filter(|row| row.selected).count(), 1);
        rows.into_iter().find(|row| row.selected).unwrap().name.to_string()
    }

    fn healthy(&self, name: &str) -> bool {
        self.selector
            .snapshot()
            .into_iter()
            .find(|row| &*row.name == name)
            .unwrap()
            .healthy
    }
}

/// How long callers wait for a slot.
const WAIT: Duration = Duration::from_secs(20);

fn caller(deadline: Duration) -> Arc<Caller> {
    Arc::new(Caller {
        name: Name::new("test"),
        urgency: Urgency::default(),
        deadline: Instant::now() + deadline,
        wait: None,
        cache_directives: CacheDirectives::default(),
        request_id: RequestId::random(),
        trace: crate::telemetry::trace::Trace::None,
        has_fallback: false,
    })
}

fn asking_for(id: &str) -> Arc<Request> {
    Arc::new(Request::plain(Endpoint::HISTORY, [id]).unwrap())
}

fn charged() -> Charged {
    Charged {
        request: asking_for("a"),
        caller: caller(Duration::from_secs(30)),
        retries: Retries::default(),
        trace: crate::telemetry::trace::Call::None,
    }
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

const ROUND: Duration = Duration::from_secs(34);

#[test]
fn labels_are_unique_and_bad_candidates_are_refused() {
    let twin = Candidate {
        name: "eu".into(),
        url: "https://api-eu.test:8443".parse().unwrap(),
    };
    let config = Config::new(vec![candidate("eu"), twin, candidate("us")]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    let labels: Vec<_> = HostSelector::new(config, Metrics::default())
        .labels()
        .into_iter()
        .map(|(_, label)| label)
        .collect();
    assert_eq!(
        labels.iter().map(AsRef::as_ref).collect::<Vec<&str>>(),
        ["eu", "eu (api-eu.test:8443)", "us"]
    );
    assert_eq!(Config::new(vec![]).unwrap_err(), ConfigError::Empty);
    assert!(matches!(
        Config::new(vec![candidate("eu"); 2]).unwrap_err(),
        ConfigError::Twice(_)
    ));
    assert_eq!(
        Config::new(vec![candidate("eu"); 33]).unwrap_err(),
        ConfigError::TooMany { count: 33 }
    );
}
