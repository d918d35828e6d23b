//! `probe`: tries the real thing and says what it is like.
//!
//! Every call is paid from the same ledger as the gateway's, state file included. It knows nothing
//! of calls that a running gateway makes meanwhile: probe before the gateway starts, or leave it
//! some quota.

mod experiment;
mod findings;
mod report;
#[cfg(test)]
mod tests;

use super::runtime::{block_on, watch_signals};
use super::{Error, Probe, hardening, print};
use crate::config::{self, Disk, Environment};
use crate::task::Tasks;
use tokio_util::sync::CancellationToken;

/// Signs in, measures the regions, makes one small call and as many more as asked for; prints the
/// evidence and recommends settings.
///
/// # Errors
/// The configuration is wrong, sign-in or Defender refuses the credentials, or nothing can be
/// reached.
pub fn probe(asked: &Probe) -> Result<(), Error> {
    // Best done, and nothing to stop for.
    let _ = hardening::seal();
    let loaded = config::load(asked.config.config.as_deref(), &Environment::real(), &Disk)?;
    let ids = experiment::Ids::try_new(&asked.ids)?;
    block_on(None, async move {
        let stop = CancellationToken::new();
        let signals = Tasks::new();
        watch_signals(&signals, stop.clone(), CancellationToken::new())?;
        let mut report = report::Report::default();
        let outcome = tokio::select! {
            outcome = experiment::run(&loaded.resolved, &ids, asked.calls, &mut report) => outcome,
            () = stop.cancelled() => Err(Error::user("stopped")),
        };
        // What was found out before an error is worth reading.
        print(&report.to_string())?;
        outcome
    })
}
