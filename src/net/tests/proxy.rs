//! Connections through a forward proxy.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::Url;

use super::post;
use crate::net::testing::{Ca, Http, Names, Validity, client, listen, quick, refused};
use crate::net::{Client, Config, Kind, Proxy, Step};

/// A forward proxy that records requests, and tunnels to `target` or answers with `refusal`.
async fn proxy(
    target: std::net::SocketAddr,
    refusal: Option<&'static [u8]>,
) -> (std::net::SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    proxy_but(target, "", refusal).await
}

/// One that answers so to tunnels to hosts whose names begin like this.
async fn proxy_but(
    target: std::net::SocketAddr,
    refused: &'static str,
    refusal: Option<&'static [u8]>,
) -> (std::net::SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    let address = listen(move |mut near| {
        let tell = tell.clone();
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(near.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let is_refused = head["CONNECT ".len()..].starts_with(refused);
            tell.send(head).unwrap();
            if let Some(refusal) = refusal.filter(|_| is_refused) {
                near.write_all(refusal).await.unwrap();
                return;
            }
            near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let mut far = TcpStream::connect(target).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        }
    });
    (address.await, told)
}

fn http_proxy(address: std::net::SocketAddr, authorization: Option<&str>) -> Proxy {
    Proxy::new(&Url::parse(&format!("http://{address}")).unwrap(), authorization, &[]).unwrap()
}

#[tokio::test]
async fn https_goes_through_the_proxy_which_resolves_the_name() {
    let ca = Ca::new();
    let host = Http::saying("behind").tls(ca.server("eu.test", Validity::Now));
    let (address, mut told) = proxy(host.start().await, None).await;
    let config = Config {
        proxy: Some(http_proxy(address, Some("Basic bWU6c2VjcmV0"))),
        ..ca.config()
    };
    // No name can be resolved here.
    let client = Client::with_resolver(&config, Names::default().resolver()).unwrap();
    assert_eq!(post(&client, "https://eu.test/").await.unwrap().body(), "behind");
    let asked = told.recv().await.unwrap();
    assert!(asked.starts_with("CONNECT eu.test:443 HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("Proxy-Authorization: Basic bWU6c2VjcmV0\r\n"), "{asked}");
    assert!(
        client
            .connector()
            .measure(&Url::parse("https://eu.test").unwrap())
            .await
            .is_ok()
    );
    assert_eq!(host.requests(), 1, "measuring sends no request");
    let direct = client.direct();
    assert_eq!(
        post(&direct, "https://eu.test/").await.unwrap_err().proxy_status(),
        "dns_error"
    );
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_and_plain_http_never_meets_it() {
    let host = Http::saying("plain");
    let (address, mut told) = proxy(refused().await, Some(b"HTTP/1.1 407 No\r\n\r\n")).await;
    let names = Names::new([("imds.test", host.start().await)]);
    let config = Config {
        proxy: Some(http_proxy(address, None)),
        ..quick()
    };
    let client = client(&config, &names);
    let error = post(&client, "https://eu.test/").await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Connect(error) if error.step() == Step::Tunnel));
    assert!(told.recv().await.is_some());
    assert_eq!(post(&client, "http://imds.test/").await.unwrap().body(), "plain");
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn a_proxy_member_that_accepts_and_then_fails_is_passed_by_and_goes_last() {
    let ca = Ca::new();
    let host = Http::saying("behind").tls(ca.server("eu.test", Validity::Now));
    let (well, mut passed) = proxy(host.start().await, None).await;
    let (sick, mut failed) = proxy(refused().await, Some(b"HTTP/1.1 503 Busy\r\n\r\n")).await;
    let names = Names::default();
    names.set("proxy.test", vec![sick, well]);
    let address = Url::parse("http://proxy.test:3128").unwrap();
    let config = Config {
        proxy: Some(Proxy::new(&address, None, &[]).unwrap()),
        max_age: Duration::ZERO,
        ..ca.config()
    };
    let client = client(&config, &names);
    for _ in 0..3 {
        assert_eq!(post(&client, "https://eu.test/").await.unwrap().body(), "behind");
        assert!(passed.try_recv().is_ok());
    }
    assert!(failed.try_recv().is_ok() && failed.try_recv().is_err(), "tried once");
}

#[tokio::test]
async fn two_members_are_asked_for_one_connection_and_one_if_it_refuses() {
    for (answer, expected) in [(&b"HTTP/1.1 503 Busy\r\n\r\n"[..], 2), (b"HTTP/1.1 407 No\r\n\r\n", 1)] {
        let (mut addresses, mut told) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let (address, asked) = proxy(refused().await, Some(answer)).await;
            addresses.push(address);
            told.push(asked);
        }
        let names = Names::default();
        names.set("proxy.test", addresses);
        let address = Url::parse("http://proxy.test:3128").unwrap();
        let config = Config {
            proxy: Some(Proxy::new(&address, None, &[]).unwrap()),
            ..quick()
        };
        post(&client(&config, &names), "https://eu.test/").await.unwrap_err();
        let asked: usize = told.iter_mut().filter_map(|told| told.try_recv().ok()).count();
        assert_eq!(asked, expected);
    }
}

#[tokio::test]
async fn a_proxy_member_is_not_blamed_for_a_host_behind_it() {
    for answer in [&b"HTTP/1.1 503 Busy\r\n\r\n"[..], b"HTTP/1.1 403 No\r\n\r\n"] {
        let ca = Ca::new();
        let host = Http::saying("behind").tls(ca.server("eu.test", Validity::Now));
        let behind = host.start().await;
        let (first, mut passed) = proxy_but(behind, "down", Some(answer)).await;
        let (second, mut other) = proxy_but(behind, "down", Some(answer)).await;
        let names = Names::default();
        names.set("proxy.test", vec![first, second]);
        let address = Url::parse("http://proxy.test:3128").unwrap();
        let config = Config {
            proxy: Some(Proxy::new(&address, None, &[]).unwrap()),
            max_age: Duration::ZERO,
            ..ca.config()
        };
        let client = client(&config, &names);
        // To the one there is no tunnel, and in that to the other there is no TLS.
        for failing in ["https://down.test/", "https://wrong.test/"] {
            post(&client, failing).await.unwrap_err();
            while passed.try_recv().is_ok() || other.try_recv().is_ok() {}
            assert_eq!(post(&client, "https://eu.test/").await.unwrap().body(), "behind");
            assert!(passed.try_recv().is_ok() && other.try_recv().is_err(), "{failing}");
        }
    }
}
