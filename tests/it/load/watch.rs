//! Somebody who looks whether a program lives, and what it holds, all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::{ProcessUsage, Program};

/// How often it looks.
const EVERY: Duration = Duration::from_millis(50);

/// A thread of its own: whoever makes the load must not delay whoever looks.
#[derive(Debug)]
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// How long each answer to `/livez` took, on a connection of its own as the kubelet's probes
    /// are.
    pub(super) lives: Vec<Duration>,
    /// What was wrong with others.
    pub(super) wrong: Vec<String>,
    pub(super) held: Vec<ProcessUsage>,
}

impl Watch {
    /// Watches `program` from now on.
    pub(super) fn over(program: &Program) -> Self {
        let (pid, admin) = (program.pid(), program.admin().base().replace("http://", ""));
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let body = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(look(pid, &admin, &stopping))
        };
        let thread = std::thread::Builder::new().name("watch".into()).spawn(body).unwrap();
        Self { stop, thread }
    }

    /// Ends it.
    pub(super) fn finish(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

async fn look(pid: u32, admin: &str, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        seen.held.push(ProcessUsage::of(pid));
        let from = Instant::now();
        match tokio::time::timeout(Duration::from_secs(5), probe(admin)).await {
            Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 200 ") => seen.lives.push(from.elapsed()),
            other => seen.wrong.push(format!("/livez: {other:?}")),
        }
        tokio::time::sleep(EVERY).await;
    }
    seen
}

async fn probe(admin: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(admin).await?;
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

impl Seen {
    /// Fails when an answer was missing, more than one in a hundred took longer than `usual`, or
    /// one longer than `most`: whoever looks is itself kept waiting by a busy machine.
    pub(super) fn assert_alive(&self, usual: Duration, most: Duration) {
        assert!(self.wrong.is_empty(), "{:?}", self.wrong);
        let (nearly_all, all) = (self.lives_within(99), self.lives_within(100));
        assert!(
            nearly_all <= usual && all <= most,
            "/livez: 99 % within {nearly_all:?}, all within {all:?}"
        );
    }

    /// Within which time so many answers of a hundred came.
    fn lives_within(&self, percent: usize) -> Duration {
        let mut lives = self.lives.clone();
        lives.sort_unstable();
        lives[(lives.len() * percent / 100).min(lives.len() - 1)]
    }

    /// Fails when memory in the later part was more than half above what it was in the first
    /// `share` of the time, and more than `slack`.
    pub(super) fn assert_flat(&self, share: f64, slack_kib: usize) {
        let (steady, most) = self.memory(share);
        assert!(
            most <= (steady + steady / 2).max(steady + slack_kib),
            "{steady} KiB, then {most} KiB"
        );
    }

    /// The most memory in the first `share` of the time, and in the rest.
    fn memory(&self, share: f64) -> (usize, usize) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a position in a list"
        )]
        let (first, rest) = self.held.split_at((self.held.len() as f64 * share) as usize);
        let most = |part: &[ProcessUsage]| part.iter().map(|held| held.memory_kib).max().unwrap_or(0);
        (most(first), most(rest))
    }

    /// In one line.
    pub(super) fn report(&self, share: f64) -> String {
        let (steady, most) = self.memory(share);
        let files = self.held.iter().map(|held| held.files).max();
        format!(
            "/livez {} times: half within {:?}, 99 % within {:?}, the slowest {:?}; memory {steady} KiB at first, then at most {most} KiB; \
             at most {files:?} files open",
            self.lives.len(),
            self.lives_within(50),
            self.lives_within(99),
            self.lives_within(100),
        )
    }
}
