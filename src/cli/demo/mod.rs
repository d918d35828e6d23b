//! `demo`: a simulated tenant and a gateway in one process, and a few calls that show what it does.
//!
//! Everything printed is measured while it happens. A step whose claim does not hold ends the demo
//! with an error: it is a test as well.

mod gateway;
mod replicas;
mod script;

use std::fmt::Write as _;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::process::{block_on, watch_signals};
use super::{Demo, Error, print};
use gateway::{Fixture, Told};
use replicas::Replicas;
use sim::Simulator;

/// Shows the gateway at work on loopback, then serves until Ctrl-C, or ends with `--once`.
///
/// # Errors
/// When an address cannot be taken, or something did not work as it should.
pub fn demo(asked: &Demo) -> Result<(), Error> {
    block_on(None, async move {
        let [stop, _] = watch_signals()?;
        if let Some(count) = asked.replicas {
            let mut replicas = Replicas::set(count).await?;
            let shown = show(replicas.play(), asked, &stop).await;
            replicas.stop().await;
            shown
        } else {
            let fixture = Fixture::start().await?;
            let shown = show(script::play(&fixture), asked, &stop).await;
            fixture.stop().await;
            shown
        }
    })
}

/// Plays `steps`, which end with an invitation to try it.
async fn show(
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

/// The id of the demo's n-th scan definition.
fn definition(n: u32) -> String {
    format!("60c4aa2d-7f35-4b8f-9e0a-{n:012x}")
}

/// Prints a step.
fn step(title: &str, lines: &[String]) -> Result<(), Error> {
    let mut text = format!("\n{title}\n");
    for line in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {line}");
    }
    print(&text)
}

/// Ends the demo when what it shows is not what it promises.
fn claim(holds: bool, what: impl FnOnce() -> String) -> Result<(), Error> {
    if holds {
        Ok(())
    } else {
        Err(Error::failed("the demo did not go as promised", what()))
    }
}

/// Those that were answered, and those that were refused, which have to know when to come back.
fn parted(told: &[Told]) -> Result<(Vec<&Told>, Vec<&Told>), Error> {
    let (good, refused): (Vec<_>, Vec<_>) = told.iter().partition(|told| told.status() == 200);
    let honest = refused
        .iter()
        .all(|told| told.status() == 429 && told.field("retry-after") != "-");
    claim(honest && !good.is_empty(), || {
        let statuses: Vec<_> = refused.iter().map(|told| told.status()).collect();
        format!("{} good, {statuses:?}", good.len())
    })?;
    Ok((good, refused))
}

/// A time, for people.
fn ms(span: Duration) -> String {
    format!("{:.1} ms", span.as_secs_f64() * 1000.0)
}

/// What `/status` says about how requests were answered, the most frequent first.
fn causes(by: &serde_json::Value) -> String {
    let mut causes: Vec<(u64, &str)> = by
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(cause, count)| Some((count.as_u64().filter(|count| *count > 0)?, cause.as_str())))
        .collect();
    causes.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    let causes: Vec<_> = causes.iter().map(|(count, cause)| format!("{count} {cause}")).collect();
    causes.join(", ")
}

/// How many requests were answered, and with how many calls as the upstream counted them.
/// `attempts` is how many the gateways have paid for: there are more of those when some got lost on
/// the way.
fn answered(requests: u64, simulator: &Simulator, attempts: u64) -> String {
    let calls = simulator.judge().seen();
    let mut text = format!("{requests} requests answered with {calls} upstream calls");
    let lost = attempts.saturating_sub(u64::try_from(calls).unwrap_or(u64::MAX));
    if lost > 0 {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            " ({attempts} attempts: {lost} got lost on the way to a region that went away, and {} paid for all the same, because only the \
             upstream can know that)",
            if lost == 1 { "is" } else { "are" }
        );
    }
    text
}

/// The verdict of the simulated upstream.
///
/// # Errors
/// When a limit was passed, a call refused, or anything came that the upstream does not know.
fn counted(simulator: &Simulator) -> Result<String, Error> {
    let (judge, violations) = (simulator.judge(), simulator.violations());
    let calls = simulator.calls();
    let throttled = calls.iter().filter(|call| call.status == Some(429)).count();
    claim(judge.is_satisfied() && throttled == 0 && violations.is_empty(), || {
        format!("{throttled} answers of 429, {violations:?}, {:?}", judge.findings())
    })?;
    let findings = judge.findings();
    let most = findings
        .iter()
        .map(|finding| format!("{} in any {}", finding.most, window(finding.limit.window())));
    Ok(format!(
        "as the upstream counted: at most {}, never over its limits, no 429",
        most.collect::<Vec<_>>().join(", ")
    ))
}

/// A window, for people.
fn window(length: Duration) -> String {
    match length.as_secs() {
        60 => "minute".into(),
        3600 => "hour".into(),
        seconds => format!("{seconds} s"),
    }
}
