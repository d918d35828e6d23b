//! Requests over HTTP/1.1 whose lengths, chunks and lines are not what they should be.

use super::bench::{forbidden, start};
use super::http1::Right::{Ends, Goes};
use super::http1::Row;
use crate::support::PATH;

/// Two readings of where a request ends.
pub(super) fn lengths() -> Vec<Row> {
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
pub(super) fn chunks() -> Vec<Row> {
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
pub(super) fn lines() -> Vec<Row> {
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
