//! What web pages and other machines may not do.

use super::*;

#[tokio::test]
async fn a_name_that_a_page_may_have_pointed_here_is_none_of_ours() {
    let admin = fixture().admin;
    let (near, far) = ("127.0.0.1:1", "10.0.0.9:1");
    let status = async |path: &str, host: &str, peer: &str, fields: &[(&str, &str)]| {
        let request = fields
            .iter()
            .fold(Request::get(path).header("host", host), |request, (name, value)| {
                request.header(*name, *value)
            });
        send(&admin, request, peer).await.0.status().as_u16()
    };
    for path in [
        "/",
        "/livez",
        "/status",
        "/metrics",
        "/history",
        "/openapi.json",
        "/nowhere",
    ] {
        assert_eq!(status(path, "evil.example:9901", near, &[]).await, 421, "{path}");
    }
    let browsers = [
        ("user-agent", "Mozilla/5.0 (X11)"),
        ("accept-language", "en"),
        ("sec-fetch-site", "same-origin"),
        ("upgrade-insecure-requests", "1"),
        ("origin", "http://evil.example:9901"),
        ("referer", "http://evil.example:9901/"),
    ];
    for field in browsers {
        assert_eq!(
            status("/status", "evil.example:9901", far, &[field]).await,
            421,
            "{field:?}"
        );
        for host in [
            "localhost:9901",
            "127.0.0.1:9901",
            "10.0.0.1:9901",
            "192.168.7.7",
            "[::1]:9901",
            "gateway.svc",
        ] {
            assert_eq!(status("/status", host, near, &[field]).await, 200, "{host}");
        }
    }
    // The kubelet, by the pod's address or by a name of its own; Prometheus by the service's name
    // or a target's.
    for (agent, host) in [
        ("kube-probe/1.33", "10.0.0.1:9901"),
        ("kube-probe/1.33", "node-7"),
        ("Prometheus/3.5.0", "gw-admin.tools.svc:9901"),
    ] {
        assert_eq!(
            status(
                "/metrics",
                host,
                far,
                &[("user-agent", agent), ("accept-encoding", "gzip")]
            )
            .await,
            200,
            "{host}"
        );
    }
}

#[tokio::test]
async fn the_page_may_load_nothing_from_elsewhere() {
    let Fixture { admin, .. } = fixture();
    let (answer, body) = send(&admin, Request::get("/").header("host", "x"), "10.0.0.9:1").await;
    assert!(body.starts_with("<!doctype html>"));
    let policy = answer.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
}

#[tokio::test]
async fn only_this_machine_may_quit_and_no_page() {
    let Fixture { admin, quit, .. } = fixture();
    let ask = |host: &'static str| Request::post("/quitquitquit").header("host", host);
    for (request, peer, status) in [
        (ask("localhost"), "10.0.0.9:1", 403),
        // The sidecar of a service mesh, for another pod.
        (ask("localhost"), "127.0.0.6:1", 403),
        (ask("rebound.example"), "127.0.0.1:1", 421),
        (ask("192.168.7.7"), "127.0.0.1:1", 403),
        (
            ask("localhost").header("sec-fetch-site", "cross-site"),
            "127.0.0.1:1",
            403,
        ),
        (
            ask("localhost").header("origin", "http://evil.example"),
            "127.0.0.1:1",
            403,
        ),
    ] {
        assert_eq!(send(&admin, request, peer).await.0.status(), status);
    }
    assert!(!quit.load(Ordering::SeqCst));
    let (answer, _) = send(&admin, ask("localhost:9901"), "127.0.0.1:1").await;
    assert_eq!(answer.status(), 200);
    assert!(quit.load(Ordering::SeqCst));
}

#[tokio::test]
async fn quitting_is_off_by_default() {
    let Fixture { health, .. } = fixture();
    let admin = Admin::new(View {
        health,
        checks: Arc::new(Vec::new),
        status: Arc::new(|| serde_json::Value::Null),
        history: Arc::new(|| serde_json::json!({})),
        metrics: Arc::new(|_| String::new()),
        openapi: "{}".into(),
        named: Arc::new(|host, peer| Hosts::default().accept(host, peer)),
        quit: None,
    });
    let request = Request::post("/quitquitquit").header("host", "localhost");
    assert_eq!(send(&admin, request, "127.0.0.1:1").await.0.status(), 404);
}
