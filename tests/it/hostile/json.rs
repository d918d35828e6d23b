//! Bodies that are hard to read.

use super::bench::{Bench, FORBIDDEN, request};
use crate::support::body;

fn ids(count: usize) -> String {
    let ids: Vec<_> = (0..count).map(|n| format!("{FORBIDDEN}{n}")).collect();
    String::from_utf8(body(&ids).to_vec()).unwrap()
}

/// What is sent, and the statuses that are right.
fn bombs() -> Vec<(&'static str, String, u16)> {
    let of = |value: &str| format!("{{\"ScanDefinitionIds\":{value}}}");
    let deep = |open: &str, close: &str, depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
    vec![
        ("nothing", String::new(), 400),
        ("lists in lists", deep("[", "]", 400_000), 400),
        ("objects in objects", deep("{\"a\":", "}", 100_000), 400),
        ("lists in the ids", of(&deep("[", "]", 200_000)), 400),
        ("lists without end", "[".repeat(1_000_000), 400),
        (
            "a text without end",
            format!("{{\"ScanDefinitionIds\":[\"{}", "x".repeat(900_000)),
            400,
        ),
        (
            "escapes without end",
            of(&format!("[\"{}\"]", "\\u0061".repeat(150_000))),
            400,
        ),
        (
            "a doubled member",
            "{\"ScanDefinitionIds\":[\"a\"],\"ScanDefinitionIds\":[\"smuggled\"]}".into(),
            400,
        ),
        (
            "a doubled member, one escaped",
            "{\"ScanDefinitionIds\":[\"a\"],\"\\u0053canDefinitionIds\":[\"smuggled\"]}".into(),
            400,
        ),
        (
            "another member",
            "{\"ScanDefinitionIds\":[\"smuggled\"],\"x\":1}".into(),
            400,
        ),
        ("a lone surrogate", of("[\"\\ud800\"]"), 400),
        ("surrogates in the wrong order", of("[\"\\udc00\\ud800\"]"), 400),
        ("a number without a value", of("[1e999]"), 400),
        (
            "a number of many digits",
            of(&format!("[{}]", "9".repeat(900_000))),
            400,
        ),
        ("a name that is a number", of("[NaN]"), 400),
        ("a huge id", of(&format!("[\"{}\"]", "x".repeat(900_000))), 400),
        ("an empty id", of("[\"\"]"), 400),
        ("no ids", of("[]"), 400),
        ("no text", of("[null,true,{}]"), 400),
        ("too many ids", ids(50_000), 400),
        ("a million ids", ids(1_000_000), 413),
        (
            "the same id 100,000 times",
            of(&format!("[{}\"x\"]", "\"x\",".repeat(100_000))),
            400,
        ),
        ("two documents", format!("{}{}", ids(1), ids(1)), 400),
        ("two byte order marks", format!("\u{feff}\u{feff}{}", ids(1)), 400),
        ("a comment", format!("/**/{}", ids(1)), 400),
        ("spaces only", " ".repeat(1_000_000), 400),
    ]
}

#[tokio::test]
async fn bodies_that_are_hard_to_read_are_refused_and_leave_nothing_behind() {
    let bench = Bench::start().await;
    let before = bench.held();
    let mut wrong = Vec::new();
    for (name, body, right) in bombs() {
        let mut wire = bench.connect().await;
        let sent = request("POST", "", &body);
        // A body that is too long by its length alone need not be taken.
        wire.press(sent.as_bytes(), std::time::Duration::from_secs(5)).await;
        let status = wire.reply().await;
        if status != Some(right) {
            wrong.push(format!("{name}: {status:?} instead of {right}"));
        }
        bench.honest(name).await;
    }
    // Not UTF-8, which a text cannot hold.
    for bytes in [
        &b"{\"ScanDefinitionIds\":[\"\xff\"]}"[..],
        b"\xff\xfe{\0",
        b"\x1f\x8b\x08\0\0\0\0\0",
    ] {
        let mut wire = bench.connect().await;
        let head = request("POST", "", &" ".repeat(bytes.len()));
        wire.send(&[&head.as_bytes()[..head.len() - bytes.len()], bytes].concat())
            .await;
        assert_eq!(wire.reply().await, Some(400), "{bytes:?}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    bench.assert_nothing_got_through("all of them");
    bench.returned_to(before, 32 * 1024).await;
    bench.finish().await;
}
