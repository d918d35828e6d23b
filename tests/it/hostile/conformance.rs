//! What RFC 9113 and RFC 7541 demand of a server, each demand broken once.
//!
//! A stream's error may always be treated as the connection's (RFC 9113 §5.4.2), and a connection
//! may end without a word (§5.4.1); a malformed request may be answered with an error before its
//! stream is reset (§8.1.1).
//!
//! Two deviations, both of the HTTP/2 library and without consequence. Some connections end with
//! `PROTOCOL_ERROR` where a more exact code is asked for (`COMPRESSION_ERROR`, `FRAME_SIZE_ERROR`,
//! …): they end all the same, and the rows with such an end are printed. And a pseudo field in
//! trailers is dropped, not refused: trailers are not read at all.

use super::bench::{Bench, history_body};
use super::conformance_cases::{connections, requests, settings};
use super::frame::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, PING, PREFACE, SETTINGS, Said, block, frame, head};
use crate::support::within;

pub(super) const PROTOCOL_ERROR: u32 = 1;
pub(super) const FLOW_CONTROL_ERROR: u32 = 3;
pub(super) const STREAM_CLOSED: u32 = 5;
pub(super) const FRAME_SIZE_ERROR: u32 = 6;
pub(super) const REFUSED_STREAM: u32 = 7;
pub(super) const COMPRESSION_ERROR: u32 = 9;

/// What is right.
#[derive(Clone, Copy, Debug)]
pub(super) enum Right {
    /// The connection is over, with one of these errors.
    Connection(&'static [u32]),
    /// The stream is over, with one of these errors; or the connection.
    Stream(&'static [u32]),
    /// The same, or the request is answered 400 or with another error.
    Malformed,
    /// It goes on, as if nothing had happened.
    Nothing,
}
use Right::{Connection, Malformed, Nothing, Stream};

pub(super) type Row = (&'static str, Vec<u8>, Right);

fn compression() -> Vec<Row> {
    let raw = |bytes: &[u8]| frame(HEADERS, END_STREAM | END_HEADERS, 1, bytes);
    let bad = Connection(&[COMPRESSION_ERROR]);
    vec![
        ("7541 2.3.3 an index that nothing has", raw(&[0xff, 0x80, 0x01]), bad),
        ("7541 6.1 index 0", raw(&[0x80]), bad),
        (
            "7541 4.2 a table above what was allowed",
            raw(&[0x3f, 0xe1, 0xff, 0x03, 0x83]),
            bad,
        ),
        ("7541 4.2 a size at the end of a block", raw(&[0x83, 0x20]), bad),
        ("7541 5.1 a number without end", raw(&[0xff; 64]), bad),
        ("7541 5.2 a text longer than the block", raw(&[0x00, 0x7e, b'x']), bad),
        (
            "7541 5.2 padding of more than seven bits",
            raw(&[0x00, 0x01, b'x', 0x82, 0x1f, 0xff]),
            bad,
        ),
        ("7541 5.2 padding with zeros", raw(&[0x00, 0x01, b'x', 0x81, 0x00]), bad),
        (
            "7541 5.2 the end symbol",
            raw(&[0x00, 0x01, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]),
            bad,
        ),
        ("4.3 half a field", raw(&[0x00]), bad),
    ]
}

/// What the gateway says about `bytes`, until it is plain whether it goes on.
async fn reaction(bench: &Bench, bytes: &[u8]) -> (Vec<Said>, bool) {
    let mut frames = Frames::open(bench, &[]).await;
    frames.0.send(bytes).await;
    frames.0.send(&frame(PING, 0, 0, b"and now?")).await;
    let mut said = Vec::new();
    loop {
        let next = within("a reaction", frames.next()).await;
        match next {
            Said::Ended => return (said, false),
            Said::Pong(pong) if pong == *b"and now?" => break,
            _ => said.push(next),
        }
    }
    // The answer to a ping may overtake the answer to a request.
    let one = |said: &Said| matches!(said, Said::Reset(1, _) | Said::Answer(1, _));
    let late = tokio::time::timeout(std::time::Duration::from_millis(200), frames.until(|said| one(&said)));
    if !said.iter().any(one)
        && let Ok(late) = late.await
    {
        said.push(late);
    }
    (said, true)
}

/// Whether the end was right but for the code, which was the most general one.
fn is_vague(right: Right, said: &[Said]) -> bool {
    let (Connection(codes) | Stream(codes)) = right else {
        return false;
    };
    said.contains(&Said::Goaway(PROTOCOL_ERROR)) && !codes.contains(&PROTOCOL_ERROR)
}

fn is_right(right: Right, said: &[Said], goes_on: bool) -> bool {
    let over = |codes: &[u32]| {
        let mut farewells = said.iter().filter_map(|said| match said {
            Said::Goaway(code) => Some(code),
            _ => None,
        });
        !goes_on && farewells.all(|code| codes.contains(code) || *code == PROTOCOL_ERROR)
    };
    let reset = |codes: &[u32]| {
        said.iter()
            .any(|said| matches!(said, Said::Reset(_, code) if codes.contains(code)))
    };
    match right {
        Connection(codes) => over(codes),
        Stream(codes) => over(codes) || reset(codes),
        Malformed => {
            over(&[PROTOCOL_ERROR])
                || reset(&[PROTOCOL_ERROR])
                || said
                    .iter()
                    .any(|said| matches!(said, Said::Answer(_, status) if *status != Some(200)))
        }
        Nothing => {
            goes_on
                && said
                    .iter()
                    .all(|said| !matches!(said, Said::Goaway(_) | Said::Reset(..)))
        }
    }
}

#[tokio::test]
async fn every_demand_on_an_http_2_server_is_met() {
    let bench = Bench::start().await;
    let before = bench.held();
    let rows = [connections(), settings(), requests(), compression()].concat();
    let (count, mut wrong, mut vague) = (rows.len(), Vec::new(), Vec::new());
    for (name, bytes, right) in rows {
        let (said, goes_on) = reaction(&bench, &bytes).await;
        if !is_right(right, &said, goes_on) {
            wrong.push(format!("{name}: {said:?}, goes on: {goes_on}; right were {right:?}"));
        }
        if is_vague(right, &said) {
            vague.push(name);
        }
        bench.honest(name).await;
    }
    println!("{count} demands, {} met with a vaguer code: {vague:?}", vague.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    bench.assert_nothing_got_through("all of them");
    bench.returned_to(before, 16 * 1024).await;
    bench.finish().await;
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_and_a_broken_preface_is_none() {
    let bench = Bench::start().await;
    let mut frames = Frames::open(&bench, &[]).await;
    let heads: Vec<u8> = (0..=100).flat_map(|n| head(0, 2 * n + 1, &[])).collect();
    frames.0.send(&heads).await;
    let said = within("a refusal", frames.next()).await;
    assert!(
        matches!(said, Said::Reset(201, REFUSED_STREAM | PROTOCOL_ERROR)),
        "{said:?}"
    );
    drop(frames);
    let mut wire = bench.connect().await;
    wire.send(&[&PREFACE[..20], b"XX\r\n", &frame(SETTINGS, 0, 0, &[])].concat())
        .await;
    wire.ended().await;
    let mut wire = bench.connect().await;
    wire.send(&[PREFACE, &frame(PING, 0, 0, &[0; 8])].concat()).await;
    wire.ended().await;
    bench.honest("them").await;
    bench.assert_nothing_got_through("them");
    bench.finish().await;
}

#[tokio::test]
async fn trailers_change_nothing_about_a_request() {
    let bench = Bench::start().await;
    let known = bench.known().await;
    for trailers in [
        &[("x", "y")][..],
        &[(":path", "/elsewhere")],
        &[("authorization", "Bearer x")],
    ] {
        let mut frames = Frames::open(&bench, &[]).await;
        let body = frame(DATA, 0, 1, history_body(&known).as_bytes());
        let end = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(trailers));
        frames.0.send(&[head(0, 1, &[]), body, end].concat()).await;
        let said = within("an answer", frames.next()).await;
        assert_eq!(said, Said::Answer(1, Some(200)), "{trailers:?}");
    }
    bench.assert_nothing_got_through("them");
    bench.finish().await;
}
