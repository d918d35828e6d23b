//! What RFC 9113 demands of a server, as frames to send and answers to expect.

use super::bench::{FORBIDDEN, history_body};
use super::conformance::Right::{Connection, Malformed, Nothing, Stream};
use super::conformance::{FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, PROTOCOL_ERROR, Row, STREAM_CLOSED};
use super::frame::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PRIORITY, PUSH_PROMISE, REQUEST,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, head, setting,
};

#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn connections() -> Vec<Row> {
    let open = head(0, 1, &[]);
    let half = frame(HEADERS, END_STREAM, 1, &block(&REQUEST));
    let end = frame(DATA, END_STREAM, 1, b"{}");
    vec![
        ("4.1 an unknown frame", frame(99, 0, 0, b"x"), Nothing),
        ("4.1 a flag without a meaning", frame(PING, 0xf0, 0, &[0; 8]), Nothing),
        ("4.1 the reserved bit", frame(PING, 0, 1 << 31, &[0; 8]), Nothing),
        (
            "4.2 a head above the largest frame",
            frame(HEADERS, END_HEADERS, 1, &[0; 16_385]),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        (
            "4.2 data above the largest frame",
            [open.clone(), frame(DATA, 0, 1, &[0; 16_385])].concat(),
            Stream(&[FRAME_SIZE_ERROR]),
        ),
        (
            "4.2 settings above the largest frame",
            frame(SETTINGS, 0, 0, &[0; 16_386]),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        (
            "4.3 another frame inside a head",
            [half.clone(), frame(PRIORITY, 0, 1, &[0; 5])].concat(),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "4.3 another stream's head inside a head",
            [half.clone(), head(0, 3, &[])].concat(),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "4.3 an unknown frame inside a head",
            [half.clone(), frame(99, 0, 1, &[])].concat(),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "5.1 data on an idle stream",
            frame(DATA, END_STREAM, 1, b"x"),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "5.1 a reset of an idle stream",
            frame(RST_STREAM, 0, 1, &[0; 4]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "5.1 a window for an idle stream",
            frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "5.1 a continuation of an idle stream",
            frame(CONTINUATION, END_HEADERS, 1, &[]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "5.1 data after the end",
            [open.clone(), end.clone(), end.clone()].concat(),
            Stream(&[STREAM_CLOSED]),
        ),
        (
            "5.1 a head after the end",
            [open.clone(), end.clone(), head(END_STREAM, 1, &[])].concat(),
            Stream(&[STREAM_CLOSED]),
        ),
        (
            "5.1 data after a reset",
            [open.clone(), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]), end.clone()].concat(),
            Stream(&[STREAM_CLOSED]),
        ),
        (
            "5.1.1 an even stream",
            head(END_STREAM, 2, &[]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "5.1.1 a stream below an earlier one",
            [head(0, 5, &[]), head(0, 3, &[])].concat(),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.1 data on stream 0",
            frame(DATA, 0, 0, b"x"),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.1 padding longer than data",
            [open.clone(), frame(DATA, PADDED | END_STREAM, 1, &[9, 0])].concat(),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.2 a head on stream 0",
            head(END_STREAM, 0, &[]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.2 padding longer than a head",
            frame(HEADERS, PADDED | END_HEADERS, 1, &[200, 0x83]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.3 a priority on stream 0",
            frame(PRIORITY, 0, 0, &[0; 5]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.3 a priority of four bytes",
            [open.clone(), frame(PRIORITY, 0, 1, &[0; 4])].concat(),
            Stream(&[FRAME_SIZE_ERROR]),
        ),
        (
            "6.4 a reset of stream 0",
            frame(RST_STREAM, 0, 0, &[0; 4]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.4 a reset of three bytes",
            [open.clone(), frame(RST_STREAM, 0, 1, &[0; 3])].concat(),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        (
            "6.6 a push by a client",
            [open, frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])].concat(),
            Connection(&[PROTOCOL_ERROR]),
        ),
    ]
}

pub(super) fn settings() -> Vec<Row> {
    let set = |name, value| frame(SETTINGS, 0, 0, &setting(name, value));
    let open = head(0, 1, &[]);
    vec![
        (
            "6.5 an acknowledgement with a payload",
            frame(SETTINGS, ACK, 0, &[0; 6]),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        (
            "6.5 settings on a stream",
            frame(SETTINGS, 0, 1, &[0; 6]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.5 five bytes",
            frame(SETTINGS, 0, 0, &[0; 5]),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        ("6.5.2 push set to 2", set(2, 2), Connection(&[PROTOCOL_ERROR])),
        (
            "6.5.2 a window of 2^31",
            set(4, 1 << 31),
            Connection(&[FLOW_CONTROL_ERROR]),
        ),
        ("6.5.2 frames below 2^14", set(5, 16_383), Connection(&[PROTOCOL_ERROR])),
        (
            "6.5.2 frames above 2^24-1",
            set(5, 1 << 24),
            Connection(&[PROTOCOL_ERROR]),
        ),
        ("6.5.2 an unknown setting", set(0xff, 1), Nothing),
        (
            "6.5.3 one setting twice",
            frame(SETTINGS, 0, 0, &[setting(4, 9), setting(4, 65_535)].concat()),
            Nothing,
        ),
        (
            "6.7 a ping on a stream",
            frame(PING, 0, 1, &[0; 8]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.7 a ping of seven bytes",
            frame(PING, 0, 0, &[0; 7]),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        (
            "6.7 an answer without a ping",
            frame(PING, ACK, 0, b"unasked!"),
            Nothing,
        ),
        (
            "6.8 a farewell on a stream",
            frame(GOAWAY, 0, 1, &[0; 8]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.9 a window of 0 more",
            frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.9 a stream's window of 0 more",
            [open.clone(), frame(WINDOW_UPDATE, 0, 1, &[0; 4])].concat(),
            Stream(&[PROTOCOL_ERROR]),
        ),
        (
            "6.9 a window of three bytes",
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        (
            "6.9.1 a window above 2^31-1",
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255]),
            Connection(&[FLOW_CONTROL_ERROR]),
        ),
        (
            "6.9.1 a stream's window above 2^31-1",
            [open.clone(), frame(WINDOW_UPDATE, 0, 1, &[0x7f, 255, 255, 255])].concat(),
            Stream(&[FLOW_CONTROL_ERROR]),
        ),
        (
            "6.10 a continuation after the end",
            [open.clone(), frame(CONTINUATION, END_HEADERS, 1, &block(&[("x", "y")]))].concat(),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.10 a continuation on stream 0",
            frame(CONTINUATION, END_HEADERS, 0, &[]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.10 a continuation after data",
            [open, frame(DATA, 0, 1, b"{"), frame(CONTINUATION, END_HEADERS, 1, &[])].concat(),
            Connection(&[PROTOCOL_ERROR]),
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn requests() -> Vec<Row> {
    let whole = |fields: &[(&str, &str)]| frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(fields));
    let with = |more: &[(&str, &str)]| whole(&[&REQUEST, more].concat());
    let without = |name: &str| {
        let fields: Vec<_> = REQUEST.into_iter().filter(|field| field.0 != name).collect();
        whole(&fields)
    };
    let trailed = |flags: u8, trailers: &[(&str, &str)]| {
        let body = frame(DATA, 0, 1, history_body(FORBIDDEN).as_bytes());
        [
            head(0, 1, &[]),
            body,
            frame(HEADERS, flags | END_HEADERS, 1, &block(trailers)),
        ]
        .concat()
    };
    let of_length = |length: &str, flags: u8| {
        let body = frame(DATA, flags, 1, history_body(FORBIDDEN).as_bytes());
        [head(0, 1, &[("content-length", length)]), body].concat()
    };
    vec![
        (
            "8.1 trailers that are not the end",
            trailed(0, &[("x", "y")]),
            Malformed,
        ),
        (
            "8.1.1 a length that is too long",
            of_length("999", END_STREAM),
            Malformed,
        ),
        (
            "8.1.1 a length that is too short",
            of_length("1", END_STREAM),
            Malformed,
        ),
        (
            "8.1.1 a length that is too short, data to come",
            of_length("1", 0),
            Malformed,
        ),
        (
            "8.1.1 two lengths",
            with(&[("content-length", "0"), ("content-length", "1")]),
            Malformed,
        ),
        ("8.2.1 a name in upper case", with(&[("X", "y")]), Malformed),
        ("8.2.1 a line feed in a value", with(&[("x", "y\nz: a")]), Malformed),
        ("8.2.1 a carriage return in a value", with(&[("x", "y\rz")]), Malformed),
        ("8.2.1 NUL in a value", with(&[("x", "y\0z")]), Malformed),
        ("8.2.1 a colon in a name", with(&[("x:y", "z")]), Malformed),
        ("8.2.1 a space in a name", with(&[("x y", "z")]), Malformed),
        ("8.2.2 connection", with(&[("connection", "close")]), Malformed),
        ("8.2.2 keep-alive", with(&[("keep-alive", "1")]), Malformed),
        (
            "8.2.2 proxy-connection",
            with(&[("proxy-connection", "close")]),
            Malformed,
        ),
        (
            "8.2.2 transfer-encoding",
            with(&[("transfer-encoding", "chunked")]),
            Malformed,
        ),
        ("8.2.2 upgrade", with(&[("upgrade", "x")]), Malformed),
        ("8.2.2 te", with(&[("te", "gzip")]), Malformed),
        ("8.3 an unknown pseudo field", with(&[(":x", "y")]), Malformed),
        ("8.3 an answer's pseudo field", with(&[(":status", "200")]), Malformed),
        ("8.3 a pseudo field behind another", with(&[(":path", "/")]), Malformed),
        ("8.3.1 no method", without(":method"), Malformed),
        ("8.3.1 no scheme", without(":scheme"), Malformed),
        ("8.3.1 no path", without(":path"), Malformed),
        (
            "8.3.1 an empty path",
            whole(&[
                (":method", "POST"),
                (":scheme", "http"),
                (":path", ""),
                (":authority", "localhost"),
            ]),
            Malformed,
        ),
        (
            "8.3.1 another host in host",
            with(&[("host", "evil.example")]),
            Malformed,
        ),
        (
            "8.3.1 a user in the authority",
            whole(&[
                (":method", "POST"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "me@localhost"),
            ]),
            Malformed,
        ),
        (
            "8.5 a tunnel",
            whole(&[(":method", "CONNECT"), (":authority", "localhost:80")]),
            Malformed,
        ),
    ]
}
