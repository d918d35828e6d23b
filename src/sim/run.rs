//! The simulator as a program of its own.

use std::future::Future;
use std::io;

use super::config::{CLIENT_SECRET, Config};
use super::limit::QuotaVerifier;
use super::simulator::Simulator;

/// Runs a simulator until `until` resolves. `print` gets whole lines of a gateway's configuration;
/// the addresses, and the summary at the end, are comments in it.
///
/// # Errors
///
/// It could not be started.
pub async fn run(config: Config, mut print: impl FnMut(&str), until: impl Future<Output = ()>) -> io::Result<()> {
    let shows_secret = config.client_secret.expose() == CLIENT_SECRET;
    let serves_tls = config.tls.is_some();
    let simulator = Simulator::start(config)?;
    print(&format!("# sign-in on {}", simulator.authority()));
    if serves_tls {
        print("# every address answers https, too");
    }
    for (name, url) in simulator.regions() {
        print(&format!("# region {name} on {url}"));
    }
    print("");
    for line in simulator.config_toml().lines() {
        print(line);
    }
    if shows_secret {
        print("");
        print(&format!("# export AZURE_CLIENT_SECRET='{CLIENT_SECRET}'"));
    }
    until.await;
    for finding in simulator.quota_verifiers().iter().flat_map(QuotaVerifier::findings) {
        print(&format!("# {finding}"));
    }
    for violation in simulator.violations() {
        print(&format!("# VIOLATION after {:?}: {}", violation.at, violation.what));
    }
    simulator.stop().await;
    Ok(())
}
