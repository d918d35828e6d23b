//! `status`: the running gateway's state in a terminal.

mod render;

use std::io::{self, IsTerminal as _, Read as _};
use std::time::Duration;

use http::StatusCode;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::Value;
use tokio::sync::mpsc;

use super::admin_client::{AdminAddress, ask};
use super::process::block_on;
use super::{Error, Status, is_read, print};
use crate::config::Environment;
use render::render;

/// Asks the admin listener and prints what it says; with `--watch`, again every second until `q` or
/// Ctrl-C, or until nobody reads it any more.
///
/// # Errors
/// When nobody answers at the address at first.
pub fn status(asked: &Status) -> Result<(), Error> {
    let admin = AdminAddress::choose(asked.gateway.admin.as_ref(), &Environment::real())?;
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

/// The terminal that `--watch` draws in: how large it is, and the key that ends it. Without one,
/// nothing is cut and no key is read.
#[derive(Debug)]
struct Terminal {
    /// How it was, to be restored.
    before: Option<Termios>,
    keys: Option<mpsc::Receiver<u8>>,
}

impl Terminal {
    /// Has keys arrive as they are pressed and unseen, until it is dropped.
    fn open() -> Self {
        let stdin = io::stdin();
        let before = stdin.is_terminal().then(|| tcgetattr(&stdin).ok()).flatten();
        let keys = before.as_ref().and_then(|before| {
            let mut modes = before.clone();
            modes.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            tcsetattr(&stdin, OptionalActions::Now, &modes).ok()?;
            Some(keys())
        });
        Self { before, keys }
    }

    /// `text` for the whole screen: home, as many lines and columns as there are, and nothing of
    /// what was there before.
    fn fitted(text: &str) -> String {
        let size = tcgetwinsize(io::stdout()).ok();
        let size = size.filter(|size| size.ws_row > 0 && size.ws_col > 0);
        let (rows, columns) = size.map_or((usize::MAX, usize::MAX), |size| {
            (size.ws_row.into(), size.ws_col.into())
        });
        drawn(text, rows, columns)
    }

    /// Resolves when `q` is pressed.
    ///
    /// # Cancel safety
    /// A key that was pressed is not lost.
    async fn left(&mut self) {
        let Some(keys) = &mut self.keys else {
            return std::future::pending().await;
        };
        while let Some(key) = keys.recv().await {
            if key.eq_ignore_ascii_case(&b'q') {
                return;
            }
        }
        // The input has ended; the screen goes on.
        std::future::pending::<()>().await;
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // A terminal that is gone needs no restoring.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// The keys, read by a thread of their own that ends with the process: a read from a terminal
/// cannot be given up.
fn keys() -> mpsc::Receiver<u8> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut key = [0];
        while matches!(io::stdin().lock().read(&mut key), Ok(1)) && sender.blocking_send(key[0]).is_ok() {}
    });
    receiver
}

/// The last line stays empty of a line break, which would scroll. What does not fit is cut, with a
/// mark.
fn drawn(text: &str, rows: usize, columns: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    let shown = if lines.len() > rows { rows - 1 } else { lines.len() };
    let mut drawn: Vec<_> = lines[..shown].iter().map(|line| cut(line, columns)).collect();
    if shown < lines.len() {
        drawn.push(cut(&format!("… {} more lines; q leaves", lines.len() - shown), columns));
    }
    format!("\u{1b}[H{}\u{1b}[K\u{1b}[J", drawn.join("\u{1b}[K\n"))
}

fn cut(line: &str, columns: usize) -> String {
    if line.chars().count() <= columns {
        return line.to_owned();
    }
    let kept = line.chars().take(columns.saturating_sub(1));
    kept.chain(['…']).collect()
}

#[cfg(test)]
mod tests;
