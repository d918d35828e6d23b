//! `status`: the running gateway's state in a terminal.

mod render;
mod terminal;
#[cfg(test)]
mod tests;

use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use self::render::render;
use self::terminal::Terminal;
use super::admin_client::{AdminAddress, ask};
use super::output::is_read;
use super::runtime::block_on;
use super::{Error, Status, print};
use crate::config::Environment;

/// Asks the admin listener and prints what it says; with `--watch`, again every second until `q` or
/// Ctrl-C, or until nobody reads it any more.
///
/// # Errors
/// When nobody answers at the address at first.
pub fn status(asked: &Status) -> Result<(), Error> {
    let admin = AdminAddress::choose(asked.admin.as_ref(), &Environment::real())?;
    block_on(None, async {
        if !asked.watch {
            return print(&look(&admin).await?);
        }
        let mut text = look(&admin).await?;
        let mut terminal = Terminal::open();
        loop {
            if !is_read(&Terminal::fitted(&text))? {
                return Ok(());
            }
            let later = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                look(&admin).await
            };
            tokio::select! {
                // A gateway that restarts will answer again.
                looked = later => text = looked.unwrap_or_else(|error| error.to_string()),
                _ = tokio::signal::ctrl_c() => return Ok(()),
                () = terminal.left() => return Ok(()),
            }
        }
    })
}

const PATIENCE: Duration = Duration::from_secs(5);

async fn look(admin: &AdminAddress) -> Result<String, Error> {
    let state = fetch(admin, "/status").await?;
    // A gateway of an older version has none; the rest is worth showing.
    let past = fetch(admin, "/history").await.unwrap_or_default();
    Ok(render(&state, &past))
}

async fn fetch(admin: &AdminAddress, path: &str) -> Result<Value, Error> {
    let unreachable = |why: String| Error::user(format!("no gateway answers at {admin}: {why}"));
    let (status, text) = ask(admin, path, PATIENCE)
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    if status != StatusCode::OK {
        return Err(unreachable(format!("it says {status}; is that the admin address?")));
    }
    serde_json::from_str(&text).map_err(|error| unreachable(format!("its answer is no JSON: {error}")))
}
