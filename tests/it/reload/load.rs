//! A steady stream of requests through a new configuration, a rotated secret and a rolling update:
//! none may fail.
//!
//! Two real programs behind an address that is switched from one to the other, as a Service's
//! endpoints are: a while after SIGTERM. The short form takes some 15 seconds;
//! `cargo test --release --test it reload::load -- --ignored` runs a minute at 1,000 a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};

use defender_gateway::testing::sim::{CLIENT_SECRET, Shape};
use defender_gateway::testing::task::Tasks;

use super::mount::Mount;
use crate::support::{Controls, PATH, Program, Setup, Spawned, body, id, until, with};

/// Requests a second, and for how long each of the three events has the stage.
#[derive(Clone, Copy, Debug)]
struct Load {
    rate: u32,
    act: Duration,
}

const CONNECTIONS: u32 = 40;

/// How long connections still go to a program that was told to stop.
const ENDPOINTS: Duration = Duration::from_millis(700);

/// The address that callers know, and what they have seen.
#[derive(Debug)]
struct Service {
    address: ArcSwap<String>,
    over: AtomicBool,
    answered: AtomicUsize,
    /// Sent again, because the connection was closed before the request had left, as any client
    /// does.
    again: AtomicUsize,
    reconnected: AtomicUsize,
}

enum Connection {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    async fn open(address: &str, is_http2: bool, tasks: &Tasks) -> Self {
        let stream = TcpStream::connect(address.trim_start_matches("http://")).await;
        let stream = TokioIo::new(stream.unwrap_or_else(|error| panic!("{address}: {error}")));
        if is_http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tasks.spawn("connection", connection);
            Self::Two(sender)
        } else {
            let (sender, connection) = http1::handshake(stream).await.unwrap();
            tasks.spawn("connection", connection);
            Self::One(sender)
        }
    }

    /// Whether it can still take a request: a server's GOAWAY or end is seen here.
    async fn is_good(&mut self) -> bool {
        match self {
            Self::One(sender) => sender.ready().await.is_ok(),
            Self::Two(sender) => sender.ready().await.is_ok(),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<http::Response<hyper::body::Incoming>> {
        match self {
            Self::One(sender) => sender.send_request(request).await,
            Self::Two(sender) => sender.send_request(request).await,
        }
    }
}

/// One caller with one connection, who asks at its rate: what is late is sent at once.
async fn call(service: Arc<Service>, number: u32, rate: u32, tasks: Tasks) -> Result<(), String> {
    let is_http2 = number % 4 == 3;
    let period = Duration::from_secs(1) * CONNECTIONS / rate;
    let start = Instant::now() + period * number / CONNECTIONS;
    let mut connection = Connection::open(&service.address.load(), is_http2, &tasks).await;
    for n in 0_u32.. {
        sleep_until(start + period * n).await;
        if service.over.load(Ordering::Relaxed) {
            break;
        }
        // One in ten is new, so that sign-in and the upstream matter too.
        let request = if n % 10 == 0 {
            id((number * 1_000_000 + n) as usize)
        } else {
            id((n % 5) as usize)
        };
        loop {
            if !connection.is_good().await {
                service.reconnected.fetch_add(1, Ordering::Relaxed);
                connection = Connection::open(&service.address.load(), is_http2, &tasks).await;
                continue;
            }
            let request = Request::post(format!("http://localhost{PATH}"))
                .header("host", "localhost")
                .header("content-type", "application/json")
                .body(Full::new(body(&[&request])))
                .unwrap();
            let response = match connection.send(request).await {
                Ok(response) => response,
                Err(error) if never_taken(&error) => {
                    service.again.fetch_add(1, Ordering::Relaxed);
                    connection = Connection::open(&service.address.load(), is_http2, &tasks).await;
                    continue;
                }
                Err(error) => return Err(format!("request {n} of {number}: {error:?}")),
            };
            let status = response.status();
            let is_last = response
                .headers()
                .get(header::CONNECTION)
                .is_some_and(|value| value == "close");
            let body = response.into_body().collect().await;
            let body = body
                .map_err(|error| format!("answer {n} of {number}: {error:?}"))?
                .to_bytes();
            if status != StatusCode::OK {
                return Err(format!(
                    "request {n} of {number}: {status} {}",
                    String::from_utf8_lossy(&body)
                ));
            }
            service.answered.fetch_add(1, Ordering::Relaxed);
            if is_last {
                service.reconnected.fetch_add(1, Ordering::Relaxed);
                connection = Connection::open(&service.address.load(), is_http2, &tasks).await;
            }
            break;
        }
    }
    Ok(())
}

/// Whether the request never left, or the server has said that it will not look at it: then any
/// client asks again elsewhere. An orderly GOAWAY ends only requests that came after the last one
/// it promises to answer (RFC 9113 §6.8).
fn never_taken(error: &hyper::Error) -> bool {
    let told = || {
        let cause = std::error::Error::source(error)?.downcast_ref::<h2::Error>()?;
        Some(cause.is_go_away() && cause.is_remote() && cause.reason() == Some(h2::Reason::NO_ERROR))
    };
    error.is_canceled() || told() == Some(true)
}

/// Starts a gateway whose file is `mount`.
async fn gateway(setup: &Spawned, mount: &Mount) -> Program {
    let arguments = ["run", "--config", mount.file().to_str().unwrap()].map(str::to_owned);
    let gateway = Program::start(&arguments, setup.variables());
    gateway.line("admin on ").await;
    until("a token", async || {
        let status = gateway.admin().fetch("/status").await.json();
        status["token"]["expires_in_s"].is_number().then_some(())
    })
    .await;
    gateway
}

async fn no_request_fails(load: Load) {
    let mut secret = Mount::new("secret", CLIENT_SECRET);
    let limits = "[\"1000000/1m\"]";
    let setup = Setup::new()
        .simulator(|simulator| {
            simulator.shape = Shape::SlidingLog;
            simulator.limits = vec!["1000000/1m".parse().unwrap()];
        })
        .write("quota.limits", limits)
        .write("quota.burst", "1000000")
        .write("server.linger", "\"2s\"")
        .write("cache.ttl", "\"5s\"")
        .write(
            "credentials.client_secret_file",
            &format!("{:?}", secret.file().to_str().unwrap()),
        )
        .spawn()
        .await;
    let toml = setup.toml().to_owned();
    let mut config = Mount::new("gateway.toml", &toml);
    let mut first = gateway(&setup, &config).await;
    let service = Arc::new(Service {
        address: ArcSwap::from_pointee(first.caller().base().to_owned()),
        over: AtomicBool::new(false),
        answered: AtomicUsize::new(0),
        again: AtomicUsize::new(0),
        reconnected: AtomicUsize::new(0),
    });
    let tasks = Tasks::new();
    let callers: Vec<_> = (0..CONNECTIONS)
        .map(|number| tasks.spawn("caller", call(Arc::clone(&service), number, load.rate, tasks.clone())))
        .collect();
    let answered = || service.answered.load(Ordering::Relaxed);
    let begun = Instant::now();
    sleep(load.act / 2).await;

    // A new configuration: as many parts as can be exchanged at once.
    let changed = [
        ("cache.ttl", "\"4s\""),
        ("cache.max_size", "\"32MiB\""),
        ("queue.max_wait", "\"30s\""),
        ("merge.enabled", "true"),
        ("defender.region", "\"eu\""),
        ("quota.limits", "[\"900000/1m\"]"),
    ];
    config.swap(
        &changed
            .iter()
            .fold(toml, |toml, (path, value)| with(&toml, path, value)),
    );
    let line = first.line_with("the configuration has changed").await;
    assert!(
        line.contains("defender.region") && line.contains("cache.max_size"),
        "{line}"
    );
    let reloaded = answered();
    sleep(load.act).await;

    // A rotated secret: the old one is no good any more.
    let tokens = setup.simulator.token_requests().len();
    setup.simulator.set_secret("the~new.secret".into());
    secret.swap("the~new.secret");
    until("a token for the new secret", async || {
        (setup.simulator.token_requests().len() > tokens).then_some(())
    })
    .await;
    let rotated = answered();
    sleep(load.act).await;

    // A rolling update: the next one is ready before the first is told to stop.
    let mut second = gateway(&setup, &config).await;
    first.signal("TERM").await;
    sleep(ENDPOINTS).await;
    service.address.store(Arc::new(second.caller().base().to_owned()));
    let ended = first.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    let rolled = answered();
    sleep(load.act).await;
    service.over.store(true, Ordering::Relaxed);
    let failed: Vec<_> = join_all(callers)
        .await
        .into_iter()
        .filter_map(|caller| caller.unwrap().err())
        .collect();
    assert_eq!(failed, Vec::<String>::new());
    let total = answered();
    println!(
        "{total} requests, {:.0} a second, none failed: {reloaded} up to the reload, {rotated} up to the rotation, {rolled} up to the end \
         of the first program; {} connections made anew, {} requests sent again that had not left",
        f64::from(u32::try_from(total).unwrap()) / begun.elapsed().as_secs_f64(),
        service.reconnected.load(Ordering::Relaxed),
        service.again.load(Ordering::Relaxed),
    );
    assert!(
        reloaded < rotated && rotated < rolled && rolled < total,
        "requests came all the time"
    );
    second.signal("TERM").await;
    assert_eq!(second.ended().await.code, Some(0));
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_through_a_reload_a_rotation_and_a_rolling_update() {
    let act = Duration::from_secs(2);
    no_request_fails(Load { rate: 300, act }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute at 1,000 requests a second, for a release build"]
async fn no_request_of_a_thousand_a_second_fails() {
    let act = Duration::from_secs(15);
    no_request_fails(Load { rate: 1000, act }).await;
}
