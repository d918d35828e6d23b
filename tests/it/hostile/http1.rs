//! HTTP/1.1 that a proxy and a server could read in two ways, and other requests that are none.

use super::bench::{Bench, FORBIDDEN, forbidden, history_body, request, start};
use super::http1_framing::{chunks, lengths, lines};
use crate::support::PATH;

/// What is right.
#[derive(Clone, Copy, Debug)]
pub(super) enum Right {
    /// These statuses, and the connection goes on: the next request on it is understood from its
    /// first byte.
    Goes(&'static [u16]),
    /// These statuses, and then the connection ends: nothing of what follows is taken for a
    /// request.
    Ends(&'static [u16]),
}
use Right::{Ends, Goes};

pub(super) type Row = (&'static str, String, Right);

/// Requests for somebody else.
fn hosts() -> Vec<Row> {
    let host = "Host: localhost\r\n";
    let body = history_body(FORBIDDEN);
    let to = |target: &str, host: &str| {
        request("POST", "", &body)
            .replacen(PATH, target, 1)
            .replacen("Host: localhost\r\n", host, 1)
    };
    vec![
        ("no Host", format!("GET {PATH} HTTP/1.1\r\n\r\n"), Goes(&[400])),
        (
            "two Hosts",
            to(PATH, "Host: localhost\r\nHost: localhost\r\n"),
            Goes(&[400]),
        ),
        ("an empty Host", to(PATH, "Host:\r\n"), Goes(&[400])),
        ("a Host with a path", to(PATH, "Host: localhost/x\r\n"), Goes(&[400])),
        ("a Host with a user", to(PATH, "Host: me@localhost\r\n"), Goes(&[400])),
        (
            "two Hosts in one",
            to(PATH, "Host: localhost, evil.example\r\n"),
            Goes(&[400]),
        ),
        ("another Host", to(PATH, "Host: evil.example\r\n"), Goes(&[421])),
        (
            "an absolute target elsewhere",
            to(&format!("http://evil.example{PATH}"), host),
            Goes(&[421]),
        ),
        (
            "the upstream as target",
            to(&format!("https://api.security.microsoft.com{PATH}"), host),
            Goes(&[421]),
        ),
        (
            "a user in the target",
            to(&format!("http://me@localhost{PATH}"), host),
            Goes(&[400]),
        ),
    ]
}

/// Requests for something else, or in another way.
fn targets() -> Vec<Row> {
    let host = "Host: localhost\r\n";
    let none = "Content-Length: 0\r\n";
    let body = history_body(FORBIDDEN);
    let to = |target: &str| request("POST", "", &body).replacen(PATH, target, 1);
    vec![
        (
            "a tunnel",
            "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n".into(),
            Goes(&[421]),
        ),
        (
            "a tunnel to ourselves",
            "CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n".into(),
            Goes(&[404]),
        ),
        (
            "the asterisk",
            format!("OPTIONS * HTTP/1.1\r\n{host}\r\n"),
            Goes(&[204]),
        ),
        ("TRACE", format!("TRACE {PATH} HTTP/1.1\r\n{host}\r\n"), Goes(&[405])),
        (
            "DELETE",
            format!("DELETE {PATH} HTTP/1.1\r\n{host}{none}\r\n"),
            Goes(&[405]),
        ),
        (
            "a method in lower case",
            format!("post {PATH} HTTP/1.1\r\n{host}{none}\r\n"),
            Goes(&[405]),
        ),
        (
            "a method of symbols",
            format!("!#$%&'*+-.^_`|~ {PATH} HTTP/1.1\r\n{host}{none}\r\n"),
            Goes(&[405]),
        ),
        (
            "dots in the path",
            to(&format!("/api/../api{}", &PATH[4..])),
            Goes(&[404]),
        ),
        ("two slashes", to(&format!("/{PATH}")), Goes(&[404])),
        (
            "an encoded slash",
            to(&PATH.replacen("/Get", "%2fGet", 1)),
            Goes(&[404]),
        ),
        ("another letter case", to(&PATH.to_lowercase()), Goes(&[404])),
        (
            "an upgrade to HTTP/2",
            request(
                "POST",
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
                "{}",
            ),
            Goes(&[400]),
        ),
        (
            "an upgrade to a socket",
            format!(
                "GET {PATH} HTTP/1.1\r\n{host}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
            ),
            Goes(&[405]),
        ),
        (
            "another expectation",
            request("POST", "Expect: 200-ok\r\n", "{}"),
            Goes(&[400]),
        ),
        (
            "a compressed body",
            request("POST", "Content-Encoding: gzip\r\n", "{}"),
            Goes(&[415]),
        ),
        (
            "a form",
            request("POST", "", "{}").replace("application/json", "application/x-www-form-urlencoded"),
            Goes(&[415]),
        ),
        (
            "a page of another site",
            request("POST", "Origin: http://evil.example\r\n", &body),
            Goes(&[403]),
        ),
    ]
}

/// Several requests at once of which one is bad.
fn pipelines() -> Vec<Row> {
    let (bad, none) = (request("POST", "", "{}"), "GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let smuggled = forbidden();
    vec![
        ("good ones in a row", none.repeat(50), Goes(&[404; 50])),
        ("one after a bad request", format!("{bad}{none}"), Goes(&[400, 404])),
        (
            "one after a broken head",
            format!("{none}GET /x HTTP/1.1\r\nX Y\r\n\r\n{smuggled}"),
            Ends(&[404, 400]),
        ),
        (
            "one after the connection's last",
            format!("GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n{smuggled}"),
            Ends(&[404]),
        ),
        ("empty lines before a request", format!("\r\n\r\n{none}"), Goes(&[404])),
        (
            "one behind a body that is not waited for",
            format!(
                "{}Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
                start("POST").replace("localhost", "evil.example"),
                smuggled.len()
            ),
            Ends(&[421]),
        ),
    ]
}

/// Sends each row on a connection of its own.
async fn play(rows: Vec<Row>) {
    let bench = Bench::start().await;
    let before = bench.held();
    let mut wrong = Vec::new();
    for (name, bytes, right) in rows {
        let mut wire = bench.connect().await;
        wire.send(bytes.as_bytes()).await;
        let (Goes(expected) | Ends(expected)) = right;
        let mut statuses = Vec::new();
        while statuses.len() < expected.len()
            && let Some(reply) = wire.reply().await
        {
            statuses.push(reply);
        }
        let mut rest = String::new();
        if statuses == expected {
            match right {
                Goes(_) => {
                    wire.send(bench.last_request().as_bytes()).await;
                    let reply = wire.reply().await;
                    if reply.is_none_or(|reply| reply != 200) {
                        rest = format!("; then {reply:?} to an honest request");
                    }
                }
                Ends(_) => rest = String::from_utf8_lossy(&wire.ended().await).into_owned(),
            }
        }
        if statuses != expected || !rest.is_empty() {
            wrong.push(format!("{name}: {statuses:?} instead of {right:?}{rest}"));
        }
        drop(wire);
        bench.honest(name).await;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    bench.assert_nothing_got_through("all of them");
    bench.returned_to(before, 16 * 1024).await;
    bench.finish().await;
}

#[tokio::test]
async fn no_request_hides_in_another_ones_length() {
    play(lengths()).await;
}

#[tokio::test]
async fn no_request_hides_in_another_ones_chunks() {
    play(chunks()).await;
}

#[tokio::test]
async fn broken_lines_are_refused_and_end_the_connection() {
    play(lines()).await;
}

#[tokio::test]
async fn odd_targets_hosts_and_methods_are_refused_and_cost_no_call() {
    play(hosts().into_iter().chain(targets()).collect()).await;
}

#[tokio::test]
async fn one_bad_request_among_several_is_the_only_one_refused() {
    play(pipelines()).await;
}
