mod strangers;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::*;
use crate::server::guard::Hosts;
use crate::server::{Address, Bound, InboundRequest, Peer};
use crate::task::Tasks;
use crate::telemetry::metrics::Registry;

struct Fixture {
    admin: Admin,
    health: Health,
    quit: Arc<AtomicBool>,
}

fn fixture() -> Fixture {
    let health = Health::default();
    let checks = || {
        vec![Check {
            name: "token",
            ok: false,
            text: "sign-in refused (AADSTS7000215)".into(),
        }]
    };
    let quit = Arc::new(AtomicBool::new(false));
    let registry = Registry::new("1.2.3");
    let asked = Arc::clone(&quit);
    let admin = Admin::new(View {
        health: health.clone(),
        checks: Arc::new(checks),
        status: Arc::new(|| serde_json::json!({"version": "1.2.3"})),
        history: Arc::new(|| serde_json::json!({})),
        metrics: Arc::new(move |exposition| registry.encode(exposition)),
        openapi: "{}".into(),
        named: Arc::new(|host, peer| Hosts::new(["gateway.svc"]).unwrap().accept(host, peer)),
        quit: Some(Arc::new(move || asked.store(true, Ordering::SeqCst))),
    });
    Fixture { admin, health, quit }
}

async fn send(admin: &Admin, request: http::request::Builder, peer: &str) -> (Response<()>, String) {
    let mut request: Request<()> = request.body(()).unwrap();
    let peer: SocketAddr = peer.parse().unwrap();
    let own = if peer.ip() == Ipv4Addr::LOCALHOST {
        peer.ip()
    } else {
        Ipv4Addr::new(10, 0, 0, 1).into()
    };
    request
        .extensions_mut()
        .insert(Peer::tcp(peer, SocketAddr::new(own, 9901)));
    let (head, body) = admin.clone().oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (Response::from_parts(head, ()), String::from_utf8(body.into()).unwrap())
}

async fn get(admin: &Admin, path: &str) -> (u16, String) {
    let request = Request::get(path).header("host", "10.0.0.1:9901");
    let (answer, body) = send(admin, request, "10.0.0.9:1").await;
    (answer.status().as_u16(), body)
}

#[tokio::test]
async fn probes_answer_what_load_balancers_and_kubelets_send_by_default() {
    let Fixture { admin, health, .. } = fixture();
    health.set_ready();
    let (near, far) = ("127.0.0.1:1", "10.0.0.9:1");
    let get = |path: &str, host: &str, agent: &str| Request::get(path).header("host", host).header("user-agent", agent);
    let old = |request: http::request::Builder| request.version(http::Version::HTTP_10);
    for path in ["/livez", "/readyz", "/startupz", "/readyz/", "/readyz?x=1"] {
        for (request, peer) in [
            (get(path, "10.0.0.1:9901", "kube-probe/1.34"), far),
            (get(path, "10.0.0.1", "ELB-HealthChecker/2.0"), far),
            (get(path, "10.0.0.1", "GoogleHC/1.0"), far),
            (get(path, "10.0.0.1", "Load Balancer Agent"), far),
            (get(path, "gateway_cluster", "Envoy/HC"), far),
            (get(path, "gateway_cluster", "Envoy/HC"), near),
            (
                get(path, "status.example", "Mozilla/5.0 (compatible; UptimeRobot/2.0)"),
                far,
            ),
            (get(path, "backend", "Consul Health Check"), near),
            (Request::head(path).header("host", "gateway.example"), far),
            (Request::options(path).header("host", "haproxy"), far),
            (old(Request::get(path)), near),
            (old(Request::options(path)), far),
            (old(Request::head(path)), far),
        ] {
            let described = format!("{request:?}");
            let (answer, _) = send(&admin, request, peer).await;
            assert_eq!(answer.status(), StatusCode::OK, "{described}");
        }
    }
    // A browser of this machine, a list of details, other things than probes.
    for request in [
        get("/livez", "evil.example", "Mozilla/5.0"),
        get("/readyz?verbose", "evil.example", "Mozilla/5.0"),
        get("/status", "gateway_cluster", "Envoy/HC"),
    ] {
        assert_eq!(
            send(&admin, request, near).await.0.status(),
            StatusCode::MISDIRECTED_REQUEST
        );
    }
    let bare = send(&admin, Request::get("/livez"), far).await.0;
    assert_eq!(bare.status(), StatusCode::BAD_REQUEST, "HTTP/1.1 needs a Host");
    health.set_draining();
    let (answer, _) = send(&admin, old(Request::options("/readyz")), far).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let (answer, _) = send(&admin, Request::options("/metrics").header("host", "x"), far).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["allow"]),
        (204, &"GET, HEAD".parse().unwrap())
    );
}

#[tokio::test]
async fn what_is_not_there_says_what_is() {
    let admin = fixture().admin;
    let (status, body) = get(&admin, "/healthz").await;
    assert_eq!(status, 404);
    for path in ["/livez", "/readyz", "/startupz", "/metrics", "/status", "server.listen"] {
        assert!(body.contains(path), "{body}");
    }
    let foreign = Request::get("/status").header("host", "evil.example");
    let (answer, body) = send(&admin, foreign, "127.0.0.1:1").await;
    assert_eq!(answer.status(), StatusCode::MISDIRECTED_REQUEST);
    assert!(body.contains("localhost") && body.contains("server.hosts"), "{body}");
}

#[tokio::test]
async fn probes_follow_the_gateways_life() {
    let Fixture { admin, health, .. } = fixture();
    let probe = async |path: &'static str| get(&admin, path).await.0;
    assert_eq!(
        (probe("/livez").await, probe("/startupz").await, probe("/readyz").await),
        (200, 503, 503)
    );
    health.set_ready();
    assert_eq!(
        (probe("/livez").await, probe("/startupz").await, probe("/readyz").await),
        (200, 200, 200)
    );
    health.set_draining();
    assert_eq!(
        (probe("/livez").await, probe("/startupz").await, probe("/readyz").await),
        (200, 200, 503)
    );
    assert_eq!(get(&admin, "/readyz").await.1, "draining\n");
}

#[tokio::test]
async fn verbose_lists_checks_that_decide_nothing() {
    let Fixture { admin, health, .. } = fixture();
    health.set_ready();
    let (status, body) = get(&admin, "/readyz?verbose").await;
    assert_eq!(
        (status, body.as_str()),
        (200, "[-] token: sign-in refused (AADSTS7000215)\nready\n")
    );
}

#[tokio::test]
async fn figures_come_in_the_format_asked_for() {
    let Fixture { admin, .. } = fixture();
    assert_eq!(get(&admin, "/status").await, (200, "{\"version\":\"1.2.3\"}".into()));
    assert_eq!(get(&admin, "/openapi.json").await, (200, "{}".into()));
    let open = Request::get("/metrics")
        .header("host", "x")
        .header("accept", "application/openmetrics-text");
    let (answer, body) = send(&admin, open, "10.0.0.9:1").await;
    assert!(
        answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
    assert!(body.ends_with("# EOF\n"));
    assert!(!get(&admin, "/metrics").await.1.contains("# EOF"));
}

#[tokio::test]
async fn what_is_not_there_is_refused() {
    let Fixture { admin, .. } = fixture();
    assert_eq!(get(&admin, "/nothing").await.0, 404);
    let (answer, _) = send(&admin, Request::post("/livez").header("host", "x"), "10.0.0.9:1").await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["allow"]),
        (405, &"GET, HEAD".parse().unwrap())
    );
    let (answer, _) = send(&admin, Request::get("/livez"), "10.0.0.9:1").await;
    assert_eq!(answer.status(), 400);
    let (answer, _) = send(
        &admin,
        Request::get("/quitquitquit").header("host", "localhost"),
        "127.0.0.1:1",
    )
    .await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["allow"]),
        (405, &"POST".parse().unwrap())
    );
}

#[tokio::test]
async fn one_server_listens_on_tcp_and_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let mut config = listener(Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))));
    config.listen.push(Address::Unix(path.clone()));
    let bound = Bound::bind(config).await.unwrap();
    let Address::Tcp(address) = bound.addresses()[0].clone() else {
        panic!("not TCP")
    };
    let (tasks, stop) = (Tasks::new(), CancellationToken::new());
    let serving = {
        let (admin, tasks, stop) = (fixture().admin, tasks.clone(), stop.clone());
        async move {
            bound
                .serve(admin.map_request(InboundRequest::into_request), &tasks, stop)
                .await
        }
    };
    let serving = tasks.spawn("admin", serving);
    let head = "HEAD /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let get = head.replacen("HEAD", "GET", 1);
    let answer = exchange(TcpStream::connect(address).await.unwrap(), head).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("content-length: 9\r\n"),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    let answer = exchange(UnixStream::connect(&path).await.unwrap(), &get).await;
    assert!(answer.ends_with("\r\n\r\nstarting\n"), "{answer}");
    stop.cancel();
    assert_eq!(serving.await.unwrap().cut, 0);
    assert!(!path.exists());
}

/// A crowd that opens three hundred connections a second and says nothing, and a probe with a new
/// connection each time beside it. Even if the crowd comes all at once, as on a busy machine,
/// whoever speaks is answered.
#[tokio::test]
async fn connections_that_do_nothing_keep_no_probe_out() {
    const A_SECOND: usize = 300;
    let bound = Bound::bind(listener(Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))));
    let bound = bound.await.unwrap();
    let Address::Tcp(address) = bound.addresses()[0].clone() else {
        panic!("not TCP")
    };
    let (tasks, stop) = (Tasks::new(), CancellationToken::new());
    let admin = fixture().admin.map_request(InboundRequest::into_request);
    let serving = {
        let (tasks, stop) = (tasks.clone(), stop.clone());
        async move { bound.serve(admin, &tasks, stop).await }
    };
    let serving = tasks.spawn("admin", serving);
    let crowd = async {
        let mut idle = Vec::new();
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        for _ in 0..A_SECOND * 3 {
            if idle.len() % (A_SECOND / 100) == 0 {
                tick.tick().await;
            }
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        idle
    };
    let probes = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..25 {
            let from = tokio::time::Instant::now();
            let probe = TcpStream::connect(address).await.unwrap();
            let get = "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            assert!(exchange(probe, get).await.starts_with("HTTP/1.1 200 OK\r\n"));
            slowest = slowest.max(from.elapsed());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        slowest
    };
    let (idle, slowest) = tokio::join!(crowd, probes);
    println!(
        "25 probes amid {} idle connections, the slowest {slowest:?}",
        idle.len()
    );
    // Behind the crowd, in the kernel's list, it would wait for ten seconds and more.
    assert!(slowest < Duration::from_secs(9), "{slowest:?}");
    drop(idle);
    stop.cancel();
    serving.await.unwrap();
}

async fn exchange(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(20), read)
        .await
        .unwrap()
        .unwrap();
    answer
}

#[test]
fn the_state_only_moves_on() {
    let health = Health::default();
    assert_eq!(health.state(), State::Starting);
    health.set_ready();
    assert_eq!(health.state(), State::Ready);
    health.set_draining();
    health.set_ready();
    assert_eq!(health.state(), State::Draining);
}
