use std::io;
use std::path::Path;

use defender_gateway::testing::config::{self, Environment, Files, Found, Key, keys, variable};

/// Stands for whatever must not be repeated.
const MARK: &str = "hunter2hunter2";

/// Variables whose values are secret from end to end.
const SECRET: [&str; 3] = [
    variable::CLIENT_SECRET,
    variable::IDENTITY_HEADER,
    variable::OTLP_HEADERS,
];

/// Variables that may hold a password in an address.
const ADDRESS: [&str; 6] = [
    "DEFENDER_GATEWAY_STORE_URL",
    variable::HTTPS_PROXY,
    variable::HTTPS_PROXY_LOWER,
    variable::OTLP_ENDPOINT,
    variable::OTLP_TRACES_ENDPOINT,
    variable::IDENTITY_ENDPOINT,
];

/// Variables that are no keys: nothing that is shown says what they hold.
fn is_key(name: &str) -> bool {
    name.starts_with(Key::PREFIX) || keys().any(|key| key.in_file() && key.borrowed.contains(&name))
}

/// Every path is a file with a certificate, a key and a token, except for a few.
#[derive(Debug)]
struct Everywhere;

impl Files for Everywhere {
    fn look(&self, path: &Path) -> io::Result<Found> {
        match path.as_os_str().as_encoded_bytes() {
            b"" | b"/none" => Err(io::ErrorKind::NotFound.into()),
            b"/locked" => Err(io::ErrorKind::PermissionDenied.into()),
            b"/" | b"." | b"/etc" => Ok(Found::Directory),
            b"/dev/null" => Ok(Found::Other),
            _ => Ok(Found::File { bytes: 60 }),
        }
    }

    fn read(&self, path: &Path, _: u64) -> io::Result<Vec<u8>> {
        self.look(path)?;
        Ok("-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n".into())
    }
}

/// Variables, a `NAME=value` each, an empty line, the file: it is read or refused, no secret is
/// repeated, and what is shown of it is a file that says the same.
pub(crate) fn config(data: &[u8]) {
    let (lines, text) = super::parts(data);
    let (lines, text) = (String::from_utf8_lossy(lines), String::from_utf8_lossy(text));
    // A file may hold what a variable holds, and be shown.
    let (lines, text) = (lines.replace(MARK, ""), text.replace(MARK, ""));
    let variables: Vec<(&str, String)> = lines
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| {
            if SECRET.contains(&name) {
                (name, format!("{value}{MARK}"))
            } else if ADDRESS.contains(&name) {
                (name, with_password(value))
            } else {
                (name, value.to_owned())
            }
        })
        .collect();
    let text: String = text
        .split_inclusive('\n')
        .map(|line| match line.strip_prefix("url = ") {
            Some(address) => format!("url = {}", with_password(address)),
            None => line.to_owned(),
        })
        .collect();
    let environment: Environment = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let path = Path::new("gateway.toml");
    let loaded = match config::parse(path, &text, &environment, &Everywhere) {
        Ok(loaded) => loaded,
        Err(mistakes) => {
            assert!(!mistakes.list().is_empty());
            return silent(&format!("{mistakes} {mistakes:?}"));
        }
    };
    let shown = loaded.resolved.settings.show(Some(path));
    silent(&shown);
    silent(&format!("{loaded:?} {environment:?} {}", loaded.notes.join("\n")));

    let rest = variables.iter().filter(|(name, _)| !is_key(name));
    let environment: Environment = rest.map(|(name, value)| (*name, value.as_str())).collect();
    // What was cut out of an address cannot be put back.
    if !shown.contains("redacted") {
        let again = config::parse(path, &shown, &environment, &Everywhere);
        let again = again.unwrap_or_else(|mistakes| panic!("{mistakes}\n{shown}"));
        assert_eq!(
            again.resolved.settings.digest(),
            loaded.resolved.settings.digest(),
            "{shown}"
        );
    }
}

fn with_password(address: &str) -> String {
    address.replace(":secret@", &format!(":{MARK}@"))
}

fn silent(said: &str) {
    assert!(!said.contains(MARK), "{said}");
}
