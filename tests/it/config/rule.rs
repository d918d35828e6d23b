//! The rules between keys, one test each.

use std::time::Duration;

use super::{assert_one, mistakes, resolved, signed_in};

#[test]
fn other_machines_are_let_in_only_on_purpose() {
    assert_one(
        "[server]\nlisten = [\"127.0.0.1:1\", \"0.0.0.0:2\"]",
        &[],
        "g.toml:2:26: server.listen[1]: http://0.0.0.0:2 can be reached by other machines",
        "server.allow_non_loopback = true",
    );
    let open = resolved("[server]\nlisten = [\"0.0.0.0:2\"]\nallow_non_loopback = true", &[]);
    assert!(!open.server.listen[0].is_local());
}

#[test]
fn addresses_that_collide_are_refused() {
    assert_one(
        "[server]\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:1\"]",
        &[],
        "g.toml:2:26: server.listen[1]: ",
        "cannot be bound",
    );
    assert_one("[server]\nlisten = []", &[], "g.toml:2:10: server.listen: is empty", "");
    assert_one(
        "[server]\nlisten = [\"127.0.0.1:9901\"]\n[admin]\nlisten = \"0.0.0.0:9901\"",
        &[],
        "g.toml:4:10: admin.listen: http://0.0.0.0:9901 cannot be bound: server.listen has http://127.0.0.1:9901",
        "",
    );
    assert_one(
        "[admin]\nlisten = \"127.0.0.1:8080\"",
        &[],
        "g.toml:2:10: admin.listen: ",
        "cannot be bound",
    );
    let many: Vec<_> = (1..=17).map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    assert_one(
        &format!("[server]\nlisten = [{}]", many.join(",")),
        &[],
        "g.toml:2:10: server.listen: holds more than 16",
        "",
    );
}

#[test]
fn socket_paths_fit_the_kernel() {
    let fits = format!("unix:/{}", "x".repeat(106));
    resolved(&format!("[server]\nlisten = [\"{fits}\"]"), &[]);
    assert_one(
        &format!("[server]\nlisten = [\"{fits}x\"]"),
        &[],
        "g.toml:2:11: server.listen[0]: ",
        "the system allows 107",
    );
}

#[test]
fn hosts_are_names_without_a_port() {
    let resolved = resolved("[server]\nhosts = [\"Gateway.Example\", \"10.0.0.1\", \"[::1]\"]", &[]);
    assert_eq!(resolved.server.hosts, ["gateway.example", "10.0.0.1", "[::1]"]);
    assert_one(
        "[server]\nhosts = [\"a:80\"]",
        &[],
        "g.toml:2:10: server.hosts[0]: \"a:80\" is no host name",
        "without a port",
    );
}

#[test]
fn a_token_is_never_sent_unencrypted() {
    assert_one(
        "[[defender.regions]]\nname = \"x\"\nurl = \"http://10.0.0.1\"",
        &[],
        "g.toml:3:7: defender.regions[0].url: the address would send a token unencrypted",
        "",
    );
    assert_one(
        "[credentials]\nauthority = \"http://idp.example\"",
        &[],
        "g.toml:2:13: credentials.authority: ",
        "unencrypted",
    );
    let text = "[[defender.regions]]\nname = \"x\"\nurl = \"http://127.0.0.1:9\"\n[credentials]\nauthority = \"http://[::1]:9\"";
    assert_eq!(
        resolved(text, &[]).defender.regions[0].url.as_str(),
        "http://127.0.0.1:9/"
    );
}

#[test]
fn regions_are_complete_named_and_different() {
    let two = "[[defender.regions]]\nname = \"a\"\nurl = \"https://a\"\n[[defender.regions]]\n";
    for (rest, begins) in [
        (
            "name = \"b\"\nurl = \"https://a/\"",
            "g.toml:4:1: defender.regions[1]: https://a/ is listed twice",
        ),
        ("name = \"b\"", "g.toml:4:1: defender.regions[1]: has no url"),
        ("url = \"https://b\"", "g.toml:4:1: defender.regions[1]: has no name"),
        (
            "name = \"B\"\nurl = \"https://b\"",
            "g.toml:5:8: defender.regions[1].name: \"B\" is no name",
        ),
        (
            "name = \"auto\"\nurl = \"https://b\"",
            "g.toml:5:8: defender.regions[1].name: \"auto\" means the nearest",
        ),
        (
            "name = \"b\"\nurl = \"https://b/api\"",
            "g.toml:6:7: defender.regions[1].url: the address holds a path",
        ),
        (
            "name = 1\nurl = \"https://b\"",
            "g.toml:5:8: defender.regions[1].name: is a number",
        ),
    ] {
        assert_one(&format!("{two}{rest}"), &[], begins, "");
    }
    assert_one(
        "",
        &[("DEFENDER_GATEWAY_DEFENDER_REGIONS", "eu")],
        "DEFENDER_GATEWAY_DEFENDER_REGIONS: ",
        "write NAME=URL",
    );
    let same_name = resolved(
        &format!("{two}name = \"a\"\nurl = \"https://b\""),
        &[("DEFENDER_GATEWAY_DEFENDER_REGION", "a")],
    );
    assert_eq!(same_name.defender.candidates().count(), 2);
}

#[test]
fn a_pin_names_a_region_that_exists() {
    assert_one(
        "[defender]\nregion = \"uae\"",
        &[],
        "g.toml:2:10: defender.region: \"uae\" is no region (did you mean ",
        "the regions are us, eu, uk, au, swa, ina, aea, global",
    );
    let eu = resolved("[defender]\nregion = \"eu\"", &[]).defender;
    let hosts: Vec<_> = eu.candidates().filter_map(|region| region.url.host_str()).collect();
    assert_eq!(
        hosts,
        ["eu.api.security.microsoft.com", "api-eu.securitycenter.microsoft.com"]
    );
}

#[test]
fn a_cloud_brings_its_hosts_authority_and_scope() {
    for (cloud, hosts, authority, scope) in [
        (
            "public",
            12,
            "https://login.microsoftonline.com/",
            "https://api.securitycenter.microsoft.com/.default",
        ),
        (
            "gcc",
            1,
            "https://login.microsoftonline.com/",
            "https://api-gcc.securitycenter.microsoft.us/.default",
        ),
        (
            "gcc-high",
            1,
            "https://login.microsoftonline.us/",
            "https://api-gov.securitycenter.microsoft.us/.default",
        ),
        (
            "dod",
            1,
            "https://login.microsoftonline.us/",
            "https://api-gov.securitycenter.microsoft.us/.default",
        ),
    ] {
        let resolved = resolved(&format!("[defender]\ncloud = \"{cloud}\""), &[]);
        assert_eq!(resolved.defender.candidates().count(), hosts);
        assert_eq!(resolved.credentials.authority.as_str(), authority);
        assert_eq!(resolved.credentials.scope, scope);
        assert_eq!(format!("{}/.default", resolved.credentials.resource()), scope);
    }
}

#[test]
fn clouds_are_not_mixed() {
    let high = "[defender]\ncloud = \"gcc-high\"\n";
    for (rest, begins) in [
        (
            "[credentials]\nauthority = \"https://login.microsoftonline.com\"",
            "g.toml:4:13: credentials.authority: ",
        ),
        (
            "[credentials]\nscope = \"https://api.securitycenter.microsoft.com/.default\"",
            "g.toml:4:9: credentials.scope: ",
        ),
        (
            "[[defender.regions]]\nname = \"eu\"\nurl = \"https://eu.api.security.microsoft.com\"",
            "g.toml:5:7: defender.regions[0].url: ",
        ),
    ] {
        assert_one(
            &format!("{high}{rest}"),
            &[],
            begins,
            "but defender.cloud is \"gcc-high\"",
        );
    }
    assert_one(
        "",
        &[("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.us/")],
        "AZURE_AUTHORITY_HOST: credentials.authority: the value signs in to the cloud \"gcc-high\" or \"dod\", but defender.cloud is \"public\"",
        "",
    );
    // Hosts of nobody in particular fit: a simulator, a private sign-in server.
    resolved(
        &format!("{high}[credentials]\nauthority = \"https://idp.example\""),
        &[],
    );
}

#[test]
fn the_authority_of_the_webhook_is_taken_with_and_without_scheme_and_slash() {
    for text in [
        "https://login.microsoftonline.com/",
        "https://login.microsoftonline.com",
        "login.microsoftonline.com",
    ] {
        let resolved = resolved("", &[("AZURE_AUTHORITY_HOST", text)]);
        assert_eq!(
            resolved.credentials.authority.as_str(),
            "https://login.microsoftonline.com/"
        );
    }
}

#[test]
fn a_scope_is_one_resource_and_default() {
    for (scope, holds) in [
        (
            "https://api.securitycenter.microsoft.com",
            "does not end with /.default",
        ),
        ("https://a/.default https://b/.default", "more than one scope"),
        ("securitycenter/.default", "names no resource"),
    ] {
        assert_one(
            &format!("[credentials]\nscope = \"{scope}\""),
            &[],
            "g.toml:2:9: credentials.scope: ",
            holds,
        );
    }
}

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
        "g.toml:2:18: queue.max_wait_limit: queue.max_wait (its default) is 30s, longer than",
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
        "info,defender_gateway::quota=debug",
        "warn,hyper=off",
        "mycrate",
    ] {
        resolved(&format!("[telemetry]\nlog = \"{good}\""), &[]);
    }
    for (bad, holds) in [
        ("info,x=loud", "cannot be read as directives"),
        ("infoo", "did you mean info?"),
        ("warn,degub", "did you mean debug?"),
        ("", "is empty"),
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
