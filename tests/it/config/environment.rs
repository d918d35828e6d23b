//! What the environment says, against the file and against other people's variables.

use std::time::Duration;

use defender_gateway::testing::config::{DefaultValue, Key, Kind, Merging, keys};
use defender_gateway::testing::server::Address;

use super::{assert_one, mistakes, parse, resolved};

#[test]
fn a_variable_wins_over_the_file() {
    let text = "[cache]\nttl = \"1m\"\nstale_if_error = \"1h\"";
    let cache = resolved(text, &[("DEFENDER_GATEWAY_CACHE_TTL", "2m")]).cache;
    assert_eq!(cache.ttl, Duration::from_mins(2));
    assert_eq!(cache.stale_if_error, Duration::from_hours(1));
}

#[test]
fn a_wrong_value_in_the_file_does_not_matter_when_a_variable_wins() {
    let cache = resolved("[cache]\nttl = 5", &[("DEFENDER_GATEWAY_CACHE_TTL", "2m")]).cache;
    assert_eq!(cache.ttl, Duration::from_mins(2));
}

#[test]
fn every_key_that_a_file_can_hold_has_a_working_twin() {
    for key in keys().filter(|key| key.in_file()) {
        let value = match key.fallback {
            DefaultValue::Flag(value) => value.to_string(),
            DefaultValue::Count(value) => value.to_string(),
            DefaultValue::Text(value) => value.to_owned(),
            DefaultValue::List(values) => values.join(","),
            DefaultValue::EmptyTable => String::new(),
        };
        resolved("", &[(key.variable().as_str(), value.as_str())]);
        // A value that nothing accepts proves that the variable is read at all.
        let wrong = if matches!(key.kind, Kind::List(_) | Kind::Regions) {
            " \u{1},, ="
        } else {
            "\u{1}"
        };
        if !["state_file"].contains(&key.name) {
            let text = mistakes("", &[(key.variable().as_str(), wrong)]).concat();
            assert!(text.contains(&key.variable()), "{}: {text}", key.variable());
        }
    }
}

#[test]
fn lists_are_separated_by_commas() {
    let resolved = resolved(
        "",
        &[
            ("DEFENDER_GATEWAY_QUOTA_LIMITS", "1500/60s, 100/1s"),
            ("DEFENDER_GATEWAY_SERVER_LISTEN", "127.0.0.1:0,unix:/run/g.sock"),
            (
                "DEFENDER_GATEWAY_DEFENDER_REGIONS",
                "eu=https://eu.example,us=http://127.0.0.1:9",
            ),
            ("DEFENDER_GATEWAY_DEFENDER_REGION", "us"),
            ("DEFENDER_GATEWAY_MERGE_ENABLED", "true"),
            ("DEFENDER_GATEWAY_QUOTA_BURST", "7"),
            ("DEFENDER_GATEWAY_SERVER_HOSTS", ""),
        ],
    );
    let limits: Vec<_> = resolved.quota.limits.iter().map(|limit| &**limit.name()).collect();
    assert_eq!(limits, ["1s", "1m"], "sorted by window");
    assert_eq!(resolved.quota.burst.get(), 7);
    assert_eq!(resolved.server.listen[1], Address::Unix("/run/g.sock".into()));
    assert_eq!(resolved.defender.region.as_deref(), Some("us"));
    let hosts: Vec<_> = resolved
        .defender
        .candidates()
        .map(|region| region.url.as_str())
        .collect();
    assert_eq!(hosts, ["http://127.0.0.1:9/"]);
    assert!(resolved.merge.enabled == Merging::On && resolved.server.hosts.is_empty());
}

#[test]
fn weights_are_a_table_in_the_file_and_pairs_in_the_environment() {
    let text = "[callers.weights]\ndashboard = 5\n\"nightly report\" = 2";
    let weights = |text, variables: &[(&str, &str)]| -> Vec<(String, u32)> {
        let weights = resolved(text, variables).callers.weights;
        weights.into_iter().map(|(name, weight)| (name, weight.get())).collect()
    };
    let expected = [("dashboard".to_owned(), 5), ("nightly report".to_owned(), 2)];
    assert_eq!(weights(text, &[]), expected);
    let variable = "DEFENDER_GATEWAY_CALLERS_WEIGHTS";
    assert_eq!(weights("", &[(variable, "dashboard=5, nightly report = 2")]), expected);
    assert_eq!(weights(text, &[(variable, "a=b=1")]), [("a=b".to_owned(), 1)]);
    assert_eq!(weights(text, &[(variable, "")]), []);

    for (value, holds) in [
        ("dashboard", "callers.weights.dashboard: has no number"),
        ("a=0", "callers.weights.a: 0 is out of range; allowed is 1 to 1000"),
        ("a=1001", "1001 is out of range"),
        ("a=1.5", "has no number"),
        ("a=1,a=2", "is listed twice"),
        ("=1", "a name of 0 bytes matches no caller"),
    ] {
        assert_one("", &[(variable, value)], &format!("{variable}: callers.weights"), holds);
    }
    for (text, holds) in [
        (
            "[callers]\nweights = 5",
            "is a number; write a table of names, each with 1 to 1000",
        ),
        (
            "[callers.weights]\na = \"5\"",
            "is a text; write 1 to 1000, without quotes",
        ),
        ("[callers.weights]\na = -1", "-1 is out of range"),
        ("[callers.weights]\n\" a\" = 1", "matches no caller"),
    ] {
        assert_one(text, &[], "g.toml:2:", holds);
    }
}

#[test]
fn misspelt_variables_are_refused_where_they_can_only_be_ours() {
    for (name, holds) in [
        (
            "DEFENDER_GATEWAY_SERVER_LISEN",
            "did you mean DEFENDER_GATEWAY_SERVER_LISTEN?",
        ),
        (
            "DEFENDER_GATEWAY_QUOTA_LIMIT",
            "did you mean DEFENDER_GATEWAY_QUOTA_LIMITS?",
        ),
        (
            "DEFENDER_GATEWAY_CACHE_COLOUR",
            "there are DEFENDER_GATEWAY_CACHE_TTL, ",
        ),
        (
            "DEFENDER_GATEWAY_SERVER_PORT",
            "there are DEFENDER_GATEWAY_SERVER_LISTEN, ",
        ),
        (
            "DEFENDER_GATEWAY_SEVER_LISTEN",
            "did you mean DEFENDER_GATEWAY_SERVER_LISTEN?",
        ),
        ("DEFENDER_GATEWAY_CONFG", "did you mean DEFENDER_GATEWAY_CONFIG?"),
    ] {
        assert_one("", &[(name, "8080")], &format!("{name}: is unknown; "), holds);
    }
}

#[test]
fn variables_of_others_are_left_alone() {
    resolved(
        "",
        &[
            // A Service called defender-gateway, and two whose names go on like sections.
            ("DEFENDER_GATEWAY_SERVICE_HOST", "10.0.0.1"),
            ("DEFENDER_GATEWAY_SERVICE_PORT", "8080"),
            ("DEFENDER_GATEWAY_SERVICE_PORT_HTTP", "8080"),
            ("DEFENDER_GATEWAY_PORT", "tcp://10.0.0.1:8080"),
            ("DEFENDER_GATEWAY_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("DEFENDER_GATEWAY_PORT_8080_TCP_PROTO", "tcp"),
            ("DEFENDER_GATEWAY_PORT_8080_TCP_PORT", "8080"),
            ("DEFENDER_GATEWAY_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("DEFENDER_GATEWAY_ADMIN_SERVICE_HOST", "10.0.0.1"),
            ("DEFENDER_GATEWAY_ADMIN_PORT", "tcp://10.0.0.1:9901"),
            ("DEFENDER_GATEWAY_STORE_PORT_6379_TCP_ADDR", "10.0.0.1"),
            // Whatever callers in the same pod call the gateway's address.
            ("DEFENDER_GATEWAY_URL", "http://127.0.0.1:8080"),
            ("PATH", "/bin"),
        ],
    );
}

#[test]
fn azures_variables_fill_in_what_is_absent_or_empty() {
    let text = "[credentials]\ntenant_id = \"ours\"\nclient_id = \"\"\nclient_secret_file = \"/etc/secret\"";
    let variables = [("AZURE_TENANT_ID", "theirs"), ("AZURE_CLIENT_ID", "theirs")];
    let credentials = parse(text, &variables).unwrap().resolved.credentials;
    assert_eq!(
        (credentials.tenant_id.as_deref(), credentials.client_id.as_deref()),
        (Some("ours"), Some("theirs"))
    );

    let ours = [
        variables.as_slice(),
        &[("DEFENDER_GATEWAY_CREDENTIALS_CLIENT_ID", "mine")],
    ]
    .concat();
    let credentials = parse(text, &ours).unwrap().resolved.credentials;
    assert_eq!(credentials.client_id.as_deref(), Some("mine"));
}

#[test]
fn traces_and_proxies_are_read_from_their_usual_variables() {
    let resolved = resolved(
        "",
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
            ("https_proxy", "proxy.example:3128"),
            ("NO_PROXY", "localhost, .Example.com 10.0.0.0/8"),
        ],
    );
    assert_eq!(
        resolved.telemetry.otlp_endpoint.unwrap().url.as_str(),
        "http://collector:4318/v1/traces"
    );
    let proxy = resolved.defender.via_proxy.unwrap();
    assert_eq!(proxy.url.as_str(), "http://proxy.example:3128/");
    assert_eq!(proxy.except, ["localhost", ".example.com", "10.0.0.0/8"]);
}

#[test]
fn our_proxy_setting_wins_and_none_means_none() {
    let variables = [("HTTPS_PROXY", "not a proxy"), ("NO_PROXY", "x")];
    assert!(
        resolved("[defender]\nvia_proxy = \"none\"", &variables)
            .defender
            .via_proxy
            .is_none()
    );
    assert!(
        mistakes("[defender]\nvia_proxy = \"NONE\"", &[])
            .concat()
            .contains("in lower case")
    );
    let proxy = resolved("[defender]\nvia_proxy = \"http://p:1\"", &variables)
        .defender
        .via_proxy
        .unwrap();
    assert_eq!(
        (proxy.url.as_str(), proxy.except.as_slice()),
        ("http://p:1/", ["x".to_owned()].as_slice())
    );
    assert_one(
        "",
        &variables,
        "HTTPS_PROXY: defender.via_proxy: the value is no address",
        "unset it",
    );
}

#[test]
fn the_names_of_keys_make_the_names_of_variables() {
    let names: Vec<_> = keys().map(Key::variable).collect();
    assert!(names.contains(&"DEFENDER_GATEWAY_SERVER_ALLOW_NON_LOOPBACK".to_owned()));
    assert!(names.contains(&"DEFENDER_GATEWAY_CREDENTIALS_CLIENT_SECRET".to_owned()));
}
