//! The terminal that `--watch` draws in: how large it is, and the key that ends it.

use std::io::{self, IsTerminal as _, Read as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// Without a terminal, nothing is cut and no key is read.
#[derive(Debug)]
pub(super) struct Terminal {
    /// How it was, to be restored.
    before: Option<Termios>,
    keys: Option<mpsc::Receiver<u8>>,
}

impl Terminal {
    /// Has keys arrive as they are pressed and unseen, until it is dropped.
    pub(super) fn open() -> Self {
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
    pub(super) fn fitted(text: &str) -> String {
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
    pub(super) async fn left(&mut self) {
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
mod tests {
    use super::*;

    #[test]
    fn nothing_is_drawn_outside_the_terminal_and_what_is_cut_is_marked() {
        let text = "gateway 1\nquota █████████████\nqueue\n";
        assert_eq!(
            drawn(text, usize::MAX, usize::MAX),
            "\u{1b}[Hgateway 1\u{1b}[K\nquota █████████████\u{1b}[K\nqueue\u{1b}[K\u{1b}[J"
        );
        let small = drawn(text, 2, 10);
        assert_eq!(small, "\u{1b}[Hgateway 1\u{1b}[K\n… 2 more …\u{1b}[K\u{1b}[J");
        assert_eq!(drawn(text, 3, 10).matches('\n').count(), 2);
    }
}
