//! How mistakes are found and told.

use super::{SIGN_IN, assert_one, mistakes, parse};

#[test]
fn all_mistakes_of_file_and_environment_are_told_together_in_reading_order() {
    let text = r#"[server]
lisen = ["127.0.0.1:8080"]
drain = 25
max_body = "1M"

[cache]
ttl = "soon"

[queue]
max_requests = "many"
"#;
    assert_eq!(
        mistakes(text, &[("DEFENDER_GATEWAY_QUOTA_LIMITS", "100/1m,1500")]),
        [
            "g.toml:2:1: server.lisen: is unknown; did you mean listen?",
            "g.toml:3:9: server.drain: 25 has no unit; write \"25s\", \"25ms\", \"25m\", \"25h\" or \"25d\"; allowed is 0s to 1h",
            "g.toml:4:12: server.max_body: \"1M\" has the unknown unit \"M\"; the units are B, KiB, MiB, GiB, KB, MB and GB; \
             allowed is 1KiB to 64MiB",
            "g.toml:7:7: cache.ttl: \"soon\" does not start with a number; allowed is 0s to 1d",
            "g.toml:10:16: queue.max_requests: \"many\" is a text; write 1 to 1000000, without quotes",
            "DEFENDER_GATEWAY_QUOTA_LIMITS: quota.limits[1]: \"1500\" is no limit; write calls per window, such as 100/1m; allowed \
             is 1 to 4 of CALLS/WINDOW, such as \"100/1m\", with 1 to 1000000 calls and windows of 1s to 24h",
        ]
    );
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_one() {
    for (text, holds) in [
        (
            "[server]\ncolour = []",
            "is unknown; [server] has listen, allow_non_loopback, hosts, trusted_proxies, max_body, memory, drain, linger",
        ),
        ("[cache]\nmaxsize = \"1MiB\"", "did you mean max_size?"),
        ("[server]\nttl = \"1s\"", "it belongs into [cache]"),
        ("[sever]\nlisten = []", "did you mean [server]?"),
        ("[upstream]\nx = 1", "the sections are server, admin, defender"),
        (
            "listen = []",
            "stands outside of a section; it belongs into [server] or [admin]",
        ),
        ("server = 1", "is a section, not a value; write [server]"),
        (
            "[[defender.regions]]\nname = \"x\"\nurl = \"https://x\"\nweight = 1",
            "a text in quotes",
        ),
        (
            "[[defender.regions]]\nname = \"x\"\nurl = \"https://x\"\nweight = \"1\"",
            "a region has name and url",
        ),
    ] {
        assert_one(text, &[], "g.toml:", holds);
    }
}

#[test]
fn values_of_the_wrong_shape_are_refused_with_the_right_one() {
    for (text, line) in [
        (
            "[server]\nlisten = \"127.0.0.1:1\"",
            "g.toml:2:10: server.listen: is a text; write a list in brackets",
        ),
        (
            "[server]\nlisten = [1]",
            "g.toml:2:11: server.listen[0]: is a number; write a text in quotes",
        ),
        (
            "[admin]\nquit = \"true\"",
            "g.toml:2:8: admin.quit: \"true\" is a text; write true or false, without quotes",
        ),
        ("[admin]\nquit = 1", "g.toml:2:8: admin.quit: is a number"),
        ("[cache]\nttl = 1.5", "g.toml:2:7: cache.ttl: 1.5 has a fraction"),
        (
            "[cache]\nttl = true",
            "g.toml:2:7: cache.ttl: is true or false; write a text in quotes: 0s to 1d",
        ),
        (
            "[cache]\nmax_size = 100",
            "g.toml:2:12: cache.max_size: 100 has no unit; write \"100MiB\"",
        ),
        (
            "[quota]\nburst = -1",
            "g.toml:2:9: quota.burst: -1 is out of range; allowed is 1 to 1000000",
        ),
        ("[quota]\nburst = 0", "g.toml:2:9: quota.burst: 0 is out of range"),
        ("[quota]\nburst = 0x10_0000_0000_0000_0000", "g.toml:2:9: quota.burst: "),
        (
            "[merge]\nenabled = \"yes\"",
            "g.toml:2:11: merge.enabled: \"yes\" is unknown; allowed is true, false or \"auto\"",
        ),
        (
            "[merge]\nenabled = 1",
            "g.toml:2:11: merge.enabled: is a number; write true, false or \"auto\"",
        ),
        ("[merge]\nmax_ids = 1979-05-27", "g.toml:2:11: merge.max_ids: is a date"),
        (
            "[telemetry]\nformat = \"xml\"",
            "g.toml:2:10: telemetry.format: \"xml\" is unknown; allowed is \"auto\", \"json\" or \"text\"",
        ),
        (
            "[defender]\nregions = \"eu\"",
            "g.toml:2:11: defender.regions: is a text; write a list of tables",
        ),
        (
            "[defender]\nregions = [\"eu\"]",
            "g.toml:2:12: defender.regions[0]: is a text; write {",
        ),
    ] {
        assert_one(text, &[], line, "");
    }
}

#[test]
fn hexadecimal_and_grouped_numbers_are_numbers() {
    let resolved = super::resolved("[quota]\nburst = 0x10\n[queue]\nmax_requests = 2_000", &[]);
    assert_eq!(resolved.quota.burst.get(), 16);
    assert_eq!(resolved.queue.max_requests.get(), 2000);
}

#[test]
fn syntax_errors_have_a_line_and_do_not_show_it() {
    let lines = mistakes("[server]\ndrain = \"25s\nmax_body = hunter2\n", &[]);
    assert!(lines[0].starts_with("g.toml:2:"), "{lines:#?}");
    assert!(lines[0].contains("is not TOML"), "{lines:#?}");
    assert!(!lines.concat().contains("hunter2"), "{lines:#?}");
    assert_one(
        "[server]\ndrain = \"1s\"\ndrain = \"2s\"",
        &[],
        "g.toml:3:1: is not TOML: duplicate key",
        "",
    );
}

#[test]
fn what_a_broken_file_leaves_out_is_no_mistake_of_its_own() {
    let text = parse("[credentials]\ntenant_id = \"t", &[])
        .expect_err("it is broken")
        .to_string();
    assert!(text.starts_with("g.toml:2:") && text.lines().count() == 1, "{text}");
}

#[test]
fn a_broken_file_does_not_hide_mistakes_in_the_environment() {
    let lines = mistakes("[server", &[("DEFENDER_GATEWAY_CACHE_TTL", "30")]);
    assert!(lines[0].starts_with("g.toml:1:"), "{lines:#?}");
    assert!(
        lines[1].starts_with("DEFENDER_GATEWAY_CACHE_TTL: cache.ttl: \"30\" has no unit"),
        "{lines:#?}"
    );
}

#[test]
fn long_values_and_control_characters_are_not_repeated_as_they_are() {
    let text = format!("[cache]\nttl = \"{}\\n\\u001b[31m\"", "x".repeat(500));
    let lines = mistakes(&text, &[]);
    assert_eq!(lines.len(), 1);
    assert!(lines[0].len() < 250, "{}", lines[0]);
    assert_one(
        "[cache]\nttl = \"\\u001b[31m\"",
        &[],
        "g.toml:2:7: cache.ttl: \"\\u{1b}[31m\"",
        "",
    );
}

#[test]
fn secrets_are_never_repeated() {
    for (text, variables) in [
        ("[credentials]\nclient_secret = \"hunter2\"", vec![]),
        ("[credentials]\nclient_secrets = \"hunter2\"", vec![]),
        (
            "[credentials]\ntenant_id = \"hunter2 \"\nclient_id = \"hunter2 \"",
            vec![],
        ),
        ("[store]\nurl = \"http://u:hunter2@h\"", vec![]),
        ("[store]\nurl = \"hunter2\"", vec![]),
        ("", vec![("DEFENDER_GATEWAY_STORE_URL", "redis:hunter2")]),
        ("", vec![("HTTPS_PROXY", "socks5://u:hunter2@h")]),
        ("[defender]\nvia_proxy = \"http://u:hunter2@h/x\"", vec![]),
        ("[credentials]\nauthority = \"https://u:hunter2@h\"", vec![]),
        ("[telemetry]\notlp_endpoint = \"https://u:hunter2@h\"", vec![]),
        (
            "[[defender.regions]]\nname = \"x\"\nurl = \"https://u:hunter2@h\"",
            vec![],
        ),
        ("", vec![("DEFENDER_GATEWAY_CREDENTIALS_SECRET", "hunter2")]),
    ] {
        let lines = mistakes(text, &variables);
        assert!(!lines.concat().contains("hunter2"), "{lines:#?}");
    }
}

#[test]
fn nor_are_they_in_the_debug_form_of_what_was_loaded() {
    let variables = [
        (
            "DEFENDER_GATEWAY_STORE_URL",
            "rediss://u:hunter2@h:6379/0?password=hunter2",
        ),
        ("HTTPS_PROXY", "http://u:hunter2@proxy:3128"),
    ];
    let loaded = parse("", &[SIGN_IN.as_slice(), &variables].concat()).unwrap();
    assert!(!format!("{loaded:?}").contains("hunter2"));
    assert_eq!(loaded.resolved.store.url.unwrap().shown(), "rediss://h:6379/0");
}
