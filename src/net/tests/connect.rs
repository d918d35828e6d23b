//! Setting up connections: names, addresses, TLS.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;
use url::Url;

use super::{SHORT_LIMITS, hold, post, post_within, request_read, reset};
use crate::net::testing::{BlackHole, Ca, Http, Names, Validity, client, listen, quick, refused};
use crate::net::{Client, Config, ConnectError, Connector, Kind, Resolver, Step};

#[tokio::test]
async fn refused_is_known_at_once_and_nothing_was_sent() {
    let names = Names::new([("eu.test", refused().await)]);
    let error = post(&client(&quick(), &names), "http://eu.test/").await.unwrap_err();
    assert!(error.is_unprocessed() && !error.is_timeout());
    assert_eq!(error.proxy_status(), "connection_refused");
    assert_eq!(error.authority(), "eu.test:80");
}

#[test]
fn a_want_of_open_files_is_this_sides_and_says_nothing_about_the_host() {
    for (code, is_local, token) in [
        (Errno::MFILE, true, "proxy_internal_error"),
        (Errno::NFILE, true, "proxy_internal_error"),
        (Errno::CONNREFUSED, false, "connection_refused"),
    ] {
        let error = ConnectError::failed(&"eu.test:443".into(), Step::Dial, code.into());
        assert_eq!((error.is_local(), error.proxy_status()), (is_local, token));
    }
}

#[tokio::test]
async fn a_black_hole_is_left_after_the_connect_timeout_and_nothing_was_sent() {
    let hole = BlackHole::new().await;
    let names = Names::new([("eu.test", hole.address)]);
    let error = post(&client(&quick(), &names), "http://eu.test/").await.unwrap_err();
    assert!(error.is_unprocessed() && error.is_timeout());
    assert_eq!(error.proxy_status(), "connection_timeout");
}

#[tokio::test]
async fn an_unknown_name_is_a_dns_error() {
    let error = post(&client(&quick(), &Names::default()), "http://eu.test/")
        .await
        .unwrap_err();
    assert!(error.is_unprocessed());
    assert_eq!(error.proxy_status(), "dns_error");
}

#[tokio::test]
async fn a_dns_failure_is_survived_and_a_dns_change_is_followed() {
    let (old, new) = (Http::saying("old"), Http::saying("new"));
    let names = Names::new([("eu.test", old.start().await)]);
    let client = client(
        &Config {
            max_age: Duration::ZERO,
            ..quick()
        },
        &names,
    );
    assert_eq!(post(&client, "http://eu.test/").await.unwrap().body(), "old");
    names.set("eu.test", vec![]);
    assert_eq!(
        post(&client, "http://eu.test/").await.unwrap().body(),
        "old",
        "the last good answer"
    );
    names.set("eu.test", vec![new.start().await]);
    assert_eq!(
        post(&client, "http://eu.test/").await.unwrap().body(),
        "new",
        "an old connection is not used again"
    );
}

#[tokio::test]
async fn one_dead_address_of_two_costs_a_quarter_second_once() {
    let hole = BlackHole::new().await;
    let host = Http::saying("here");
    let names = Names::default();
    names.set("eu.test", vec![hole.address, host.start().await]);
    let client = client(
        &Config {
            max_age: Duration::ZERO,
            ..quick()
        },
        &names,
    );
    let begun = Instant::now();
    post(&client, "http://eu.test/").await.unwrap();
    let quarter = Duration::from_millis(250);
    assert!(begun.elapsed() >= quarter, "{:?}", begun.elapsed());
    // If the dead one were tried first again, each of these would take as long; a busy machine
    // slows some of them.
    let mut quickest = Duration::MAX;
    for _ in 0..20 {
        let begun = Instant::now();
        post(&client, "http://eu.test/").await.unwrap();
        quickest = quickest.min(begun.elapsed());
    }
    assert!(quickest < quarter, "the address that worked goes first: {quickest:?}");
    assert_eq!(host.connections(), 21);
}

/// The addresses of a host at which `sick` happens to the first of all connections, and of one that
/// is well.
async fn half_sick<F, Fut>(sick: F, well: &Http) -> Names
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let names = Names::default();
    names.set("eu.test", vec![listen(sick).await, well.start().await]);
    names
}

#[tokio::test]
async fn an_address_that_resets_the_handshake_is_passed_by() {
    let ca = Ca::new();
    let well = Http::saying("here").tls(ca.server("eu.test", Validity::Now));
    let tries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tries);
    let sick = move |mut stream| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            request_read(&mut stream).await;
            reset(stream);
        }
    };
    let config = Config {
        max_age: Duration::ZERO,
        ..ca.config()
    };
    let client = client(&config, &half_sick(sick, &well).await);
    for _ in 0..3 {
        assert_eq!(post(&client, "https://eu.test/").await.unwrap().body(), "here");
    }
    assert_eq!(tries.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_address_that_takes_the_whole_time_or_gives_no_answer_is_not_tried_first_again() {
    let ca = Ca::new();
    let well = Http::saying("here").tls(ca.server("eu.test", Validity::Now));
    let secure = client(&ca.config(), &half_sick(hold, &well).await);
    let error = post(&secure, "https://eu.test/").await.unwrap_err();
    assert_eq!(error.proxy_status(), "connection_timeout");
    assert_eq!(post(&secure, "https://eu.test/").await.unwrap().body(), "here");

    let plain = Http::saying("here");
    for names in [
        half_sick(hold, &plain).await,
        half_sick(
            |mut stream| async move {
                request_read(&mut stream).await;
                reset(stream);
            },
            &plain,
        )
        .await,
    ] {
        let client = client(&quick(), &names);
        let lost = post_within(&client, "http://eu.test/", SHORT_LIMITS).await.unwrap_err();
        assert!(!lost.is_unprocessed());
        assert_eq!(post(&client, "http://eu.test/").await.unwrap().body(), "here");
    }
}

/// As after a signal or a suspend: whatever was under way is late then.
#[tokio::test]
async fn an_address_is_not_blamed_for_the_time_in_which_the_gateway_stood_still() {
    for is_frozen in [false, true] {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let connections = AtomicUsize::new(0);
        let silent_once = move |mut stream: TcpStream| {
            let (tell, nth) = (tell.clone(), connections.fetch_add(1, Ordering::SeqCst));
            async move {
                request_read(&mut stream).await;
                tell.send(()).unwrap();
                if nth == 1 {
                    hold(stream).await;
                } else {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\na";
                    stream.write_all(answer).await.unwrap();
                }
            }
        };
        let client = client(&quick(), &half_sick(silent_once, &Http::saying("b")).await);
        assert_eq!(post(&client, "http://eu.test/").await.unwrap().body(), "a");
        told.recv().await.unwrap();
        let freezing = async {
            told.recv().await.unwrap();
            if is_frozen {
                tokio::time::pause();
                tokio::time::advance(Duration::from_mins(1)).await;
                tokio::time::resume();
            }
        };
        let (late, ()) = tokio::join!(post_within(&client, "http://eu.test/", SHORT_LIMITS), freezing);
        assert!(late.unwrap_err().is_timeout());
        let next = post(&client, "http://eu.test/").await.unwrap();
        assert_eq!(next.body(), if is_frozen { "a" } else { "b" });
    }
}

#[tokio::test]
async fn tls_is_verified() {
    let (ca, stranger) = (Ca::new(), Ca::new());
    let good = Http::saying("good").tls(ca.server("eu.test", Validity::Now));
    let names = Names::new([
        ("eu.test", good.start().await),
        ("wrong.test", good.start().await),
        (
            "expired.test",
            Http::saying("x")
                .tls(ca.server("expired.test", Validity::Past))
                .start()
                .await,
        ),
        (
            "unknown.test",
            Http::saying("x")
                .tls(stranger.server("unknown.test", Validity::Now))
                .start()
                .await,
        ),
        ("plain.test", Http::saying("x").start().await),
    ]);
    let client = client(&ca.config(), &names);
    assert_eq!(post(&client, "https://eu.test/").await.unwrap().body(), "good");
    for (host, status) in [
        ("wrong", "tls_certificate_error"),
        ("expired", "tls_certificate_error"),
        ("unknown", "tls_certificate_error"),
        ("plain", "tls_protocol_error"),
    ] {
        let error = post(&client, &format!("https://{host}.test/")).await.unwrap_err();
        assert!(error.is_unprocessed(), "{host}");
        assert_eq!(error.proxy_status(), status, "{host}: {error:?}");
    }
}

#[tokio::test]
async fn a_hanging_or_broken_handshake_ends_in_time() {
    let ca = Ca::new();
    let hanging = listen(|stream| async move {
        hold(stream).await;
    });
    let broken = listen(|mut stream| async move {
        request_read(&mut stream).await;
        reset(stream);
    });
    let names = Names::new([("hanging.test", hanging.await), ("broken.test", broken.await)]);
    let client = client(&ca.config(), &names);
    let error = post(&client, "https://hanging.test/").await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Connect(error) if error.step() == Step::Tls && error.is_timeout()));
    let error = post(&client, "https://broken.test/").await.unwrap_err();
    assert!(error.is_unprocessed());
    assert_eq!(error.proxy_status(), "connection_terminated");
}

#[tokio::test]
async fn measuring_a_cleartext_host_sends_it_nothing() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let silent = listen(move |mut stream| {
        let tell = tell.clone();
        async move {
            let mut seen = Vec::new();
            let end = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut seen).await;
            tell.send((end.is_ok(), seen)).unwrap();
        }
    });
    let hanging_up = listen(|stream| async move { drop(stream) });
    let names = Names::new([("silent.test", silent.await), ("hanging-up.test", hanging_up.await)]);
    let connector = Connector::new(&quick(), names.resolver()).unwrap();
    for host in ["silent", "hanging-up"] {
        let url = Url::parse(&format!("http://{host}.test")).unwrap();
        let setup = connector.measure(&url).await.unwrap();
        assert!(setup < quick().connect_timeout, "{setup:?}");
    }
    assert_eq!(told.recv().await.unwrap(), (true, Vec::new()));
}

#[tokio::test]
async fn cleartext_is_http1_unless_configured_as_http2() {
    let host = Http::new(|request| {
        let version = format!("{:?}", request.version());
        http::Response::new(http_body_util::Full::from(version))
    });
    let names = Names::new([("eu.test", host.start().await)]);
    let client = client(&quick(), &names);
    assert_eq!(post(&client, "http://eu.test/").await.unwrap().body(), "HTTP/1.1");
    let http2 = client.cleartext_http2();
    assert_eq!(post(&http2, "http://eu.test/").await.unwrap().body(), "HTTP/2.0");
}

#[tokio::test]
async fn measuring_sends_no_request_and_sees_the_way_to_a_cleartext_host_that_speaks_http2() {
    let host = Http::saying("x");
    let inner = host.clone();
    let slow = listen(move |stream| {
        let host = inner.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(60)).await;
            host.serve(stream).await;
        }
    });
    let names = Names::new([("slow.test", slow.await), ("gone.test", refused().await)]);
    let connector = Connector::new(&quick(), names.resolver()).unwrap().cleartext_http2();
    let setup = connector
        .measure(&Url::parse("http://slow.test").unwrap())
        .await
        .unwrap();
    assert!(setup >= Duration::from_millis(60), "{setup:?}");
    assert_eq!((host.connections(), host.requests()), (1, 0));
    assert!(
        connector
            .measure(&Url::parse("http://gone.test").unwrap())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn the_system_resolver_finds_loopback_hosts() {
    let host = Http::saying("here");
    let address = host.start().await;
    let client = Client::with_resolver(&quick(), Resolver::system()).unwrap();
    let answer = post(&client, &format!("http://localhost:{}/", address.port()))
        .await
        .unwrap();
    assert_eq!(answer.body(), "here");
}
