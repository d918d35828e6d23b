//! HTTP/1.1 that a proxy and a server could read in two ways, and other requests that are none.

use super::bench::{Bench, FORBIDDEN, forbidden, history_body, request, start};
use crate::support::PATH;

/// What is right.
#[derive(Clone, Copy, Debug)]
enum Right {
    /// These statuses, and the connection goes on: the next request on it is understood from its
    /// first byte.
    Goes(&'static [u16]),
    /// These statuses, and then the connection ends: nothing of what follows is taken for a
    /// request.
    Ends(&'static [u16]),
}
use Right::{Ends, Goes};

type Row = (&'static str, String, Right);

/// Two readings of where a request ends.
fn lengths() -> Vec<Row> {
    let smuggled = forbidden();
    let post = |fields: &str, rest: &str| format!("{}{fields}\r\n{rest}", start("POST"));
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
    vec![
        // The chunks count, and the connection ends (RFC 9112 §6.1): what an intermediary took for
        // the rest of the body is nothing.
        (
            "CL.TE",
            post(
                "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
                &format!("{}{smuggled}", chunk("[]")),
            ),
            Ends(&[400]),
        ),
        (
            "CL.TE, empty",
            post(
                "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
                &format!("0\r\n\r\n{smuggled}"),
            ),
            Ends(&[400]),
        ),
        (
            "TE.CL",
            post(
                "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
                &format!("{}{smuggled}", chunk("{}")),
            ),
            Ends(&[400]),
        ),
        (
            "TE.TE with an unknown coding",
            post(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n",
                &format!("0\r\n\r\n{smuggled}"),
            ),
            Ends(&[400]),
        ),
        (
            "two equal lengths",
            post("Content-Length: 2\r\nContent-Length: 2\r\n", "{}"),
            Goes(&[400]),
        ),
        (
            "two lengths",
            post("Content-Length: 0\r\nContent-Length: 99\r\n", &smuggled),
            Ends(&[400]),
        ),
        (
            "a list of lengths",
            post("Content-Length: 0, 99\r\n", &smuggled),
            Ends(&[400]),
        ),
        (
            "a signed length",
            post("Content-Length: +0\r\n", &smuggled),
            Ends(&[400]),
        ),
        (
            "a hexadecimal length",
            post("Content-Length: 0x0\r\n", &smuggled),
            Ends(&[400]),
        ),
        ("an empty length", post("Content-Length:\r\n", &smuggled), Ends(&[400])),
        (
            "a length of 2^64",
            post("Content-Length: 18446744073709551616\r\n", &smuggled),
            Ends(&[400]),
        ),
        (
            "a length just below 2^64",
            // The parser's own answer: it cannot count so far.
            post("Content-Length: 18446744073709551615\r\n", "x"),
            Ends(&[431]),
        ),
        (
            "another coding",
            post("Transfer-Encoding: gzip\r\n", &smuggled),
            Ends(&[400]),
        ),
        (
            "chunked not last",
            post("Transfer-Encoding: chunked, gzip\r\n", &smuggled),
            Ends(&[400]),
        ),
        (
            "a space before the colon",
            post("Transfer-Encoding : chunked\r\n", &format!("0\r\n\r\n{smuggled}")),
            Ends(&[400]),
        ),
        (
            "a control character before the coding",
            post("Transfer-Encoding: \u{b}chunked\r\n", &format!("0\r\n\r\n{smuggled}")),
            Ends(&[400]),
        ),
        (
            "chunked by HTTP/1.0",
            format!(
                "POST {PATH} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
            ),
            Ends(&[400]),
        ),
    ]
}

/// Bodies in chunks that are none.
fn chunks() -> Vec<Row> {
    let smuggled = forbidden();
    let post = |rest: &str| format!("{}Transfer-Encoding: chunked\r\n\r\n{rest}", start("POST"));
    vec![
        (
            "a chunk size that overflows",
            post("fffffffffffffffff\r\n"),
            Ends(&[400]),
        ),
        (
            "a negative chunk size",
            post(&format!("-1\r\n{smuggled}")),
            Ends(&[400]),
        ),
        (
            "a chunk size with a prefix",
            post(&format!("0x2\r\n{{}}\r\n0\r\n\r\n{smuggled}")),
            Ends(&[400]),
        ),
        (
            "a chunk longer than its size",
            post(&format!("1\r\n{{}}\r\n0\r\n\r\n{smuggled}")),
            Ends(&[400]),
        ),
        (
            "a chunk that ends in a bare LF",
            post(&format!("2\n{{}}\n0\n\n{smuggled}")),
            Ends(&[400]),
        ),
        (
            "a bare CR in a chunk's extension",
            post(&format!("2;\r\r\n{{}}\r\n0\r\n\r\n{smuggled}")),
            Ends(&[400]),
        ),
        (
            "a bare LF in a chunk's extension",
            post(&format!("2;a\n{{}}\r\n0\r\n\r\n{smuggled}")),
            Ends(&[400]),
        ),
        (
            "an endless extension",
            post(&format!("2;{}\r\n", "x".repeat(1 << 20))),
            Ends(&[400]),
        ),
        (
            "trailers without end",
            post(&format!("2\r\n{{}}\r\n0\r\n{}", "x: y\r\n".repeat(100_000))),
            Ends(&[400]),
        ),
        (
            "a trailer that sets a length",
            post("2\r\n{}\r\n0\r\nContent-Length: 99\r\n\r\n"),
            Goes(&[400]),
        ),
    ]
}

/// Lines that end or fold as they must not.
fn lines() -> Vec<Row> {
    let smuggled = forbidden();
    let get = |fields: &str| format!("GET /x HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    let start = start("POST");
    vec![
        ("obs-fold", get("X: a\r\n b\r\n"), Ends(&[400])),
        (
            "a folded length",
            format!("{start}X: a\r\n Content-Length: 0\r\n\r\n{smuggled}"),
            Ends(&[400]),
        ),
        (
            "a first line that is folded",
            format!("GET /x HTTP/1.1\r\n Host: localhost\r\n\r\n{smuggled}"),
            Ends(&[400]),
        ),
        ("NUL in a value", get("X: a\0b\r\n"), Ends(&[400])),
        ("NUL in a name", get("X\0: a\r\n"), Ends(&[400])),
        (
            "NUL in the target",
            "GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
            Ends(&[400]),
        ),
        (
            "a bare CR in a value",
            get("X: a\rTransfer-Encoding: chunked\r\n"),
            Ends(&[400]),
        ),
        (
            "a bare CR in the first line",
            "GET /x\r HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
            Ends(&[400]),
        ),
        ("an empty name", get(": a\r\n"), Ends(&[400])),
        ("a line without a colon", get("X\r\n"), Ends(&[400])),
        ("a space in a name", get("X Y: a\r\n"), Ends(&[400])),
        (
            "two spaces in the first line",
            "GET  /x HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
            Ends(&[400]),
        ),
        (
            "a tab in the first line",
            "GET\t/x\tHTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
            Ends(&[400]),
        ),
        (
            "another version",
            "GET /x HTTP/1.2\r\nHost: localhost\r\n\r\n".into(),
            Ends(&[400]),
        ),
        ("version 0.9", "GET /x\r\n\r\n".into(), Ends(&[400])),
        (
            "HTTP/2 in words",
            "GET /x HTTP/2.0\r\nHost: localhost\r\n\r\n".into(),
            Ends(&[400]),
        ),
        (
            "TLS",
            "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}\r\n\r\n".into(),
            Ends(&[400]),
        ),
        (
            "a field of 64 KiB",
            get(&format!("X: {}\r\n", "y".repeat(70_000))),
            Ends(&[431]),
        ),
        (
            "a target of 64 KiB",
            format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "y".repeat(70_000)),
            Ends(&[431]),
        ),
        (
            "a method of 64 KiB",
            format!("{} / HTTP/1.1\r\nHost: localhost\r\n\r\n", "Y".repeat(70_000)),
            Ends(&[431]),
        ),
        ("a thousand fields", get(&"X: y\r\n".repeat(1000)), Ends(&[431])),
    ]
}

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
