//! The files in `config/`: true, complete, and working.

use std::fs;
use std::path::Path;

use defender_gateway::testing::config::{DefaultValue, keys};
use toml::Value;

use super::{parse, resolved, signed_in};

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)).unwrap()
}

#[test]
fn the_documented_defaults_are_the_built_in_ones() {
    let text = read("gateway.toml");
    // Written, this key counts for more than its value, so it is there as a comment.
    let every = text.replace("\n# max_size = ", "\nmax_size = ");
    let table: toml::Table = every.parse().unwrap();
    let mut count = 0;
    for key in keys().filter(|key| key.in_file()) {
        let built_in = match key.fallback {
            DefaultValue::Flag(value) => Value::Boolean(value),
            DefaultValue::Count(value) => Value::Integer(value.try_into().unwrap()),
            DefaultValue::Text(value) => Value::String(value.into()),
            DefaultValue::EmptyTable => Value::Table(toml::Table::new()),
            DefaultValue::List(values) => {
                Value::Array(values.iter().map(|value| Value::String((*value).into())).collect())
            }
        };
        assert_eq!(
            table[key.section].get(key.name),
            Some(&built_in),
            "{} stands with its default and a comment in config/gateway.toml, which is written by hand",
            key.path()
        );
        count += 1;
    }
    let written: usize = table.values().map(|section| section.as_table().unwrap().len()).sum();
    assert_eq!(written, count, "keys in the file");
    // The Debug form shows every value but secrets, which are the same variables here.
    assert_eq!(
        format!("{:?}", resolved(&text, &[])),
        format!("{:?}", resolved("", &[]))
    );
    assert!(signed_in(&text, &[]).unwrap().notes.is_empty());
}

#[test]
fn every_documented_key_has_a_comment_above_it() {
    let text = read("gateway.toml");
    let lines: Vec<_> = text.lines().collect();
    for (index, line) in lines
        .iter()
        .enumerate()
        .filter(|(_, line)| line.contains(" = ") && !line.starts_with('#'))
    {
        // The certificate and its key share a comment.
        let above = if line.starts_with("private_key_file") {
            index - 2
        } else {
            index - 1
        };
        assert!(lines[above].starts_with("# "), "line {}: {line}", index + 1);
    }
}

#[test]
fn the_documented_file_works_with_another_cloud() {
    let text = read("gateway.toml").replace("cloud = \"public\"", "cloud = \"dod\"");
    assert_eq!(
        resolved(&text, &[]).credentials.authority.as_str(),
        "https://login.microsoftonline.us/"
    );
}

#[test]
fn the_sidecar_needs_only_the_webhook() {
    let webhook = [
        ("AZURE_TENANT_ID", "t"),
        ("AZURE_CLIENT_ID", "c"),
        ("AZURE_FEDERATED_TOKEN_FILE", "/etc/token"),
        ("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.com/"),
    ];
    let loaded = parse(&read("sidecar.toml"), &webhook).unwrap();
    assert!(
        loaded
            .resolved
            .server
            .listen
            .iter()
            .all(defender_gateway::testing::server::Address::is_local)
    );
    assert!(loaded.notes.is_empty(), "{:?}", loaded.notes);
}

#[test]
fn the_shared_service_has_a_store_and_open_addresses() {
    let loaded = signed_in(&read("shared.toml"), &[]).unwrap();
    assert!(loaded.resolved.store.url.is_some());
    assert!(!loaded.resolved.server.listen[0].is_local());
    assert!(loaded.notes.is_empty(), "{:?}", loaded.notes);
}
