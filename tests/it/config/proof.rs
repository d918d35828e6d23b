//! What proves who the gateway is: secrets, certificates, platforms.

use defender_gateway::testing::config::TrustedRoots;
use defender_gateway::testing::token::{Credential, IdentityHost, SecretSource};

use super::credentials::{IDS, chosen, refused};
use super::parse;

#[test]
fn managed_identity_finds_whom_to_ask() {
    let kind = "[credentials]\nkind = \"managed_identity\"";
    let endpoint = |variables: &[(&str, &str)]| {
        let credentials = parse(kind, variables)
            .unwrap_or_else(|mistakes| panic!("{mistakes}"))
            .resolved
            .credentials;
        let Credential::ManagedIdentity(identity) = credentials.credential else {
            panic!("{:?}", credentials.credential)
        };
        assert_eq!(identity.client_id, credentials.client_id);
        (identity.host, identity.client_id)
    };
    let (machine, client) = endpoint(&[]);
    assert!(
        matches!(&machine, IdentityHost::Imds { address } if address.as_str() == "http://169.254.169.254/"),
        "{machine:?}"
    );
    assert_eq!(client, None);
    let (replaced, _) = endpoint(&[("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:9/")]);
    assert!(
        matches!(&replaced, IdentityHost::Imds { address } if address.port() == Some(9)),
        "{replaced:?}"
    );
    let (app, client) = endpoint(&[
        ("IDENTITY_ENDPOINT", "http://localhost:42356/msi/token"),
        ("IDENTITY_HEADER", "hunter2"),
        ("AZURE_CLIENT_ID", "c"),
    ]);
    assert!(
        matches!(&app, IdentityHost::AppService { endpoint, header } if endpoint.path() == "/msi/token" && header.expose() == "hunter2")
    );
    assert_eq!(client.as_deref(), Some("c"));

    let text = refused(
        kind,
        &[("IDENTITY_ENDPOINT", "http://10.0.0.1/msi"), ("IDENTITY_HEADER", "h")],
    );
    assert!(
        text.starts_with("IDENTITY_ENDPOINT: credentials.kind: the address is neither https nor on this machine"),
        "{text}"
    );
    let text = refused(kind, &[("IDENTITY_ENDPOINT", "http://localhost:40342/msi")]);
    assert!(text.contains("as Azure Arc does"), "{text}");
}

#[test]
fn service_fabric_is_not_taken_for_app_service() {
    let fabric = [
        (
            "IDENTITY_ENDPOINT",
            "https://10.0.0.4:2377/metadata/identity/oauth2/token",
        ),
        ("IDENTITY_HEADER", "hunter2"),
        ("IDENTITY_SERVER_THUMBPRINT", "0123456789ABCDEF"),
    ];
    let text = refused("[credentials]\nkind = \"managed_identity\"", &fabric);
    assert!(text.contains("as Service Fabric does"), "{text}");
    let text = refused("", &fabric);
    assert!(text.contains("nothing to sign in with"), "{text}");
}

#[test]
fn the_custom_token_endpoint_is_carried_through() {
    let base = [
        ("AZURE_FEDERATED_TOKEN_FILE", "/etc/token"),
        ("AZURE_KUBERNETES_TOKEN_PROXY", "https://proxy.aks/x"),
    ];
    let with = |more: &[(&str, &str)]| parse("", &[&IDS[..], &base, more].concat());
    let proxy = |more: &[(&str, &str)]| {
        let credentials = with(more)
            .unwrap_or_else(|mistakes| panic!("{mistakes}"))
            .resolved
            .credentials;
        assert!(matches!(credentials.credential, Credential::WorkloadIdentity { .. }));
        credentials.token_proxy.unwrap()
    };
    let plain = proxy(&[]);
    assert_eq!(
        (plain.url.as_str(), plain.roots, plain.server_name),
        ("https://proxy.aks/x", TrustedRoots::BuiltIn, None)
    );
    let full = proxy(&[
        ("AZURE_KUBERNETES_CA_FILE", "/etc/ca.pem"),
        ("AZURE_KUBERNETES_SNI_NAME", "a.sni.aks"),
    ]);
    assert_eq!(
        (full.roots, full.server_name.as_deref()),
        (TrustedRoots::File("/etc/ca.pem".into()), Some("a.sni.aks"))
    );

    let certified = rcgen::generate_simple_self_signed(["proxy.aks".to_owned()])
        .unwrap()
        .cert
        .pem();
    assert_eq!(
        proxy(&[("AZURE_KUBERNETES_CA_DATA", &certified)]).roots,
        TrustedRoots::Pem(certified.clone())
    );
    for (more, begins) in [
        (
            [
                ("AZURE_KUBERNETES_CA_DATA", "x"),
                ("AZURE_KUBERNETES_CA_FILE", "/etc/ca.pem"),
            ]
            .as_slice(),
            "AZURE_KUBERNETES_CA_DATA: ",
        ),
        (&[("AZURE_KUBERNETES_CA_DATA", "x")], "AZURE_KUBERNETES_CA_DATA: "),
        (
            &[("AZURE_KUBERNETES_CA_FILE", "/etc/none")],
            "AZURE_KUBERNETES_CA_FILE: ",
        ),
        (&[("AZURE_KUBERNETES_SNI_NAME", "a b")], "AZURE_KUBERNETES_SNI_NAME: "),
        (
            &[("AZURE_KUBERNETES_TOKEN_PROXY", "http://proxy.aks")],
            "AZURE_KUBERNETES_TOKEN_PROXY: ",
        ),
    ] {
        let text = with(more).expect_err("there should be a mistake").to_string();
        assert!(text.starts_with(begins) && text.lines().count() == 1, "{text}");
    }
    // Another kind does not care.
    assert_eq!(
        chosen(
            "[credentials]\nkind = \"client_secret\"",
            &[("AZURE_CLIENT_SECRET", "s"), base[1]]
        )
        .0
        .kind()
        .as_str(),
        "client_secret"
    );
}

#[test]
fn what_cannot_be_a_certificate_is_found_before_sign_in() {
    for (keys, begins) in [
        (
            "certificate_file = \"/etc/cert.pem\"",
            "2:20: credentials.certificate_file: /etc/cert.pem: holds a certificate but no private key",
        ),
        (
            "certificate_file = \"/etc/key.pem\"",
            "2:20: credentials.certificate_file: /etc/key.pem: holds no PEM certificate",
        ),
        (
            "certificate_file = \"/etc/cert.pfx\"",
            "2:20: credentials.certificate_file: /etc/cert.pfx: is binary",
        ),
        (
            "certificate_file = \"/etc/locked.pem\"",
            "2:20: credentials.certificate_file: /etc/locked.pem: the private key is encrypted",
        ),
        (
            "certificate_file = \"/etc/cert.pem\"\nprivate_key_file = \"/etc/ec.pem\"",
            "3:20: credentials.private_key_file: /etc/ec.pem: the private key is not RSA",
        ),
        (
            "certificate_file = \"/etc/cert.pem\"\nprivate_key_file = \"/etc/token\"",
            "3:20: credentials.private_key_file: /etc/token: holds no PEM private key",
        ),
    ] {
        let text = refused(&format!("[credentials]\n{keys}"), &IDS);
        assert!(
            text.starts_with(&format!("g.toml:{begins}")) && text.lines().count() == 1,
            "{text}"
        );
    }
}

#[test]
fn a_secret_is_trimmed_and_its_id_is_recognised() {
    let loaded = parse("", &[&IDS[..], &[("AZURE_CLIENT_SECRET", "hunter2\n")]].concat()).unwrap();
    let Credential::ClientSecret {
        secret: SecretSource::Value(secret),
        ..
    } = loaded.resolved.credentials.credential
    else {
        panic!("no secret")
    };
    assert_eq!(secret.expose(), "hunter2");
    assert_eq!(
        loaded.notes,
        ["AZURE_CLIENT_SECRET: white space around the secret is left out"]
    );

    let id = "66666666-7777-8888-9999-abcdefABCDEF";
    let loaded = parse("", &[&IDS[..], &[("AZURE_CLIENT_SECRET", id)]].concat()).unwrap();
    assert!(
        loaded.notes.concat().contains("AADSTS7000215") && !loaded.notes.concat().contains(id),
        "{:?}",
        loaded.notes
    );

    let text = refused("", &[&IDS[..], &[("AZURE_CLIENT_SECRET", " \n")]].concat());
    assert_eq!(
        text,
        "AZURE_CLIENT_SECRET: credentials.client_secret: holds nothing but white space"
    );
}
