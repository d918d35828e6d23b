//! What `status --watch` does to a terminal.

use std::process::Stdio;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use crate::support::{Setup, within};

const ROWS: usize = 7;
const COLUMNS: usize = 40;

/// Where each picture begins.
const HOME: &str = "\u{1b}[H";

/// `status --watch` in a terminal of its own, which `script` makes.
struct Watched {
    child: Child,
    seen: String,
}

impl Watched {
    fn start(admin: &str) -> Self {
        let program = env!("CARGO_BIN_EXE_defender-gateway");
        let watch = format!(
            "stty rows {ROWS} columns {COLUMNS}; {program} status --watch --admin {admin}; echo \"ended with $?\"; stty -a"
        );
        let child = Command::new("script")
            .args(["-q", "-c", &watch, "/dev/null"])
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            child,
            seen: String::new(),
        }
    }

    /// Waits until that much has been seen.
    async fn until(&mut self, what: &str, is_seen: impl Fn(&str) -> bool) {
        let out = self.child.stdout.as_mut().unwrap();
        let mut bytes = [0; 4096];
        let mut all = Vec::from(std::mem::take(&mut self.seen));
        let read = async {
            loop {
                let text = String::from_utf8_lossy(&all).into_owned();
                if is_seen(&text) {
                    return text;
                }
                let read = out.read(&mut bytes).await.unwrap();
                assert!(read > 0, "no {what} in {text:?}");
                all.extend_from_slice(&bytes[..read]);
            }
        };
        self.seen = within(what, read).await;
    }

    async fn press(&mut self, key: u8) {
        self.child.stdin.as_mut().unwrap().write_all(&[key]).await.unwrap();
    }
}

#[tokio::test]
async fn watching_goes_on_while_the_gateway_restarts() {
    let running = Setup::new().start().await;
    let admin = running.admin.base().strip_prefix("http://").unwrap().to_owned();
    let mut watched = Watched::start(&admin);
    watched.until("first picture", |seen| seen.contains("q leaves")).await;
    running.finish().await;
    watched
        .until("that nobody answers", |seen| seen.contains("no gateway answers"))
        .await;
    let before = watched.seen.matches(HOME).count();
    watched
        .until("a further picture", |seen| seen.matches(HOME).count() > before)
        .await;
    watched.press(b'q').await;
    watched.until("its end", |seen| seen.contains("ended with 0")).await;
}

#[tokio::test]
async fn watching_fits_a_small_terminal_ends_on_q_and_leaves_the_terminal_as_it_was() {
    let running = Setup::new().start().await;
    let admin = running.admin.base().strip_prefix("http://").unwrap().to_owned();
    let mut watched = Watched::start(&admin);
    watched.until("first picture", |seen| seen.contains("q leaves")).await;
    // Another key does nothing: there is a further picture.
    let before = watched.seen.matches(HOME).count();
    watched.press(b'x').await;
    let is_further = |seen: &str| seen.matches(HOME).count() > before + 1;
    watched.until("a further picture", is_further).await;
    watched.press(b'q').await;
    watched.until("its end", |seen| seen.contains("iexten")).await;
    assert!(watched.seen.contains("ended with 0"), "{}", watched.seen);

    let (pictures, after) = watched.seen.split_once("ended with").unwrap();
    for mode in [" icanon", " echo "] {
        assert!(after.contains(mode), "no {mode:?} in {after}");
    }
    for picture in pictures.split(HOME).skip(1) {
        let lines: Vec<_> = picture.lines().collect();
        assert!(lines.len() <= ROWS, "{picture:?}");
        for line in lines {
            let text = line.replace("\u{1b}[K", "").replace("\u{1b}[J", "");
            assert!(text.trim_end().chars().count() <= COLUMNS, "{text:?}");
        }
    }
    running.finish().await;
}

#[tokio::test]
async fn watching_ends_when_nobody_reads() {
    let running = Setup::new().start().await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_defender-gateway"))
        .args(["status", "--watch", "--admin", running.admin.base()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let keyboard = child.stdin.take();
    let mut out = child.stdout.take().unwrap();
    assert!(out.read(&mut [0]).await.unwrap() > 0);
    drop(out);
    assert!(within("its end", child.wait()).await.unwrap().success());
    drop((keyboard, child));
    running.finish().await;
}
