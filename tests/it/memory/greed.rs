//! Callers who want more memory than there is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use defender_gateway::testing::task::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::support::{PATH, body, id};

/// How long a greedy caller waits for what does not come.
const PATIENCE: Duration = Duration::from_secs(70);

/// What became of the requests of a crowd.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    served: AtomicUsize,
    refused: AtomicUsize,
    /// No answer, or not all of it.
    cut: AtomicUsize,
    /// An answer that is neither good nor an honest refusal.
    wrong: AtomicUsize,
}

impl Outcome {
    pub(super) fn served(&self) -> usize {
        self.0.served.load(Ordering::Relaxed)
    }

    pub(super) fn refused(&self) -> usize {
        self.0.refused.load(Ordering::Relaxed)
    }

    pub(super) fn cut(&self) -> usize {
        self.0.cut.load(Ordering::Relaxed)
    }

    pub(super) fn wrong(&self) -> usize {
        self.0.wrong.load(Ordering::Relaxed)
    }

    fn count(&self, answer: Option<(u16, bool)>) {
        let count = match answer {
            None => &self.0.cut,
            Some((200, _)) => &self.0.served,
            Some((429 | 503, true)) => &self.0.refused,
            Some((status, _)) => {
                println!("neither good nor an honest refusal: {status}");
                &self.0.wrong
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits for all of them.
async fn ended(tasks: &Tasks) {
    while !tasks.is_empty() {
        sleep(Duration::from_millis(20)).await;
    }
}

fn head(target: &str, length: usize) -> String {
    format!(
        "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// So many connections with a head of 60 kB that does not end, held for so long; how many could be
/// made.
pub(super) async fn unfinished_heads(to: SocketAddr, count: usize, hold: Duration) -> usize {
    let start = format!("POST {PATH} HTTP/1.1\r\nHost: localhost\r\n");
    let field = format!("X-Long: {}\r\n", "y".repeat(990));
    let head: Arc<str> = (start + &field.repeat(60)).into();
    hold_each(to, count, hold, move |_| Arc::clone(&head)).await
}

/// So many bodies of a mebibyte of which the last byte does not come.
pub(super) async fn unfinished_bodies(to: SocketAddr, count: usize, hold: Duration) -> usize {
    let body = "x".repeat((1 << 20) - 1);
    let text: Arc<str> = (head(PATH, 1 << 20) + &body).into();
    hold_each(to, count, hold, move |_| Arc::clone(&text)).await
}

async fn hold_each(to: SocketAddr, count: usize, hold: Duration, text: impl Fn(usize) -> Arc<str>) -> usize {
    let tasks = Tasks::new();
    let made = Arc::new(AtomicUsize::new(0));
    for n in 0..count {
        let (text, made) = (text(n), Arc::clone(&made));
        tasks.spawn("holder", async move {
            let holding = async {
                let Ok(mut stream) = TcpStream::connect(to).await else {
                    return;
                };
                made.fetch_add(1, Ordering::Relaxed);
                // It may be hung up at any time.
                let _ = stream.write_all(text.as_bytes()).await;
                sleep(hold).await;
            };
            let _ = timeout(hold, holding).await;
        });
    }
    ended(&tasks).await;
    made.load(Ordering::Relaxed)
}

/// So many requests at once, each with an answer of so many thousand bytes that nobody else wants;
/// the readers pause for so long when an answer begins.
pub(super) async fn large_answers(
    to: SocketAddr,
    (first, count): (usize, usize),
    kilobytes: usize,
    pause: Duration,
) -> Outcome {
    let (outcome, tasks) = (Outcome::default(), Tasks::new());
    for n in first..first + count {
        let outcome = outcome.clone();
        tasks.spawn("reader", async move {
            let answer = timeout(PATIENCE, ask(to, n, kilobytes, pause)).await;
            outcome.count(answer.ok().flatten());
        });
    }
    ended(&tasks).await;
    outcome
}

/// The status, and whether it says when to come back; `None` when the answer is not whole.
pub(super) async fn ask(to: SocketAddr, n: usize, kilobytes: usize, pause: Duration) -> Option<(u16, bool)> {
    let mut stream = TcpStream::connect(to).await.ok()?;
    let body_bytes = body(&[id(n)]);
    let target = format!("{PATH}?$top={kilobytes}");
    let text = [head(&target, body_bytes.len()).as_bytes(), &body_bytes].concat();
    stream.write_all(&text).await.ok()?;
    let mut read = Vec::new();
    let end = loop {
        if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        more(&mut stream, &mut read).await?;
    };
    let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
    let status: u16 = head.get(9..12)?.parse().ok()?;
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))?
        .parse()
        .ok()?;
    if status == 200 {
        sleep(pause).await;
    }
    let mut taken = read.len() - end;
    while taken < length {
        read.clear();
        more(&mut stream, &mut read).await?;
        taken += read.len();
    }
    Some((status, head.contains("\r\nretry-after: ")))
}

async fn more(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<()> {
    let read = stream.read_buf(read).await;
    read.is_ok_and(|read| read > 0).then_some(())
}

/// So many HTTP/2 connections, each with as many requests as it may have whose bodies do not end,
/// held for so long.
pub(super) async fn unfinished_streams(to: SocketAddr, connections: usize, hold: Duration) {
    let tasks = Tasks::new();
    for _ in 0..connections {
        tasks.spawn("streams", async move {
            let _ = timeout(hold, streams(to)).await;
        });
    }
    ended(&tasks).await;
}

/// Until the gateway hangs up.
async fn streams(to: SocketAddr) -> Option<()> {
    let stream = TcpStream::connect(to).await.ok()?;
    let (sender, connection) = h2::client::handshake(stream).await.ok()?;
    let ended = Arc::new(Notify::new());
    let tasks = Tasks::new();
    let told = Arc::clone(&ended);
    tasks.spawn("connection", async move {
        let _ = connection.await;
        told.notify_one();
    });
    let mut held = Vec::new();
    for n in 0..90 {
        let mut sender = sender.clone().ready().await.ok()?;
        let request = http::Request::post(format!("http://localhost{PATH}"))
            .header("content-type", "application/json")
            .header("x-long", "y".repeat(4000 + n));
        let (answer, mut body) = sender.send_request(request.body(()).ok()?, false).ok()?;
        let _ = body.send_data(vec![b' '; 500].into(), false);
        held.push((answer, body));
    }
    ended.notified().await;
    Some(())
}

/// So many requests of ten thousand ids each, which all have to wait for the upstream; they go
/// when the time is over.
pub(super) async fn large_requests(to: SocketAddr, count: usize, hold: Duration) -> Outcome {
    let (outcome, tasks) = (Outcome::default(), Tasks::new());
    for n in 0..count {
        let outcome = outcome.clone();
        tasks.spawn("asker", async move {
            let ids: Vec<_> = (0..9000).map(|m| id(1_000_000 + n * 10_000 + m)).collect();
            let body_bytes = body(&ids);
            let asking = async {
                let mut stream = TcpStream::connect(to).await.ok()?;
                let text = [head(PATH, body_bytes.len()).as_bytes(), &body_bytes].concat();
                stream.write_all(&text).await.ok()?;
                let mut read = Vec::new();
                while !read.windows(4).any(|four| four == b"\r\n\r\n") {
                    more(&mut stream, &mut read).await?;
                }
                let head = String::from_utf8_lossy(&read).to_lowercase();
                Some((head.get(9..12)?.parse().ok()?, head.contains("\r\nretry-after: ")))
            };
            if let Ok(answer) = timeout(hold, asking).await {
                outcome.count(answer);
            }
        });
    }
    ended(&tasks).await;
    outcome
}
