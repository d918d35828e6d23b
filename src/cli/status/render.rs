//! The state as text, for a terminal.

use std::fmt::Write as _;

use serde_json::Value;

use crate::telemetry::log::steers;

/// What `/status` and `/history` say, a line per subject.
pub(super) fn render(state: &Value, past: &Value) -> String {
    let mut lines = Lines::default();
    lines.put(
        "gateway",
        &format!(
            "{}, {}, up {}",
            word(&state["version"]),
            word(&state["mode"]),
            span(&state["uptime_s"])
        ),
    );
    let whose = ["host", "tenant", "cloud"].map(|name| state[name].as_str().unwrap_or("-"));
    if state["host"].is_string() {
        lines.put("", &format!("{}, tenant {}, cloud {}", whose[0], whose[1], whose[2]));
    }
    lines.problems(&state["problems"]);
    if state["mode"] == "store-lost" {
        lines.put("quota", "no call leaves: the store does not answer");
    }
    lines.quota(&state["quota"]);
    lines.queue(&state["queue"]);
    for region in list(&state["regions"]) {
        lines.put("region", &show_region(region));
    }
    lines.put("token", &show_token(&state["token"]));
    for warning in list(&state["token"]["warnings"]) {
        lines.put("", word(warning));
    }
    lines.cache(&state["cache"]);
    lines.saved(&state["saved"]);
    for finding in list(&state["merge"]["evidence"]) {
        let (operation, version) = (word(&finding["operation"]), word(&finding["version"]));
        lines.put(
            "merging",
            &format!("{operation} ({version}): {}", word(&finding["says"])),
        );
    }
    if state["merge"]["rests_for_s"].is_number() {
        let (rest, why) = (
            span(&state["merge"]["rests_for_s"]),
            word(&state["merge"]["rests_because"]),
        );
        lines.put("merging", &format!("rests for another {rest}: {why}"));
    }
    lines.past(past);
    lines.recent_errors(&state["trouble"]);
    lines.0
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    /// One line. Names and reasons come from outside: nothing in them may steer the terminal.
    fn put(&mut self, name: &str, value: &str) {
        let value = value.replace(steers, "?");
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{name:<9} {value}");
    }

    fn problems(&mut self, problems: &Value) {
        for problem in list(problems) {
            let (code, severity) = (word(&problem["code"]), word(&problem["severity"]));
            let since = span(&problem["since_s"]);
            // Mistakes of a file come in lines.
            let message = word(&problem["message"]).replace('\n', "; ");
            self.put("problem", &format!("{code} ({severity}, for {since}): {message}"));
            self.put("", &format!("→ {}", word(&problem["advice"])));
        }
    }

    fn quota(&mut self, quota: &Value) {
        // Where each operation is counted by itself, the figures above them are of no single one.
        match quota["operations"].as_object() {
            Some(operations) => {
                for (name, one) in operations {
                    self.put("operation", name);
                    self.ledger(one);
                }
            }
            None => self.ledger(quota),
        }
        if let Some(replicas) = quota["replicas"].as_u64() {
            self.put("shared", &format!("by {replicas} gateways"));
        }
    }

    fn ledger(&mut self, quota: &Value) {
        if quota["paused_until_s"].is_number() {
            let pause = span(&quota["paused_until_s"]);
            self.put("paused", &format!("for another {pause}: the upstream answered 429"));
        }
        for window in list(&quota["windows"]) {
            let (left, limit) = (number(&window["remaining"]), number(&window["limit"]));
            let next = if left < limit {
                format!(", next in {}", span(&window["reset_s"]))
            } else {
                String::new()
            };
            let name = word(&window["name"]);
            self.put(
                "quota",
                &format!("{name:<3} {} {left} of {limit} left{next}", bar(limit - left, limit)),
            );
        }
        let pace = &quota["pace"];
        if pace.is_object() {
            let tokens = number(&pace["tokens"]).floor();
            let (capacity, rate) = (number(&pace["capacity"]), number(&pace["per_minute"]));
            let window = word(&pace["window"]);
            self.put(
                "pace",
                &format!(
                    "{tokens} of {capacity} calls may leave at once; the {window} window allows {rate:.0} more a minute"
                ),
            );
        }
        let in_flight = number(&quota["in_flight"]);
        if in_flight > 0.0 {
            self.put("in flight", &format!("{in_flight} calls"));
        }
        let foreign = number(&quota["foreign_calls"]);
        if foreign > 0.0 {
            self.put(
                "others",
                &format!("{foreign} calls by others on the same app registration, as estimated"),
            );
        }
    }

    fn queue(&mut self, queue: &Value) {
        let (waiting, callers) = (number(&queue["waiting"]), number(&queue["callers"]));
        let newcomer = match queue["predicted_wait_s"] {
            Value::Number(_) => format!("; a newcomer would wait {}", span(&queue["predicted_wait_s"])),
            _ => String::new(),
        };
        self.put("queue", &format!("{waiting} waiting from {callers} callers{newcomer}"));
        let others = number(&queue["waiting_with_callers_tokens"]);
        if others > 0.0 {
            self.put(
                "",
                &format!("{others} more wait with tokens of their own, each token by itself"),
            );
        }
        for share in list(&queue["shares"]).iter().take(5) {
            self.put("", &show_share(share));
        }
    }

    fn cache(&mut self, cache: &Value) {
        let kib = number(&cache["bytes"]) / 1024.0;
        let [entries, hits, misses, stale] = ["entries", "hits", "misses", "stale"].map(|name| number(&cache[name]));
        self.put(
            "cache",
            &format!("{entries} answers, {kib:.0} KiB; {hits} hits, {stale} stale, {misses} misses"),
        );
    }

    fn saved(&mut self, saved: &Value) {
        let (requests, calls) = (number(&saved["requests"]), number(&saved["upstream_calls"]));
        self.put(
            "saved",
            &format!("{requests} requests answered with {calls} upstream calls"),
        );
        let by = ["hit", "stale", "collapsed", "merged", "partial", "forwarded"]
            .map(|name| (name, number(&saved["by"][name])))
            .into_iter()
            .filter(|(_, count)| *count > 0.0)
            .map(|(name, count)| format!("{count} {name}"));
        let by = by.collect::<Vec<_>>().join(", ");
        if !by.is_empty() {
            self.put("", &by);
        }
        let per_call = &saved["per_call"];
        if per_call.is_object() {
            let (now, best) = (number(&per_call["now"]), number(&per_call["best"]));
            self.put(
                "",
                &format!("{now} per call in ten minutes; {best} if each call asked for all it may"),
            );
        }
    }

    /// The last hour as small bars, a minute each.
    fn past(&mut self, past: &Value) {
        let per_minute = (60.0 / number(&past["step_s"]).max(1.0)).round().max(1.0);
        let outcomes = [
            "from_memory",
            "shared_call",
            "own_call",
            "refused",
            "failed",
            "invalid",
            "gone",
        ];
        // How many wait is a level, of which a minute has many.
        let sum: fn(f64, f64) -> f64 = |one, other| one + other;
        for (name, columns, join, unit) in [
            ("requests", &outcomes[..], sum, "a minute"),
            ("calls", &["upstream_calls"], sum, "a minute"),
            ("waiting", &["waiting"], f64::max, "at once"),
        ] {
            let length = list(&past[columns[0]]).len();
            let steps = (0..length).map(|step| columns.iter().map(|column| number(&past[column][step])).sum::<f64>());
            let steps = steps.collect::<Vec<f64>>();
            // From the newest backwards, so that only the oldest minute can be short.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 1 and 60"
            )]
            let minutes = steps.rchunks(per_minute as usize).rev();
            let minutes: Vec<f64> = minutes.map(|steps| steps.iter().copied().fold(0.0, join)).collect();
            if let Some(most) = minutes.iter().copied().reduce(f64::max) {
                self.put(name, &format!("{} at most {most} {unit}", sparks(&minutes, most)));
            }
        }
    }

    fn recent_errors(&mut self, trouble: &Value) {
        let [refused, failed, invalid, gone] =
            ["refused", "failed", "invalid", "gone"].map(|name| number(&trouble[name]));
        self.put(
            "trouble",
            &format!("{refused} refused, {failed} failed, {invalid} invalid, {gone} gone"),
        );
        for incident in list(&trouble["latest"]).iter().take(3) {
            let (ago, status) = (span(&incident["ago_s"]), number(&incident["status"]));
            let reason = incident["reason"]
                .as_str()
                .unwrap_or_else(|| word(&incident["outcome"]));
            let caller = incident["caller"].as_str().map(|name| format!(" {name}:"));
            self.put(
                "",
                &format!("{ago} ago: {status}{} {reason}", caller.unwrap_or_default()),
            );
        }
    }
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
        String::new()
    } else {
        format!("  left: {}", region["left_for"].as_str().unwrap_or("for a moment"))
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

/// Full as far as is spent.
fn bar(spent: f64, limit: f64) -> String {
    let full = if limit > 0.0 {
        (spent / limit * 20.0).ceil().clamp(0.0, 20.0)
    } else {
        0.0
    };
    (0..20)
        .map(|place| if f64::from(place) < full { '█' } else { '░' })
        .collect()
}

fn sparks(values: &[f64], most: f64) -> String {
    const HEIGHTS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let height = |value: &f64| (value / most.max(1.0) * 8.0).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 8")]
    values
        .iter()
        .map(|value| HEIGHTS[(height(value) as usize).min(8)])
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
