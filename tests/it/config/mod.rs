//! The configuration, from the outside: texts and variables in, values or mistakes out.

mod binary;
mod credentials;
mod environment;
mod example;
mod files;
mod mistake;
mod place;
mod proof;
mod property;
mod readme;
mod rule;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use defender_gateway::testing::config::{self, Environment, Files, Found, Loaded, Mistakes, Resolved};

/// The least that lets a configuration stand.
const SIGN_IN: [(&str, &str); 3] = [
    ("AZURE_TENANT_ID", "11111111-2222-3333-4444-555555555555"),
    ("AZURE_CLIENT_ID", "66666666-7777-8888-9999-000000000000"),
    ("AZURE_CLIENT_SECRET", "hunter2"),
];

/// Files that exist only here. A path that ends with a slash is a directory; one with `!` in it may
/// not be read.
#[derive(Debug)]
struct Memory(BTreeMap<PathBuf, &'static str>);

impl Memory {
    fn new() -> Self {
        let files = [
            ("/etc/secret", "hunter2"),
            ("/etc/empty", ""),
            ("/etc/cert.pem", "-----BEGIN CERTIFICATE-----"),
            (
                "/etc/both.pem",
                "-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----",
            ),
            (
                "/etc/locked.pem",
                "-----BEGIN CERTIFICATE-----\n-----BEGIN ENCRYPTED PRIVATE KEY-----",
            ),
            ("/etc/ec.pem", "-----BEGIN EC PRIVATE KEY-----"),
            ("/etc/cert.pfx", "0\u{1}"),
            ("/etc/key.pem", "-----BEGIN PRIVATE KEY-----"),
            ("/etc/token", "e.y.j"),
            ("/etc/ca.pem", include_str!("../../data/sim/app-cert.pem")),
        ];
        Self(files.into_iter().map(|(path, text)| (path.into(), text)).collect())
    }
}

impl Files for Memory {
    fn look(&self, path: &Path) -> io::Result<Found> {
        if [Path::new("/etc"), Path::new(".")].contains(&path) {
            return Ok(Found::Directory);
        }
        if path.to_string_lossy().contains('!') {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let text = self.0.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Found::File {
            bytes: text.len() as u64,
        })
    }

    fn read(&self, path: &Path, _limit: u64) -> io::Result<Vec<u8>> {
        self.look(path)?;
        Ok(self.0.get(path).copied().unwrap_or_default().into())
    }
}

/// `text` and exactly these variables.
fn parse(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, Mistakes> {
    let env: Environment = variables.iter().copied().collect();
    config::parse(Path::new("g.toml"), text, &env, &Memory::new())
}

/// `text` and `variables`, with something to sign in with.
fn signed_in(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, Mistakes> {
    parse(text, &[&SIGN_IN, variables].concat())
}

/// The values of a `text` without mistakes.
fn resolved(text: &str, variables: &[(&str, &str)]) -> Resolved {
    signed_in(text, variables)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
        .resolved
}

/// The lines printed for `text`.
fn mistakes(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let mistakes = signed_in(text, variables).expect_err("there should be a mistake");
    mistakes.to_string().lines().map(str::to_owned).collect()
}

/// Asserts that `text` has exactly one mistake, which begins and goes on as said.
#[track_caller]
fn assert_one(text: &str, variables: &[(&str, &str)], begins: &str, holds: &str) {
    let lines = mistakes(text, variables);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(
        lines[0].starts_with(begins),
        "{}\ndoes not begin with\n{begins}",
        lines[0]
    );
    assert!(lines[0].contains(holds), "{}\ndoes not hold\n{holds}", lines[0]);
}
