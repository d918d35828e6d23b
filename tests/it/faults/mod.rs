//! The fault matrix: what callers notice when the nearest region fails, over real sockets and TLS.
//!
//! Two regions, `near` and `far`; `near` is made to fail in every way while callers keep asking. The stack is the lower half of the
//! gateway, from the retry layer down; in place of queue and quota stands a ledger that counts every attempt that is charged.

mod host;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{Layer as _, ServiceExt as _, service_fn};

use defender_gateway::BoxError;
use defender_gateway::attempt::{Failure, Fate, Load, Outgoing, Place, Routed, Signed, Try};
use defender_gateway::caller::{Caller, Freshness, Name, Urgency};
use defender_gateway::region::{self, Backoff, Candidate, RegionLayer, Table};
use defender_gateway::scan::{Answer, Request, Version};
use defender_gateway::secret::Secret;
use defender_gateway::task::Tasks;
use defender_gateway::{net, upstream};

use host::{Fault, Host};

const CONNECT: Duration = Duration::from_millis(400);
const ATTEMPT: Duration = Duration::from_millis(500);
const PROBE_EVERY: Duration = Duration::from_millis(500);
/// Long enough that a region which was only avoided for a moment is met again.
const SUFFERING: Duration = Duration::from_secs(5);
const DISTANCE: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(40)];

#[derive(Debug)]
struct Question(Arc<Request>);

impl Load for Question {
    fn request(&self) -> Arc<Request> {
        Arc::clone(&self.0)
    }

    fn beneficiaries(&self) -> Vec<Name> {
        Vec::new()
    }
}

struct Bench {
    near: Host,
    far: Host,
    table: Table,
    stack: BoxCloneSyncService<Try, Answer, BoxError>,
    charged: Arc<AtomicUsize>,
    _tasks: Tasks,
}

impl Bench {
    async fn start() -> Self {
        let (pem, mut certificates) = host::certificates(&["near.test", "far.test"]);
        let far = Host::start(certificates.pop().unwrap(), DISTANCE[1]).await;
        let near = Host::start(certificates.pop().unwrap(), DISTANCE[0]).await;
        let mut ca = tempfile::NamedTempFile::new().unwrap();
        ca.write_all(pem.as_bytes()).unwrap();
        let config = net::Config {
            ca_file: Some(ca.path().to_owned()),
            connect_timeout: CONNECT,
            ping_every: Duration::from_millis(100),
            ping_answer: Duration::from_millis(100),
            ..net::Config::default()
        };
        let hosts: HashMap<_, _> = [("near.test", near.clone()), ("far.test", far.clone())].into();
        let resolver = net::Resolver::with(Arc::new(move |name, _| {
            let found = hosts[name.as_str()].addresses();
            Box::pin(async move { Ok(found) })
        }));
        let net = net::Client::with_resolver(&config, resolver).unwrap();

        let candidates = ["near", "far"].map(|name| Candidate {
            name: name.into(),
            url: format!("https://{name}.test").parse().unwrap(),
        });
        let mut regions = region::Config::new(candidates.to_vec()).unwrap();
        regions.probe_interval = PROBE_EVERY;
        regions.probe_timeout = CONNECT;
        regions.down = Backoff {
            first: Duration::from_millis(100),
            longest: Duration::from_millis(400),
        };
        regions.ejected = Backoff {
            first: Duration::from_millis(800),
            longest: Duration::from_secs(2),
        };
        let table = Table::new(regions, region::Metrics::default());
        let tasks = Tasks::new();
        table.watch(&tasks, net.connector().clone());
        table.measured().await;

        let charged = Arc::<AtomicUsize>::default();
        let stack = stack(net, &table, &charged);
        Self {
            near,
            far,
            table,
            stack,
            charged,
            _tasks: tasks,
        }
    }

    async fn call(&self) -> Result<Answer, BoxError> {
        let attempt = Try {
            load: Arc::new(Question(Arc::new(Request::plain(Version::Latest, ["a"]).unwrap()))),
            caller: Arc::new(Caller {
                name: Name::new("test"),
                urgency: Urgency::default(),
                deadline: Instant::now() + Duration::from_secs(30),
                wait: None,
                freshness: Freshness::default(),
                request_id: "1".into(),
            }),
            place: Place::new(Instant::now()),
        };
        self.stack.clone().oneshot(attempt).await
    }

    fn near_is_selected(&self) -> bool {
        self.table.snapshot()[0].selected
    }

    /// Waits until the near region is selected or not, as wanted.
    async fn until_near_is(&self, selected: bool) -> Duration {
        let begun = Instant::now();
        while self.near_is_selected() != selected {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "the region is not {}",
                if selected { "back" } else { "left" }
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        begun.elapsed()
    }
}

/// Retry, ledger, region, a token, client.
fn stack(net: net::Client, table: &Table, charged: &Arc<AtomicUsize>) -> BoxCloneSyncService<Try, Answer, BoxError> {
    let metrics = upstream::Metrics::register(&mut prometheus_client::registry::Registry::default(), table.labels());
    let client = upstream::Client::new(net, upstream::Config::new(ATTEMPT), metrics);
    let signed = service_fn(move |routed: Routed| {
        client.clone().oneshot(Signed {
            routed,
            bearer: Secret::new("t".into()),
        })
    });
    let routed = RegionLayer::new(table.clone()).layer(signed);
    let charged = Arc::clone(charged);
    let paid = service_fn(move |attempt: Try| {
        let routed = routed.clone();
        let charged = Arc::clone(&charged);
        async move {
            let outgoing = Outgoing {
                request: attempt.load.request(),
                caller: attempt.caller,
            };
            let result: Result<Answer, Failure> = routed.oneshot(outgoing).await;
            if !matches!(&result, Err(failure) if failure.fate == Fate::Unsent) {
                charged.fetch_add(1, Ordering::SeqCst);
            }
            result
        }
    });
    BoxCloneSyncService::new(upstream::RetryLayer.layer(paid))
}

/// What callers noticed of one fault.
struct Noticed {
    calls: usize,
    good: usize,
    slowest: Duration,
    extra: usize,
    left: Option<Duration>,
    back: Duration,
}

async fn suffer(fault: Fault, leaves: bool) -> Noticed {
    let bench = Bench::start().await;
    bench.until_near_is(true).await;
    for _ in 0..5 {
        bench.call().await.unwrap();
    }
    let (charged, arrived) = (
        bench.charged.load(Ordering::SeqCst),
        bench.near.calls() + bench.far.calls(),
    );
    assert_eq!(charged, arrived, "probes cost nothing");

    bench.near.set(fault).await;
    let begun = Instant::now();
    let mut noticed = Noticed {
        calls: 0,
        good: 0,
        slowest: Duration::ZERO,
        extra: 0,
        left: None,
        back: Duration::ZERO,
    };
    while begun.elapsed() < SUFFERING || (leaves && noticed.left.is_none() && noticed.calls < 1000) {
        let call = Instant::now();
        let result = bench.call().await;
        noticed.calls += 1;
        noticed.good += usize::from(result.is_ok_and(|answer| answer.status == 200));
        noticed.slowest = noticed.slowest.max(call.elapsed());
        if noticed.left.is_none() && !bench.near_is_selected() {
            noticed.left = Some(begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    noticed.extra = bench.charged.load(Ordering::SeqCst) - charged - noticed.calls;
    let arrived = bench.near.calls() + bench.far.calls() - arrived;
    // Whatever arrives is charged. A call that was charged need not have arrived: its connection may have been silent.
    assert!(arrived <= noticed.calls + noticed.extra, "{fault:?}: {arrived} arrived");
    bench.near.set(Fault::Nothing).await;
    noticed.back = bench.until_near_is(true).await;
    noticed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_caller_notices_when_a_region_fails() {
    // Whether the region has to be left, and the slowest call that is allowed, beyond the ordinary.
    let cases = [
        (Fault::Refused, true, CONNECT),
        (Fault::BlackHole, true, CONNECT + ATTEMPT),
        (Fault::HalfOpen, false, ATTEMPT),
        (Fault::ResetMidBody, true, ATTEMPT),
        (Fault::SlowHead, true, ATTEMPT),
        (Fault::SlowBody, true, ATTEMPT),
        (Fault::TlsExpired, true, CONNECT),
        (Fault::TlsWrongName, true, CONNECT),
        (Fault::DnsFailure, false, CONNECT),
        (Fault::OneAddressDead, false, CONNECT),
        (Fault::GoAway, false, ATTEMPT),
        (Fault::BrownOut, true, ATTEMPT),
        (Fault::LatencyStep, true, CONNECT),
    ];
    let all =
        cases.map(|(fault, leaves, allowed)| async move { (fault, leaves, allowed, suffer(fault, leaves).await) });
    let mut table = format!(
        "{:<16}{:>7}{:>10}{:>11}{:>13}{:>10}{:>10}\n",
        "fault", "calls", "success", "slowest", "extra calls", "left", "back"
    );
    let mut wrong = Vec::new();
    for (fault, leaves, allowed, noticed) in futures_util::future::join_all(all).await {
        let ms = |time: Duration| format!("{} ms", time.as_millis());
        let _ = writeln!(
            table,
            "{:<16}{:>7}{:>8} %{:>11}{:>13}{:>10}{:>10}",
            format!("{fault:?}"),
            noticed.calls,
            100 * noticed.good / noticed.calls,
            ms(noticed.slowest),
            noticed.extra,
            noticed.left.map_or("-".into(), ms),
            ms(noticed.back),
        );
        if noticed.good != noticed.calls {
            wrong.push(format!(
                "{fault:?}: {} of {} calls failed",
                noticed.calls - noticed.good,
                noticed.calls
            ));
        }
        // A pause before a retry, and a machine that is busy with other tests.
        if noticed.slowest > allowed + Duration::from_millis(700) {
            wrong.push(format!("{fault:?}: the slowest call took {:?}", noticed.slowest));
        }
        if leaves && noticed.left.is_none() {
            wrong.push(format!("{fault:?}: the region was not left"));
        }
        // One further attempt per bad answer: until the region is left, and once more each time it is tried again.
        if noticed.extra > noticed.calls / 4 {
            wrong.push(format!("{fault:?}: {} further calls", noticed.extra));
        }
    }
    println!("{table}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
