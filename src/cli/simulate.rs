//! `simulate`: the simulated upstream alone.

use std::fmt::Write as _;

use tokio_util::sync::CancellationToken;

use super::runtime::{block_on, watch_signals};
use super::{Error, Simulate, note, print};
use crate::sim::{self, Simulator};
use crate::task::Tasks;

/// Starts the simulator and prints a configuration that points a gateway at it; ends at Ctrl-C.
///
/// # Errors
/// A scenario that cannot be read, an address that is taken.
pub fn simulate(asked: &Simulate) -> Result<(), Error> {
    let mut config = sim::Config {
        listen: asked.listen,
        ..sim::Config::default()
    };
    if let Some(path) = &asked.scenario {
        config = config
            .with_scenario_file(path)
            .map_err(|error| Error::user(error.to_string()))?;
    }
    if let Some(limits) = &asked.limit {
        config.limits = limits.clone();
    }
    if let Some(path) = &asked.log {
        let log = sim::Log::to_file(path).map_err(|error| Error::user(format!("{}: {error}", path.display())))?;
        config.log = Some(log);
    }
    block_on(None, serve(config))
}

async fn serve(config: sim::Config) -> Result<(), Error> {
    let listen = config.listen;
    let simulator = Simulator::start(config);
    let simulator = simulator.map_err(|error| Error::user(format!("cannot listen on {listen}: {error}")))?;
    let stop = CancellationToken::new();
    let signals = Tasks::new();
    watch_signals(&signals, stop.clone(), CancellationToken::new())?;
    note(&addresses(&simulator));
    print(&simulator.config_toml())?;
    stop.cancelled().await;
    let judge = simulator.judge();
    for finding in judge.findings() {
        note(&format!(
            "{}: at most {} calls arrived in any {:?}",
            finding.limit,
            finding.most,
            finding.limit.window()
        ));
    }
    let violations = simulator.violations();
    for violation in &violations {
        note(&format!("violation after {:?}: {}", violation.at, violation.what));
    }
    simulator.stop().await;
    Ok(())
}

fn addresses(simulator: &Simulator) -> String {
    let mut text = format!("sign-in on {}", simulator.authority());
    for (name, url) in simulator.regions() {
        // Writing to a String cannot fail.
        let _ = write!(text, "\nregion {name} on {url}");
    }
    text.push_str("\nthe configuration of a gateway for it is on stdout; Ctrl-C ends");
    text
}
