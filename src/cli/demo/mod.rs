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
    block_on(None, async move {
        let stop = CancellationToken::new();
        let signals = Tasks::new();
        watch_signals(&signals, stop.clone(), CancellationToken::new())?;
        match asked.replicas {
            None => alone(asked, &stop).await,
            Some(count) => together(count, asked, &stop).await,
        }
    })
}

async fn alone(asked: &Demo, stop: &CancellationToken) -> Result<(), Error> {
    let fixture = Fixture::start().await?;
    let steps = async {
        script::play(&fixture).await?;
        Ok(script::invitation(&fixture))
    };
    let played = play(steps, asked, stop).await;
    fixture.stop().await;
    played
}

async fn together(count: u32, asked: &Demo, stop: &CancellationToken) -> Result<(), Error> {
    let mut replicas = Replicas::set(count).await?;
    let steps = async {
        replicas.play().await?;
        Ok(replicas.invitation())
    };
    let played = play(steps, asked, stop).await;
    replicas.stop().await;
    played
}

/// Plays `steps`, which end with an invitation to try it.
async fn play(
    steps: impl Future<Output = Result<String, Error>>,
    asked: &Demo,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let invitation = tokio::select! {
        played = steps => played?,
        () = stop.cancelled() => return Ok(()),
    };
    if !asked.once && !stop.is_cancelled() {
        print(&invitation)?;
        stop.cancelled().await;
    }
    Ok(())
}
