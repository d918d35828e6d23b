//! `check` looks into files and at folders as `run` will, and says what is odd and where.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use super::binary::{check, stderr, stdout};

const IDS: [(&str, &str); 2] = [
    ("AZURE_TENANT_ID", "11111111-2222-3333-4444-555555555555"),
    ("AZURE_CLIENT_ID", "66666666-7777-8888-9999-000000000000"),
];
const CERTIFICATE: &str = include_str!("../../data/sim/app-cert.pem");
const KEY: &str = include_str!("../../data/sim/app-key.pem");

/// What `check` says, to either stream, and with which status.
fn checked(text: &str, variables: &[(&str, &str)]) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    fs::write(&path, text).unwrap();
    let output = check(&path, &[&IDS, variables].concat());
    (output.status.code().unwrap(), stdout(&output) + &stderr(&output))
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[test]
fn odd_secret_files_are_named_with_what_is_odd_and_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    for (content, status, said) in [
        (b"s~ecret\n".to_vec(), 0, None),
        (
            b"\xef\xbb\xbfs~ecret\r\n".to_vec(),
            0,
            Some("it begins with a byte order mark, which is left out"),
        ),
        (
            b"s~ecret \n".to_vec(),
            0,
            Some("it holds white space at line 1, column 8"),
        ),
        (
            "s\u{200b}ecret".into(),
            0,
            Some("it holds the character U+200B at line 1, column 2"),
        ),
        (utf16("\u{feff}s~ecret\r\n"), 1, Some("it is not UTF-8 but UTF-16 text")),
        (utf16("s~ecret"), 1, Some("it is not UTF-8 but UTF-16 text")),
        (
            b"s~ec\0ret".to_vec(),
            1,
            Some("it holds a NUL byte at line 1, column 5"),
        ),
        (
            b"s~ec\xffret".to_vec(),
            1,
            Some("it is not UTF-8 text: line 1, column 5"),
        ),
        (
            b"s~ecret\t\n".to_vec(),
            1,
            Some("it holds the control character U+0009 at line 1, column 8"),
        ),
        (
            b"s~ecret\n\nsecond".to_vec(),
            1,
            Some("it should hold one line of text, but another begins at line 3, column 1"),
        ),
        (b" \n".to_vec(), 1, Some("it is empty")),
        (
            b"66666666-7777-8888-9999-abcdefABCDEF".to_vec(),
            0,
            Some("looks like the id of a secret"),
        ),
    ] {
        fs::write(&path, &content).unwrap();
        for key in ["client_secret_file", "federated_token_file"] {
            let text = format!("[credentials]\n{key} = {:?}\n", path.to_str().unwrap());
            let (code, output) = checked(&text, &[]);
            assert_eq!(code, status, "{content:?}: {output}");
            // Tokens have no ids that could be taken for them.
            let said = said.filter(|said| key == "client_secret_file" || !said.contains("the id of"));
            match said {
                Some(said) => assert!(
                    output.contains(&format!("credentials.{key}: {}: {said}", path.display())),
                    "{output}"
                ),
                None => assert!(!output.contains("note"), "{output}"),
            }
            assert!(!output.contains("ecret \n") && !output.contains("s~ec"), "{output}");
        }
    }
}

#[test]
fn what_the_token_proxy_is_checked_against_has_to_hold_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (token, none, some) = (
        write("token", "e.y.j"),
        write("none", "no PEM"),
        write("some", CERTIFICATE),
    );
    for (file, status) in [(&none, 1), (&some, 0)] {
        let variables = [
            ("AZURE_FEDERATED_TOKEN_FILE", &*token),
            ("AZURE_KUBERNETES_TOKEN_PROXY", "https://proxy.example"),
            ("AZURE_KUBERNETES_CA_FILE", file),
        ];
        let (code, output) = checked("", &variables);
        assert_eq!(code, status, "{output}");
        let said = format!("AZURE_KUBERNETES_CA_FILE: credentials.kind: {file}: holds no PEM certificate");
        assert_eq!(output.contains(&said), status == 1, "{output}");
    }
}

#[test]
fn certificates_that_sign_in_could_not_use_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let other = rcgen::generate_simple_self_signed(["other.example".to_owned()]).unwrap();
    let cut = &KEY[..KEY.len() / 2];
    for (certificate_text, key_text, status, said) in [
        (CERTIFICATE.into(), KEY.into(), 0, "sign-in        certificate"),
        (
            format!("\u{feff}{CERTIFICATE}"),
            format!("\u{feff}{KEY}"),
            0,
            "tls.key: it begins with a byte order mark, which is left out",
        ),
        (
            other.cert.pem(),
            KEY.into(),
            1,
            "replace certificate and private key together",
        ),
        (
            CERTIFICATE.into(),
            other.signing_key.serialize_pem(),
            1,
            "use an RSA key of 2048 to 4096 bits",
        ),
        (CERTIFICATE.into(), cut.into(), 1, "its PEM form is damaged"),
        (CERTIFICATE[..200].into(), KEY.into(), 1, "its PEM form is damaged"),
    ] {
        fs::write(&certificate, &certificate_text).unwrap();
        fs::write(&key, &key_text).unwrap();
        let text = format!(
            "[credentials]\ncertificate_file = {:?}\nprivate_key_file = {:?}\n",
            certificate.to_str().unwrap(),
            key.to_str().unwrap()
        );
        let (code, output) = checked(&text, &[]);
        assert_eq!(code, status, "{said}: {output}");
        assert!(output.contains(said), "{said}: {output}");
    }
    fs::write(&certificate, utf16(CERTIFICATE)).unwrap();
    let text = format!(
        "[credentials]\ncertificate_file = {:?}\n",
        certificate.to_str().unwrap()
    );
    let (code, output) = checked(&text, &[]);
    assert!(
        code == 1 && output.contains("it is not UTF-8 but UTF-16 text"),
        "{output}"
    );
}

#[test]
fn authorities_that_no_connection_could_use_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (content, status, said) in [
        (CERTIFICATE.as_bytes().to_vec(), 0, "trusting"),
        (format!("\u{feff}{CERTIFICATE}").into_bytes(), 0, "byte order mark"),
        (utf16(CERTIFICATE), 1, "it is not UTF-8 but UTF-16 text"),
        (b"no certificate".to_vec(), 1, "holds no PEM certificate"),
        (broken.into(), 1, "TLS cannot be set up"),
        (CERTIFICATE.as_bytes()[..200].to_vec(), 1, "ca.pem cannot be read"),
    ] {
        fs::write(&path, &content).unwrap();
        let text = format!("[defender]\nca_file = {:?}\n", path.to_str().unwrap());
        let (code, output) = checked(&text, &[("AZURE_CLIENT_SECRET", "s")]);
        assert_eq!(code, status, "{said}: {output}");
        assert!(output.contains(said), "{said}: {output}");
        assert!(status == 0 || output.contains("defender.ca_file: "), "{output}");
    }
}

#[test]
fn a_pair_that_no_store_would_be_shown_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.pem");
    let other = rcgen::generate_simple_self_signed(vec!["other.test".into()]).unwrap();
    let cut = |pem: &str| pem[..pem.len() / 2].to_owned();
    let broken = format!("-----BEGIN CERTIFICATE-----\n%%%%\n-----END CERTIFICATE-----\n{KEY}");
    for (content, status, said) in [
        (format!("{CERTIFICATE}{KEY}"), 0, "ok"),
        (KEY.into(), 1, "holds no PEM certificate"),
        (CERTIFICATE.into(), 1, "holds no PEM private key"),
        (broken, 1, "holds a PEM section that is broken"),
        (cut(CERTIFICATE), 1, "holds a PEM section that is broken"),
        (
            format!("{CERTIFICATE}{}", cut(KEY)),
            1,
            "holds a PEM section that is broken",
        ),
        (
            format!("{CERTIFICATE}{}", other.signing_key.serialize_pem()),
            1,
            "store.pem: ",
        ),
    ] {
        fs::write(&path, &content).unwrap();
        let file = path.to_str().unwrap();
        let text = format!("[store]\nurl = \"rediss://redis.test:6380\"\ncertificate_file = {file:?}\n");
        let (code, output) = checked(&text, &[("AZURE_CLIENT_SECRET", "s")]);
        assert_eq!(code, status, "{said}: {output}");
        assert!(status == 0 || output.contains(said), "{said}: {output}");
        assert!(status == 0 || output.contains("store.certificate_file: "), "{output}");
    }
}

/// `check` as a user who owns nothing here. Only root can become that user.
fn checked_as_nobody(file: &Path) -> (i32, String) {
    let program = fs::File::open(env!("CARGO_BIN_EXE_defender-gateway")).unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        // That user may not reach the program by its path.
        .arg("/proc/self/fd/0")
        .stdin(program)
        .args(["check", "--config"])
        .arg(file);
    let output = command.env_clear().envs(IDS).env("AZURE_CLIENT_SECRET", "s").output();
    let output = output.expect("where root runs the tests, they need setpriv of util-linux");
    (output.status.code().unwrap(), stdout(&output) + &stderr(&output))
}

#[test]
fn folders_in_which_this_user_cannot_create_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let locked = folder.path().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    let path = locked.join("x").display().to_string();
    let file = folder.path().join("gateway.toml");
    // Root can write everywhere.
    let is_root = fs::write(locked.join("probe"), "").is_ok();
    for (text, key) in [
        (format!("[quota]\nstate_file = {path:?}"), "quota.state_file"),
        (
            format!("[server]\nlisten = [{:?}]", format!("unix:{path}")),
            "server.listen",
        ),
        (
            format!("[admin]\nlisten = {:?}", format!("unix:{path}")),
            "admin.listen",
        ),
    ] {
        fs::write(&file, &text).unwrap();
        let (code, output) = if is_root {
            checked_as_nobody(&file)
        } else {
            checked(&text, &[("AZURE_CLIENT_SECRET", "s")])
        };
        assert_eq!(code, 1, "{output}");
        assert!(output.contains("gateway.toml:2:"), "{output}");
        assert!(output.contains(&format!(" {key}: ")), "{output}");
        assert!(
            output.contains("locked: this user cannot create files in it"),
            "{output}"
        );
    }
}

#[test]
fn sockets_and_files_that_could_not_be_made_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for (text, said) in [
        (
            "listen = [\"unix:/no/such/folder/x.sock\"]".to_owned(),
            "/no/such/folder: there is no such directory",
        ),
        (
            format!("listen = [{:?}]", format!("unix:{}", file.display())),
            "there is something else than a socket",
        ),
    ] {
        let (code, output) = checked(&format!("[server]\n{text}"), &[("AZURE_CLIENT_SECRET", "s")]);
        assert!(code == 1 && output.contains(said), "{output}");
    }
    let good = format!(
        "[quota]\nstate_file = {:?}\n[server]\nlisten = [{:?}]",
        folder.path().join("state").display().to_string(),
        format!("unix:{}", folder.path().join("x.sock").display())
    );
    let before = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(checked(&good, &[("AZURE_CLIENT_SECRET", "s")]).0, 0);
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        before,
        "nothing is created"
    );
}

#[test]
fn ids_and_words_that_cannot_be_meant_are_named() {
    let secret = ("AZURE_CLIENT_SECRET", "s");
    let zero = "00000000-0000-0000-0000-000000000000";
    let short = "11111111-2222-3333-4444-55555555555";
    for name in ["AZURE_TENANT_ID", "AZURE_CLIENT_ID"] {
        for (value, said) in [
            (zero, "is the placeholder of the examples"),
            (short, "looks like a GUID, but is none"),
        ] {
            let (code, output) = checked("", &[secret, (name, value)]);
            assert!(code == 1 && output.contains(name) && output.contains(said), "{output}");
        }
    }
    for (word, meant) in [
        ("warning", "warn"),
        ("verbose", "debug"),
        ("Information", "info"),
        ("info,fatal", "error"),
    ] {
        let (code, output) = checked(&format!("[telemetry]\nlog = {word:?}"), &[secret]);
        let said = format!("did you mean {meant}?");
        assert!(
            code == 1 && output.contains("telemetry.log") && output.contains(&said),
            "{output}"
        );
    }
}

#[test]
fn two_credentials_at_once_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (secret, pem) = (folder.path().join("secret"), folder.path().join("both.pem"));
    fs::write(&secret, "value\n").unwrap();
    fs::write(&pem, format!("{CERTIFICATE}{KEY}")).unwrap();
    let text = format!(
        "[credentials]\nclient_secret_file = {:?}\ncertificate_file = {:?}\n",
        secret.to_str().unwrap(),
        pem.to_str().unwrap()
    );
    let (code, output) = checked(&text, &[]);
    assert_eq!(code, 0, "{output}");
    assert!(
        output.contains("client_secret and certificate are configured at once, and client_secret is used"),
        "{output}"
    );
    let ours = [("DEFENDER_GATEWAY_CREDENTIALS_CLIENT_SECRET", "value")];
    let (code, output) = checked(&text, &ours);
    assert!(code == 1 && output.contains("keep one of them"), "{output}");
}
