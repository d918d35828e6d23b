//! `demo`: a simulated tenant and a gateway in one process, and a few calls that show what it does.
//!
//! Everything printed is measured while it happens. A step whose claim does not hold ends the demo
//! with an error: it is a test as well.

mod fixture;
mod gateway;
mod output;
mod replicas;
mod script;
mod store;

use tokio_util::sync::CancellationToken;

use super::runtime::{block_on, watch_signals};
use super::{Demo, Error, print};
use crate::task::Tasks;
use fixture::Fixture;
use replicas::Replicas;

/// Shows the gateway at work on loopback, then serves until Ctrl-C, or ends with `--once`.
///
/// # Errors
/// When an address cannot be taken, or something did not work as it should.
pub fn demo(asked: &Demo) -> Result<(), Error> {
    let (once, replicas) = (asked.once, asked.replicas);
    block_on(None, async move {
        let stop = CancellationToken::new();
        let signals = Tasks::new();
        watch_signals(&signals, stop.clone(), CancellationToken::new())?;
        match replicas {
            None => alone(once, &stop).await,
            Some(count) => together(count, once, &stop).await,
        }
    })
}

async fn alone(once: bool, stop: &CancellationToken) -> Result<(), Error> {
    let fixture = Fixture::start().await?;
    let played = tokio::select! {
        played = script::play(&fixture) => played,
        () = stop.cancelled() => Ok(()),
    };
    if played.is_ok() && !once && !stop.is_cancelled() {
        print(&script::invitation(&fixture))?;
        stop.cancelled().await;
    }
    fixture.stop().await;
    played
}

async fn together(count: u32, once: bool, stop: &CancellationToken) -> Result<(), Error> {
    let mut replicas = Replicas::set(count).await?;
    let played = tokio::select! {
        played = replicas.play() => played,
        () = stop.cancelled() => Ok(()),
    };
    if played.is_ok() && !once && !stop.is_cancelled() {
        print(&replicas.invitation())?;
        stop.cancelled().await;
    }
    replicas.stop().await;
    played
}
