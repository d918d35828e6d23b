//! The rules about everything but addresses, one test each.

use std::time::Duration;

use super::{assert_one, mistakes, resolved, signed_in};

#[test]
fn limits_are_few_and_of_different_windows() {
    assert_one(
        "[quota]\nlimits = []",
        &[],
        "g.toml:2:10: quota.limits: holds 0 limits",
        "",
    );
    assert_one(
        "[quota]\nlimits = [\"1/1s\",\"2/2s\",\"3/3s\",\"4/4s\",\"5/5s\"]",
        &[],
        "g.toml:2:10: quota.limits: holds 5",
        "",
    );
    assert_one(
        "[quota]\nlimits = [\"1/1m\", \"2/60s\"]",
        &[],
        "g.toml:2:19: quota.limits: ",
        "have the same window",
    );
}

#[test]
fn a_burst_above_the_tightest_limit_is_lowered_and_noted() {
    let loaded = signed_in("[quota]\nlimits = [\"10/1s\", \"50/1m\"]\nburst = 100", &[]).unwrap();
    assert_eq!(loaded.resolved.quota.burst.get(), 10);
    assert_eq!(
        loaded.notes,
        ["quota.burst: 100 is more than the limits allow at once; 10 is used"]
    );
    let loaded = signed_in("[quota]\nlimits = [\"10/1s\"]", &[]).unwrap();
    assert_eq!((loaded.resolved.quota.burst.get(), loaded.notes.len()), (10, 0));
}

#[test]
fn a_key_of_the_version_before_is_noted_and_means_nothing() {
    let loaded = signed_in("[defender]\nhedge = true", &[]).unwrap();
    assert_eq!(loaded.notes.len(), 1);
    assert!(
        loaded.notes[0].starts_with("defender.hedge is gone"),
        "{:?}",
        loaded.notes
    );
    let loaded = signed_in("", &[("DEFENDER_GATEWAY_DEFENDER_HEDGE", "maybe")]).unwrap();
    assert!(
        loaded
            .notes
            .concat()
            .starts_with("DEFENDER_GATEWAY_DEFENDER_HEDGE is gone"),
        "{:?}",
        loaded.notes
    );
    let mistakes = signed_in("[defender]\nhedges = true", &[]).unwrap_err();
    assert!(mistakes.to_string().contains("defender.hedges"), "{mistakes}");
}

#[test]
fn a_limit_that_cannot_be_used_up_is_noted() {
    let loaded = signed_in("[quota]\nlimits = [\"100/1m\", \"50/1h\"]", &[]).unwrap();
    assert_eq!(
        loaded.notes,
        ["quota.limits: 100/1m can never be used up, because 50/1h allows fewer calls in a longer time"]
    );
}

#[test]
fn the_state_file_has_a_directory() {
    assert_eq!(
        resolved("[quota]\nstate_file = \"/etc/new\"", &[]).quota.state_file,
        Some("/etc/new".into())
    );
    resolved("[quota]\nstate_file = \"here\"", &[]);
    assert_one(
        "[quota]\nstate_file = \"/nowhere/x\"",
        &[],
        "g.toml:2:14: quota.state_file: /nowhere: there is no such directory",
        "",
    );
    assert_one(
        "[quota]\nstate_file = \"/etc\"",
        &[],
        "g.toml:2:14: quota.state_file: /etc: is a directory",
        "",
    );
}

#[test]
fn nobody_waits_longer_than_the_limit() {
    assert_one(
        "[queue]\nmax_wait = \"2m\"\nmax_wait_limit = \"1m\"",
        &[],
        "g.toml:2:12: queue.max_wait: queue.max_wait is 2m, longer than queue.max_wait_limit, 1m",
        "",
    );
    assert_one(
        "[queue]\nmax_wait_limit = \"10s\"",
        &[],
        "g.toml:2:18: queue.max_wait_limit: queue.max_wait (its default) is 20s, longer than",
        "",
    );
    let equal = resolved("[queue]\nmax_wait = \"1m\"\nmax_wait_limit = \"60s\"", &[]).queue;
    assert_eq!(equal.max_wait, equal.max_wait_limit);
}

#[test]
fn one_caller_never_has_more_places_than_there_are() {
    let queue = resolved("[queue]\nmax_requests = 10", &[]).queue;
    assert_eq!(queue.max_requests_per_caller.get(), 10);
}

#[test]
fn a_caller_is_not_named_by_a_credential() {
    assert_one(
        "[queue]\ncaller_header = \"Authorization\"",
        &[],
        "g.toml:2:17: queue.caller_header: ",
        "carries a credential",
    );
    assert_one(
        "[queue]\ncaller_header = \"a b\"",
        &[],
        "g.toml:2:17: queue.caller_header: \"a b\" is no header name",
        "",
    );
    assert_eq!(resolved("[queue]\ncaller_header = \"\"", &[]).queue.caller_header, None);
    assert_eq!(
        resolved("[queue]\ncaller_header = \"X-Team\"", &[])
            .queue
            .caller_header
            .unwrap(),
        "x-team"
    );
}

#[test]
fn the_cache_can_be_off_and_fair_use_on() {
    let resolved = resolved("[cache]\nttl = \"0s\"\n[callers]\nlimit = \"600/1m\"", &[]);
    assert_eq!(resolved.cache.ttl, Duration::ZERO);
    assert_eq!(resolved.callers.limit.unwrap().to_string(), "600/1m");
    assert_one(
        "[callers]\nlimit = \"600\"",
        &[],
        "g.toml:2:9: callers.limit: \"600\" is no limit",
        "",
    );
}

#[test]
fn stores_have_a_known_scheme_and_a_host() {
    for url in [
        "redis://h",
        "rediss://u:p@h:6380/1",
        "redis+sentinel://a:26379/mymaster",
        "rediss+sentinel://a/mymaster",
        "redis+cluster://a:7000",
        "redis+unix:///run/redis.sock",
    ] {
        assert!(
            resolved(&format!("[store]\nurl = \"{url}\""), &[]).store.url.is_some(),
            "{url}"
        );
    }
    for (url, holds) in [
        ("http://h", "unknown scheme"),
        ("redis://", "has no host"),
        ("redis:h", "has no host"),
        ("h:6379", "unknown scheme"),
        ("redis+unix://h/x", "no absolute path"),
        ("/run/redis.sock", "is no address"),
    ] {
        assert_one(
            &format!("[store]\nurl = \"{url}\""),
            &[],
            "g.toml:2:7: store.url: the value ",
            holds,
        );
    }
    assert_one(
        "[store]\nprefix = \"a b\"",
        &[],
        "g.toml:2:10: store.prefix: \"a b\" cannot begin a name",
        "",
    );
    assert_one("[store]\nprefix = \"\"", &[], "g.toml:2:10: store.prefix: ", "");
}

#[test]
fn log_directives_parse_and_mean_something() {
    for good in [
        "off",
        "INFO",
        "info,defender_gateway::testing::quota=debug",
        "warn,hyper=off",
        " warn, hyper=off ,",
        "mycrate=debug",
    ] {
        resolved(&format!("[telemetry]\nlog = \"{good}\""), &[]);
    }
    for (bad, holds) in [
        ("info,x=loud", "cannot be read as directives"),
        ("infoo", "did you mean info?"),
        ("warn,degub", "did you mean debug?"),
        ("bogus", "a module is written with one, such as bogus=debug"),
        ("info,tokio_util", "such as tokio_util=debug"),
        ("info,defender_gateway[call]=debug", "cannot be read as directives"),
        ("", "is empty"),
        (" , ", "is empty"),
        ("info,hyper = off", "cannot be read as directives"),
    ] {
        assert_one(
            &format!("[telemetry]\nlog = \"{bad}\""),
            &[],
            "g.toml:2:7: telemetry.log: ",
            holds,
        );
    }
    assert_one(
        "[telemetry]\notlp_endpoint = \"grpc://c:4317\"",
        &[],
        "g.toml:2:17: telemetry.otlp_endpoint: ",
        "unknown scheme",
    );
    assert_one(
        "[telemetry]\notlp_endpoint = \"http://a{b/\"",
        &[],
        "g.toml:2:17: telemetry.otlp_endpoint: ",
        "no address that a request can be sent to",
    );
}

#[test]
fn named_files_exist_and_hold_something() {
    for (path, holds) in [
        ("/etc/none", "there is no such file"),
        ("/etc/empty", "the file is empty"),
        ("/etc", "is a directory"),
        ("/etc/!", "may not be read by this user"),
    ] {
        assert_one(
            &format!("[defender]\nca_file = \"{path}\""),
            &[],
            "g.toml:2:11: defender.ca_file: ",
            holds,
        );
    }
    assert_eq!(
        resolved("[defender]\nca_file = \"/etc/ca.pem\"", &[]).defender.ca_file,
        Some("/etc/ca.pem".into())
    );
}

#[test]
fn ranges_hold_at_both_ends() {
    for (section, key, good, bad) in [
        ("server", "drain", ["\"0s\"", "\"1h\""], "\"61m\""),
        ("server", "linger", ["\"0s\"", "\"5m\""], "\"6m\""),
        ("server", "max_body", ["\"1KiB\"", "\"64MiB\""], "\"1023B\""),
        ("defender", "timeout", ["\"1s\"", "\"10m\""], "\"999ms\""),
        ("queue", "max_requests", ["1", "1000000"], "1000001"),
        ("cache", "max_size", ["\"64KiB\"", "\"1024GiB\""], "\"1B\""),
        ("merge", "max_ids", ["2", "10000"], "1"),
        ("merge", "gather", ["\"0s\"", "\"1s\""], "\"1001ms\""),
        ("store", "timeout", ["\"1ms\"", "\"10s\""], "\"0s\""),
    ] {
        for value in good {
            resolved(&format!("[{section}]\n{key} = {value}"), &[]);
        }
        let lines = mistakes(&format!("[{section}]\n{key} = {bad}"), &[]);
        assert!(lines[0].contains("is out of range; allowed is "), "{lines:#?}");
    }
}
