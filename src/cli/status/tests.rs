//! What the state looks like in a terminal.

use serde_json::{Value, json};

use super::drawn;
use super::render::render;

#[test]
fn a_state_is_shown_and_an_empty_one_does_no_harm() {
    let state = json!({
        "version": "1.0", "uptime_s": 3.0, "mode": "degraded", "host": "pod-1", "tenant": "t", "cloud": "public",
        "problems": [{"code": "no-token", "severity": "critical", "since_s": 9.0, "count": 1,
                      "message": "there is no valid token\nor two", "advice": "set it"}],
        "quota": {"windows": [{"name": "1m", "limit": 100, "used": 63, "remaining": 37, "reset_s": 12.0}], "paused_until_s": 8.0},
        "queue": {"waiting": 7, "callers": 2, "predicted_wait_s": 4.8, "shares": [
            {"caller": "soar", "waiting": 6, "served": 31, "position": 1, "next_turn_s": 2.4, "last_turn_s": 26.4}]},
        "token": {"kind": "client_secret", "expires_in_s": null,
                  "last_error": {"code": "AADSTS7000215", "advice": "set the secret's value"}},
    });
    let text = render(&state, &json!({}));
    assert!(
        text.contains(
            "problem   no-token (critical, for 9.0 s): there is no valid token; or two\n          → set it\n"
        ),
        "{text}"
    );
    assert!(text.contains("pod-1, tenant t, cloud public"), "{text}");
    assert!(text.contains("37 of 100 left, next in 12 s"), "{text}");
    assert!(text.contains("█████████████░░░░░░░"), "{text}");
    assert!(text.contains("AADSTS7000215: set the secret's value"), "{text}");
    assert!(text.contains("for another 8.0 s"), "{text}");
    assert!(
        text.contains("6 waiting, 1 before its next in 2.4 s, its last in 26 s; 31 calls"),
        "{text}"
    );
    assert!(render(&json!({}), &Value::Null).contains("queue"));
}

#[test]
fn the_last_hour_is_drawn_a_minute_a_column() {
    let past = json!({"step_s": 20, "from_memory": [9, 0, 0, 4, 4, 0], "shared_call": [0, 0, 0, 0, 0, 0],
        "own_call": [0, 0, 0, 0, 0, 0], "refused": [0, 0, 0, 0, 8, 0], "failed": [0, 0, 0, 0, 0, 0],
        "upstream_calls": [0, 0, 0, 0, 0, 0], "waiting": [0, 7, 0, 0, 0, 0]});
    let text = render(&json!({}), &past);
    assert!(text.contains("requests  ▅█ at most 16 a minute"), "{text}");
    assert!(text.contains("calls        at most 0 a minute"), "{text}");
    assert!(text.contains("waiting   █  at most 7 at once"), "{text}");
}

#[test]
fn a_quota_looks_free_when_it_is_and_only_then() {
    let quota = |remaining: u64, reset_s: f64| json!({"windows": [{"name": "1m", "limit": 100, "used": 0, "remaining": remaining, "reset_s": reset_s}]});
    let text = render(&json!({"mode": "normal", "quota": quota(100, 60.0)}), &Value::Null);
    assert!(
        text.contains("quota     1m  ░░░░░░░░░░░░░░░░░░░░ 100 of 100 left\n"),
        "{text}"
    );
    // A pause, which others may have caused.
    let mut paused = quota(98, 30.0);
    paused["paused_until_s"] = 40.into();
    let text = render(&json!({"mode": "degraded", "quota": paused}), &Value::Null);
    assert!(
        text.contains("paused    for another 40 s: the upstream answered 429\nquota     1m  █░░░░░░░░░░░░░░░░░░░ 98 of 100 left, next in 30 s\n"),
        "{text}"
    );
    let text = render(&json!({"mode": "store-lost", "quota": quota(100, 60.0)}), &Value::Null);
    assert!(
        text.contains("quota     no call leaves: the store does not answer\nquota     1m"),
        "{text}"
    );
    assert!(!text.contains("a newcomer would wait"), "{text}");
}

#[test]
fn each_operation_has_its_own_quota_and_who_brings_a_token_its_own_queue() {
    let quota = |remaining: u64, paused: Option<f64>, in_flight: u64, foreign: u64| {
        json!({"windows": [{"name": "1m", "limit": 100, "used": 0, "remaining": remaining, "reset_s": 9.0}],
            "paused_until_s": paused, "in_flight": in_flight, "foreign_calls": foreign})
    };
    let mut all = quota(98, Some(30.0), 3, 12);
    all["operations"] = json!({"agents": quota(0, Some(30.0), 2, 12), "history_by_definition": quota(98, None, 0, 0)});
    all["replicas"] = 2.into();
    let text = render(
        &json!({"quota": all, "queue": {"waiting_with_callers_tokens": 300}}),
        &Value::Null,
    );
    let expected = "operation agents
paused    for another 30 s: the upstream answered 429
quota     1m  ████████████████████ 0 of 100 left, next in 9.0 s
in flight 2 calls
others    12 calls by others on the same app registration, as estimated
operation history_by_definition
quota     1m  █░░░░░░░░░░░░░░░░░░░ 98 of 100 left, next in 9.0 s
shared    by 2 gateways
";
    assert!(text.contains(expected), "{text}");
    assert!(text.contains("300 more wait with tokens of their own"), "{text}");
}

#[test]
fn merging_that_rests_says_so() {
    let merge = json!({"mode": "on", "evidence": null, "rests_for_s": 600.0, "rests_because": "an answer has no ids"});
    let text = render(&json!({"merge": merge}), &Value::Null);
    assert!(
        text.contains("merging   rests for another 10 min: an answer has no ids\n"),
        "{text}"
    );
    assert!(!render(&json!({"merge": {"rests_for_s": null}}), &Value::Null).contains("merging"));
}

#[test]
fn nothing_that_a_caller_sends_steers_the_terminal() {
    let state = json!({"trouble": {"latest": [{"ago_s": 1.0, "status": 429, "reason": "evil \u{1b}[2J\nli\u{202e}ne"}]},
        "queue": {"shares": [{"caller": "\u{1b}]0;title\u{7}"}]}});
    let text = render(&state, &Value::Null);
    assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text}");
    assert!(text.contains("evil ?[2J?li?ne"), "{text}");
}

#[test]
fn nothing_is_drawn_outside_the_terminal_and_what_is_cut_is_marked() {
    let text = "gateway 1\nquota █████████████\nqueue\n";
    assert_eq!(
        drawn(text, usize::MAX, usize::MAX),
        "\u{1b}[Hgateway 1\u{1b}[K\nquota █████████████\u{1b}[K\nqueue\u{1b}[K\u{1b}[J"
    );
    let small = drawn(text, 2, 10);
    assert_eq!(small, "\u{1b}[Hgateway 1\u{1b}[K\n… 2 more …\u{1b}[K\u{1b}[J");
    assert_eq!(drawn(text, 3, 10).matches('\n').count(), 2);
}
