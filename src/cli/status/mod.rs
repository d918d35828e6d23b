//! `status`: the running gateway's state in a terminal.

mod show;

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use serde_json::Value;
use tower::ServiceExt as _;

use self::show::show;
use super::runtime::block_on;
use super::{Error, Status, print};
use crate::net;

/// Asks the admin listener and prints what it says; with `--watch`, again every second until Ctrl-C.
///
/// # Errors
/// When nobody answers at the address.
pub fn status(asked: &Status) -> Result<(), Error> {
    block_on(None, async {
        let client = net::Client::new(&net::Config::default());
        let client = client.map_err(|error| Error::failed("cannot make a client", error))?;
        let exchange = client.exchange(LARGEST, PATIENCE);
        if !asked.watch {
            return print(&look(&exchange, &asked.admin).await?);
        }
        loop {
            let text = look(&exchange, &asked.admin).await?;
            // Home, the state, and whatever the last one left below it.
            let text = text.replace('\n', "\u{1b}[K\n");
            print(&format!("\u{1b}[H{text}\u{1b}[J"))?;
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
        }
    })
}

const LARGEST: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(5);

async fn look(exchange: &net::Exchange, admin: &str) -> Result<String, Error> {
    let state = fetch(exchange, admin, "/status").await?;
    // A gateway of an older version has none; the rest is worth showing.
    let past = fetch(exchange, admin, "/history").await.unwrap_or_default();
    Ok(show(&state, &past))
}

async fn fetch(exchange: &net::Exchange, admin: &str, path: &str) -> Result<Value, Error> {
    let base = if admin.contains("://") {
        admin.to_owned()
    } else {
        format!("http://{admin}")
    };
    let unreachable = |why: String| Error::user(format!("no gateway answers at {base}: {why}"));
    let request = Request::get(format!("{}{path}", base.trim_end_matches('/'))).body(Bytes::new());
    let request = request.map_err(|error| Error::user(format!("{admin} is no address: {error}")))?;
    let answer = exchange
        .clone()
        .oneshot(request)
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    if !answer.status().is_success() {
        return Err(unreachable(format!(
            "it says {}; is that the admin address?",
            answer.status()
        )));
    }
    serde_json::from_slice(answer.body()).map_err(|error| unreachable(format!("its answer is no JSON: {error}")))
}
