//! `simulate`: the simulated upstream alone.

use std::path::Path;

use super::process::{block_on, watch_signals};
use super::{Error, Simulate, print};

/// Starts the simulator and prints a configuration that points a gateway at it; ends at Ctrl-C.
///
/// # Errors
/// A scenario that cannot be read, an address that is taken.
pub fn simulate(asked: &Simulate) -> Result<(), Error> {
    let mut config = sim::Config {
        listen: asked.listen,
        ..sim::Config::default()
    };
    config.sign_in.assertions = sim::Assertions::UntilExpiry;
    if let Some(path) = &asked.scenario {
        config = config
            .with_scenario_file(path)
            .map_err(|error| Error::user(error.to_string()))?;
    }
    if let Some(limits) = &asked.limit {
        config.limits.clone_from(limits);
    }
    if let Some(casing) = asked.casing {
        config.history.casing = casing;
    }
    for path in &asked.certificates {
        config.certificates.extend(certificates(path)?);
    }
    if let Some(path) = &asked.tls_ca {
        config.tls = Some(tls(path)?);
    }
    if let Some(path) = &asked.log {
        let log = sim::Log::to_file(path).map_err(|error| Error::user(format!("{}: {error}", path.display())))?;
        config.log = Some(log);
    }
    block_on(None, serve(config))
}

/// Certificates of the application.
fn certificates(path: &Path) -> Result<Vec<sim::Certificate>, Error> {
    let wrong = |error: &dyn std::fmt::Display| Error::user(format!("--certificate {}: {error}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| wrong(&error))?;
    sim::Certificate::from_file(&bytes).map_err(|error| wrong(&error))
}

/// TLS, with its certificate authority in a file.
fn tls(path: &Path) -> Result<sim::Tls, Error> {
    let wrong = |error: std::io::Error| Error::user(format!("--tls-ca {}: {error}", path.display()));
    let tls = sim::Tls::generate().map_err(wrong)?;
    std::fs::write(path, tls.authority_pem()).map_err(wrong)?;
    Ok(tls)
}

async fn serve(config: sim::Config) -> Result<(), Error> {
    let listen = config.listen;
    let [stop, _] = watch_signals()?;
    let ran = sim::run(config, |line| drop(print(&format!("{line}\n"))), stop.cancelled()).await;
    ran.map_err(|error| Error::user(format!("cannot listen on {listen}: {error}")))
}
