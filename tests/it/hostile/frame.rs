//! HTTP/2 in frames of one's own making.

use crate::support::{PATH, within};

use super::bench::Bench;
use super::wire::Wire;

/// What every HTTP/2 client says first (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;

/// One frame in bytes.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// One setting.
pub(super) fn setting(name: u16, value: u32) -> Vec<u8> {
    [&name.to_be_bytes()[..], &value.to_be_bytes()[..]].concat()
}

/// Fields, each literal and never indexed (RFC 7541 §6.2.2), without Huffman's code.
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        text(&mut bytes, name);
        text(&mut bytes, value);
    }
    bytes
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    // An integer with a prefix of seven bits (RFC 7541 §5.1).
    let mut rest = text.len();
    if rest < 127 {
        bytes.push(u8::try_from(rest).unwrap());
    } else {
        bytes.push(127);
        rest -= 127;
        while rest >= 128 {
            bytes.push(u8::try_from(rest % 128).unwrap() | 128);
            rest /= 128;
        }
        bytes.push(u8::try_from(rest).unwrap());
    }
    bytes.extend(text.as_bytes());
}

/// The fields of a request.
pub(super) const REQUEST: [(&str, &str); 5] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH),
    (":authority", "localhost"),
    ("content-type", "application/json"),
];

/// A request's head with further fields.
pub(super) fn head(flags: u8, stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, &block(&[&REQUEST, more].concat()))
}

/// What a peer says that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// An answer's head. The status is known when it is one of the static table's.
    Answer(u32, Option<u16>),
    /// A stream is over, with this error.
    Reset(u32, u32),
    /// The connection is over, with this error.
    Goaway(u32),
    /// A ping was answered.
    Pong([u8; 8]),
    /// Settings were taken.
    Settled,
    /// The end of the connection, one way or the other.
    Ended,
}

/// A connection that has begun well: both sides' settings are exchanged.
#[derive(Debug)]
pub(super) struct Frames(pub(super) Wire);

impl Frames {
    pub(super) async fn open(bench: &Bench, settings: &[u8]) -> Self {
        let mut frames = Self(bench.connect().await);
        let hello = [PREFACE, &frame(SETTINGS, 0, 0, settings), &frame(SETTINGS, ACK, 0, &[])].concat();
        frames.0.send(&hello).await;
        let settled = within("settings", frames.until(|said| said == Said::Settled)).await;
        assert_eq!(settled, Said::Settled);
        frames
    }

    /// The next thing that is `wanted`, or the end.
    pub(super) async fn until(&mut self, wanted: impl Fn(Said) -> bool) -> Said {
        loop {
            let said = self.next().await;
            if said == Said::Ended || wanted(said) {
                return said;
            }
        }
    }

    /// The next thing that matters.
    pub(super) async fn next(&mut self) -> Said {
        loop {
            let Some(head) = self.0.take(9).await else {
                return Said::Ended;
            };
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let Some(payload) = self.0.take(length).await else {
                return Said::Ended;
            };
            let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
            match (head[3], head[4] & ACK) {
                (HEADERS, _) => return Said::Answer(stream, status(payload[0])),
                (RST_STREAM, _) => return Said::Reset(stream, number(0)),
                (GOAWAY, _) => return Said::Goaway(number(4)),
                (PING, ACK) => return Said::Pong(payload[..8].try_into().unwrap()),
                (SETTINGS, ACK) => return Said::Settled,
                _ => {}
            }
        }
    }
}

/// The statuses that have an index (RFC 7541, appendix A).
fn status(first: u8) -> Option<u16> {
    match first {
        0x88 => Some(200),
        0x89 => Some(204),
        0x8c => Some(400),
        0x8d => Some(404),
        _ => None,
    }
}
