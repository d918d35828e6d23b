//! Which credential is chosen, why, and what is said when none is complete.

use defender_gateway::testing::token::{CertificateFiles, Credential, SecretSource};

use super::{mistakes, parse};

pub(super) const IDS: [(&str, &str); 2] = [("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_ID", "c")];

/// The credential and the reason, for `text` and the ids and `variables`.
#[track_caller]
pub(super) fn chosen(text: &str, variables: &[(&str, &str)]) -> (Credential, String) {
    let loaded = parse(text, &[&IDS, variables].concat()).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    (loaded.resolved.credentials.credential, loaded.resolved.credentials.why)
}

#[track_caller]
pub(super) fn refused(text: &str, variables: &[(&str, &str)]) -> String {
    parse(text, variables)
        .expect_err("there should be a mistake")
        .to_string()
}

#[test]
fn nothing_at_all_is_answered_with_the_three_easiest_ways() {
    let text = refused("", &[]);
    assert!(text.starts_with("credentials: nothing to sign in with"), "{text}");
    for way in [
        "azure.workload.identity/use",
        "AZURE_CLIENT_SECRET",
        "kind = \"managed_identity\"",
    ] {
        assert!(text.contains(way), "{text}");
    }
    let text = refused("", &IDS);
    assert!(
        text.starts_with("credentials: tenant_id and client_id say who the gateway is, but nothing proves it"),
        "{text}"
    );
}

#[test]
fn a_pod_with_the_webhook_needs_no_configuration() {
    let webhook = [
        ("AZURE_FEDERATED_TOKEN_FILE", "/etc/token"),
        ("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.com/"),
    ];
    let (credential, why) = chosen("", &webhook);
    assert_eq!(credential.kind().as_str(), "workload_identity");
    assert_eq!(
        why,
        "from AZURE_FEDERATED_TOKEN_FILE, found by credentials.kind = \"auto\""
    );
}

#[test]
fn auto_finds_each_kind() {
    let app_service = [
        ("IDENTITY_ENDPOINT", "http://169.254.130.1:8081/msi/token"),
        ("IDENTITY_HEADER", "hunter2"),
    ];
    for (text, variables, kind) in [
        ("", [("AZURE_CLIENT_SECRET", "s")].as_slice(), "client_secret"),
        (
            "[credentials]\nclient_secret_file = \"/etc/secret\"",
            &[],
            "client_secret",
        ),
        (
            "[credentials]\ncertificate_file = \"/etc/both.pem\"",
            &[],
            "certificate",
        ),
        ("", &[("AZURE_CLIENT_CERTIFICATE_PATH", "/etc/both.pem")], "certificate"),
        ("", &app_service, "managed_identity"),
    ] {
        assert_eq!(chosen(text, variables).0.kind().as_str(), kind, "{text} {variables:?}");
    }
}

#[test]
fn what_is_ours_goes_before_azures_variables_and_the_rest_is_named() {
    let text = "[credentials]\ncertificate_file = \"/etc/cert.pem\"\nprivate_key_file = \"/etc/key.pem\"";
    let theirs = [
        ("AZURE_CLIENT_SECRET", "s"),
        ("AZURE_FEDERATED_TOKEN_FILE", "/etc/token"),
    ];
    let (credential, why) = chosen(text, &theirs);
    assert!(
        matches!(
            &credential,
            Credential::Certificate { files: CertificateFiles { private_key: Some(key), .. }, .. } if key.ends_with("key.pem")
        ),
        "{credential:?}"
    );
    assert_eq!(
        why,
        "from line 2 of the file, found by credentials.kind = \"auto\"; client_secret and workload_identity would be possible too"
    );
}

#[test]
fn a_kind_that_is_said_is_used() {
    let variables = [
        ("AZURE_CLIENT_SECRET", "s"),
        ("AZURE_FEDERATED_TOKEN_FILE", "/etc/token"),
    ];
    let (credential, why) = chosen("[credentials]\nkind = \"workload_identity\"", &variables);
    assert_eq!(credential.kind().as_str(), "workload_identity");
    assert_eq!(why, "from AZURE_FEDERATED_TOKEN_FILE, as credentials.kind says");
}

#[test]
fn a_kind_that_is_said_but_incomplete_tells_what_it_needs() {
    for (kind, holds) in [
        (
            "client_secret",
            "needs credentials.client_secret_file, DEFENDER_GATEWAY_CREDENTIALS_CLIENT_SECRET or AZURE_CLIENT_SECRET",
        ),
        ("certificate", "needs credentials.certificate_file"),
        ("workload_identity", "the Azure webhook did not change this pod"),
    ] {
        let text = refused(&format!("[credentials]\nkind = \"{kind}\""), &IDS);
        assert!(
            text.starts_with(&format!("g.toml:2:8: credentials.kind: \"{kind}\"")),
            "{text}"
        );
        assert!(text.contains(holds), "{text}");
    }
    let text = refused(
        "[credentials]\nkind = \"client_secret\"",
        &[("AZURE_CLIENT_SECRET", "s")],
    );
    assert!(
        text.contains("credentials.tenant_id (or AZURE_TENANT_ID) and credentials.client_id (or AZURE_CLIENT_ID)"),
        "{text}"
    );
}

#[test]
fn several_half_kinds_are_all_explained() {
    let text =
        "[credentials]\nclient_id = \"c\"\ncertificate_file = \"/etc/cert.pem\"\nclient_secret_file = \"/etc/secret\"";
    assert_eq!(
        refused(text, &[]),
        "credentials: no kind is complete: client_secret (from line 4 of the file) lacks credentials.tenant_id (or AZURE_TENANT_ID); \
         certificate (from line 3 of the file) lacks credentials.tenant_id (or AZURE_TENANT_ID)"
    );
}

#[test]
fn the_secret_is_refused_in_a_file_and_taken_from_the_environment() {
    let lines = mistakes("[credentials]\nclient_secret = \"hunter2\"", &[]);
    assert_eq!(
        lines,
        [
            "g.toml:2:1: credentials.client_secret: is a secret, and files get copied and committed; set \
          DEFENDER_GATEWAY_CREDENTIALS_CLIENT_SECRET or AZURE_CLIENT_SECRET, or name a file that holds only the secret in \
          credentials.client_secret_file"
        ]
    );
    let both = [
        ("DEFENDER_GATEWAY_CREDENTIALS_CLIENT_SECRET", "ours"),
        ("AZURE_CLIENT_SECRET", "theirs"),
    ];
    let (credential, why) = chosen("", &both);
    let Credential::ClientSecret {
        secret: SecretSource::Value(secret),
        ..
    } = &credential
    else {
        panic!("{credential:?}")
    };
    assert_eq!(secret.expose(), "ours");
    assert!(
        why.starts_with("from DEFENDER_GATEWAY_CREDENTIALS_CLIENT_SECRET"),
        "{why}"
    );
}

#[test]
fn a_secret_file_of_ours_goes_before_azures_variable() {
    let text = "[credentials]\nclient_secret_file = \"/etc/secret\"";
    let (credential, _) = chosen(text, &[("AZURE_CLIENT_SECRET", "theirs")]);
    assert!(
        matches!(&credential, Credential::ClientSecret { secret: SecretSource::File(path), .. } if path.ends_with("secret")),
        "{credential:?}"
    );
    let text = refused(
        text,
        &[&IDS[..], &[("DEFENDER_GATEWAY_CREDENTIALS_CLIENT_SECRET", "hunter2")]].concat(),
    );
    assert!(text.contains("keep one of them") && !text.contains("hunter2"), "{text}");
}

#[test]
fn only_the_files_of_the_chosen_kind_have_to_exist() {
    let text = "[credentials]\nkind = \"client_secret\"\ncertificate_file = \"/etc/none\"";
    assert_eq!(
        chosen(text, &[("AZURE_CLIENT_SECRET", "s")]).0.kind().as_str(),
        "client_secret"
    );
    for (text, begins) in [
        (
            "[credentials]\nclient_secret_file = \"/etc/none\"",
            "g.toml:2:22: credentials.client_secret_file: /etc/none: ",
        ),
        (
            "[credentials]\ncertificate_file = \"/etc/none\"",
            "g.toml:2:20: credentials.certificate_file: /etc/none: ",
        ),
        (
            "[credentials]\nfederated_token_file = \"/etc/none\"",
            "g.toml:2:24: credentials.federated_token_file: /etc/none: ",
        ),
    ] {
        let line = refused(text, &IDS);
        assert!(line.starts_with(begins) && line.lines().count() == 1, "{line}");
    }
    let line = refused("", &[&IDS[..], &[("AZURE_FEDERATED_TOKEN_FILE", "/etc/none")]].concat());
    assert!(
        line.starts_with("AZURE_FEDERATED_TOKEN_FILE: credentials.federated_token_file: "),
        "{line}"
    );
}

#[test]
fn a_key_without_a_certificate_is_refused() {
    let text = refused(
        "[credentials]\nprivate_key_file = \"/etc/key.pem\"",
        &[&IDS[..], &[("AZURE_CLIENT_SECRET", "s")]].concat(),
    );
    assert_eq!(
        text,
        "g.toml:2:20: credentials.private_key_file: is of no use without credentials.certificate_file"
    );
}

#[test]
fn a_tenant_stays_within_its_path_segment() {
    for tenant in ["common", "Common", "a/b", "..", "a?b", "a b", "%2e", "tenant\\n"] {
        let text = format!("[credentials]\ntenant_id = \"{tenant}\"");
        let lines = mistakes(&text, &[]);
        assert!(
            lines[0].starts_with("g.toml:2:13: credentials.tenant_id: the value "),
            "{lines:#?}"
        );
        assert_eq!(lines.len(), 1, "{lines:#?}");
    }
}

#[test]
fn a_scope_has_visible_ascii_characters_only() {
    for scope in ["https://ä.example/.default", "https://a.example/\\u0007/.default"] {
        let lines = mistakes(&format!("[credentials]\nscope = \"{scope}\""), &[]);
        assert!(
            lines[0].starts_with("g.toml:2:9: credentials.scope: the value holds a character that no scope has"),
            "{lines:#?}"
        );
    }
}

#[test]
fn callers_tokens_pass_through_only_when_that_is_asked_for() {
    for (text, wanted) in [
        ("", false),
        ("[credentials]\npassthrough = false", false),
        ("[credentials]\npassthrough = true", true),
    ] {
        let loaded = super::signed_in(text, &[]).unwrap();
        assert_eq!(loaded.resolved.credentials.passthrough, wanted, "{text:?}");
    }
}

const APP_SERVICE: [(&str, &str); 2] = [
    ("IDENTITY_ENDPOINT", "http://169.254.130.1:8081/msi/token"),
    ("IDENTITY_HEADER", "hunter2"),
];

#[test]
fn what_is_written_for_this_program_is_not_passed_over_because_it_is_incomplete() {
    let written = "[credentials]\nclient_secret_file = \"/etc/secret\"\nclient_id = \"c\"\n";
    let text = refused(written, &APP_SERVICE);
    assert!(
        text.contains("client_secret (from line 2 of the file) lacks credentials.tenant_id"),
        "{text}"
    );
    assert!(!text.contains("IDENTITY_ENDPOINT"), "{text}");
    let chosen = parse(&format!("{written}kind = \"managed_identity\"\n"), &APP_SERVICE).unwrap();
    assert_eq!(
        chosen.resolved.credentials.credential.kind().as_str(),
        "managed_identity"
    );
}

#[test]
fn an_identity_header_that_no_request_can_have_is_named() {
    let text = refused("", &[APP_SERVICE[0], ("IDENTITY_HEADER", "hunter2\n")]);
    assert!(
        text.starts_with("IDENTITY_HEADER: ") && text.contains("cannot be sent"),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn a_tenant_that_can_be_written_in_two_ways_is_noted_with_a_store() {
    let of = |tenant: &str| {
        format!("[credentials]\ntenant_id = \"{tenant}\"\nclient_id = \"c\"\nclient_secret_file = \"/etc/secret\"\n")
    };
    let store = "[store]\nurl = \"rediss://redis.test:6380\"\n";
    let notes = |text: &str| parse(text, &[]).unwrap().notes.join("\n");
    let domain = of("contoso.onmicrosoft.com");
    assert!(notes(&format!("{domain}{store}")).contains("write the GUID in all of them"));
    assert_eq!(notes(&domain), "");
    let guid = of("11111111-2222-3333-4444-555555555555");
    assert_eq!(notes(&format!("{guid}{store}")), "");
}

#[test]
fn system_assigned_identities_are_told_apart_in_a_store() {
    let managed = "[credentials]\nkind = \"managed_identity\"\n";
    let store = "[store]\nurl = \"rediss://redis.test:6380\"\n";
    let notes = |text: &str| parse(text, &[]).unwrap().notes.join("\n");
    assert!(notes(&format!("{managed}{store}")).contains("give store.prefix a value of its own"));
    assert_eq!(notes(managed), "");
    assert_eq!(notes(&format!("{managed}{store}prefix = \"one\"\n")), "");
    assert_eq!(notes(&format!("{managed}client_id = \"c\"\n{store}")), "");
    let tenant = format!("{managed}tenant_id = \"contoso.example\"\n{store}");
    let tenant = parse(&tenant, &[]).unwrap().resolved.credentials.tenant_id;
    assert_eq!(tenant.as_deref(), Some("contoso.example"));
}

#[test]
fn callers_own_tokens_with_a_quota_at_each_replica_are_noted_with_a_store() {
    let of = |passthrough: bool| format!("[credentials]\nkind = \"managed_identity\"\npassthrough = {passthrough}\n");
    let store = "[store]\nurl = \"rediss://redis.test:6380\"\nprefix = \"one\"\n";
    let notes = |text: &str| parse(text, &[]).unwrap().notes.join("\n");
    assert!(notes(&format!("{}{store}", of(true))).contains("each replica gives each token the whole of quota.limits"));
    assert_eq!(notes(&of(true)), "");
    assert_eq!(notes(&format!("{}{store}", of(false))), "");
}

#[test]
fn a_secret_in_place_of_its_files_path_is_not_shown() {
    let pem = format!("{:?}", include_str!("../../data/sim/app-key.pem"));
    for key in [
        "credentials.client_secret_file",
        "credentials.certificate_file",
        "credentials.federated_token_file",
        "store.password_file",
        "store.certificate_file",
    ] {
        for value in ["\"hunter2~Q8abc/+=\"", &pem] {
            let (section, name) = key.split_once('.').unwrap();
            let text = refused(&format!("[{section}]\n{name} = {value}\n"), &IDS);
            assert!(!text.contains("hunter2") && !text.contains("PRIVATE KEY"), "{text}");
            let said = format!("{key}: there is no such file; the value is not shown, because it may be the secret");
            assert!(text.contains(&said), "{text}");
        }
    }
    let text = refused("[credentials]\nclient_secret_file = \"/absent/secret\"\n", &IDS);
    assert!(
        text.contains("client_secret_file: /absent/secret: there is no such file"),
        "{text}"
    );
}
