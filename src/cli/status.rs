//! `status`: the running gateway's state in a terminal.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use serde_json::Value;
use tower::ServiceExt as _;

use super::runtime::block_on;
use super::{Error, Status, print};
use crate::net;

/// Asks the admin listener and prints what it says; with `--watch`, again every second until Ctrl-C.
///
/// # Errors
/// When nobody answers at the address.
pub fn status(asked: &Status) -> Result<(), Error> {
    block_on(None, async {
        let client = net::Client::new(&net::Config::default());
        let client = client.map_err(|error| Error::failed("cannot make a client", error))?;
        let exchange = client.exchange(LARGEST, PATIENCE);
        if !asked.watch {
            return print(&show(&fetch(&exchange, &asked.admin).await?));
        }
        loop {
            let state = fetch(&exchange, &asked.admin).await?;
            // Home, the state, and whatever the last one left below it.
            let text = show(&state).replace('\n', "\u{1b}[K\n");
            print(&format!("\u{1b}[H{text}\u{1b}[J"))?;
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
        }
    })
}

const LARGEST: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(5);

async fn fetch(exchange: &net::Exchange, admin: &str) -> Result<Value, Error> {
    let base = if admin.contains("://") {
        admin.to_owned()
    } else {
        format!("http://{admin}")
    };
    let unreachable = |why: String| Error::user(format!("no gateway answers at {base}: {why}"));
    let request = Request::get(format!("{}/status", base.trim_end_matches('/'))).body(Bytes::new());
    let request = request.map_err(|error| Error::user(format!("{admin} is no address: {error}")))?;
    let answer = exchange
        .clone()
        .oneshot(request)
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    if !answer.status().is_success() {
        return Err(unreachable(format!(
            "it says {}; is that the admin address?",
            answer.status()
        )));
    }
    serde_json::from_slice(answer.body()).map_err(|error| unreachable(format!("its answer is no JSON: {error}")))
}

/// The state as text, a line per subject.
pub(super) fn show(state: &Value) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<9} {value}");
    };
    let version = state["version"].as_str().unwrap_or("?");
    line(
        "gateway",
        format!("{version}, {}, up {}", word(&state["mode"]), span(&state["uptime_s"])),
    );
    for window in list(&state["quota"]["windows"]) {
        let (used, limit) = (number(&window["used"]), number(&window["limit"]));
        let left = format!(
            "{} of {limit} left, next in {}",
            number(&window["remaining"]),
            span(&window["reset_s"])
        );
        line(
            "quota",
            format!("{:<3} {} {left}", word(&window["name"]), bar(used, limit)),
        );
    }
    if state["quota"]["paused_until_s"].is_number() {
        let pause = span(&state["quota"]["paused_until_s"]);
        line("paused", format!("for another {pause}: the upstream answered 429"));
    }
    if number(&state["quota"]["foreign_calls"]) > 0.0 {
        let calls = number(&state["quota"]["foreign_calls"]);
        line(
            "others",
            format!("{calls} calls by others on the same app registration"),
        );
    }
    let queue = &state["queue"];
    let (waiting, callers) = (number(&queue["waiting"]), number(&queue["callers"]));
    let wait = span(&queue["predicted_wait_s"]);
    line(
        "queue",
        format!("{waiting} waiting from {callers} callers; a newcomer would wait {wait}"),
    );
    for share in list(&queue["shares"]).iter().take(5) {
        line("", show_share(share));
    }
    for region in list(&state["regions"]) {
        line("region", show_region(region));
    }
    line("token", show_token(&state["token"]));
    for warning in list(&state["token"]["warnings"]) {
        line("", word(warning).to_owned());
    }
    let cache = &state["cache"];
    let kib = number(&cache["bytes"]) / 1024.0;
    let (entries, hits, misses) = (
        number(&cache["entries"]),
        number(&cache["hits"]),
        number(&cache["misses"]),
    );
    line(
        "cache",
        format!("{entries} answers, {kib:.0} KiB; {hits} hits, {misses} misses"),
    );
    let saved = &state["saved"];
    line(
        "saved",
        format!(
            "{} requests answered with {} upstream calls",
            number(&saved["requests"]),
            number(&saved["upstream_calls"])
        ),
    );
    text
}

fn show_share(share: &Value) -> String {
    let (waiting, served) = (number(&share["waiting"]), number(&share["served"]));
    let turns = match share["position"].as_u64() {
        Some(position) => format!(
            ", {position} before its next in {}, its last in {}",
            span(&share["next_turn_s"]),
            span(&share["last_turn_s"])
        ),
        None => String::new(),
    };
    format!(
        "{:<24} {waiting} waiting{turns}; {served} calls",
        word(&share["caller"])
    )
}

fn show_region(region: &Value) -> String {
    let mark = if region["selected"].as_bool() == Some(true) {
        "→"
    } else {
        " "
    };
    let rtt = region["rtt_ms"]
        .as_f64()
        .map_or_else(|| "    —    ".to_owned(), |ms| format!("{ms:>6.1} ms"));
    let health = if region["healthy"].as_bool() == Some(true) {
        ""
    } else {
        "  avoided"
    };
    format!(
        "{mark} {:<8} {rtt}  {}{health}",
        word(&region["name"]),
        word(&region["url"])
    )
}

fn show_token(token: &Value) -> String {
    let life = match token["expires_in_s"].as_f64() {
        Some(_) => format!("another {}", span(&token["expires_in_s"])),
        None => "none".to_owned(),
    };
    let error = &token["last_error"];
    let trouble = match error["code"].as_str() {
        Some(code) => format!("; {code}: {}", word(&error["advice"])),
        None => String::new(),
    };
    format!("{}, {life}{trouble}", word(&token["kind"]))
}

fn bar(used: f64, limit: f64) -> String {
    let full = if limit > 0.0 {
        (used / limit * 20.0).ceil().clamp(0.0, 20.0)
    } else {
        0.0
    };
    (0..20)
        .map(|place| if f64::from(place) < full { '█' } else { '░' })
        .collect()
}

fn span(seconds: &Value) -> String {
    let seconds = number(seconds);
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_state_is_shown_and_an_empty_one_does_no_harm() {
        let state = json!({
            "version": "1.0", "uptime_s": 3.0, "mode": "normal",
            "quota": {"windows": [{"name": "1m", "limit": 100, "used": 63, "remaining": 37, "reset_s": 12.0}], "paused_until_s": 8.0},
            "queue": {"waiting": 7, "callers": 2, "predicted_wait_s": 4.8, "shares": [
                {"caller": "soar", "waiting": 6, "served": 31, "position": 1, "next_turn_s": 2.4, "last_turn_s": 26.4}]},
            "token": {"kind": "client_secret", "expires_in_s": null,
                      "last_error": {"code": "AADSTS7000215", "advice": "set the secret's value"}},
        });
        let text = show(&state);
        assert!(text.contains("37 of 100 left, next in 12 s"), "{text}");
        assert!(text.contains("█████████████░░░░░░░"), "{text}");
        assert!(text.contains("AADSTS7000215: set the secret's value"), "{text}");
        assert!(text.contains("for another 8.0 s"), "{text}");
        assert!(
            text.contains("6 waiting, 1 before its next in 2.4 s, its last in 26 s; 31 calls"),
            "{text}"
        );
        assert!(show(&json!({})).contains("queue"));
    }
}
