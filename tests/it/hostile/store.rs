//! A store that says anything but what it was asked.
//!
//! The gateway has a line to a real Redis, which turns against it: what the store answers is
//! replaced, on new connections and on those that hear messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

use defender_gateway::testing::sim::Shape;
use defender_gateway::testing::task::Tasks;

use crate::support::redis::Redis;
use crate::support::{ProcessUsage, Setup, Spawned, id, until, within};

/// What memory may grow by while it lasts: four connections, each with an answer of 8 MiB and,
/// while its buffer doubles, twice as much beside it. Unmeasured, half a second of one endless
/// string takes 350 MiB.
const SLACK_KIB: usize = 112 * 1024;

/// How long each attack has the stage.
const ACT: Duration = Duration::from_millis(500);

/// How the store answers.
#[derive(Clone, Debug)]
enum Mood {
    /// As it should.
    Good,
    /// Each request with one of these, in turn.
    Says(Vec<Vec<u8>>),
    /// The first request with this, and then that without end.
    Streams(Vec<u8>, Vec<u8>),
    /// One byte a second of this.
    Drips(Vec<u8>),
    /// With one of these, in turn, and the end of the connection.
    Leaves(Vec<Vec<u8>>),
    /// With this, before anything was asked and over and over.
    Shouts(Vec<u8>),
    /// All is well, but to those who listen for messages it says this, and then that without end.
    Murmurs(Vec<u8>, Vec<u8>),
}

/// A line to a store that can turn against us.
struct Impostor {
    port: u16,
    mood: Arc<watch::Sender<Mood>>,
}

impl Impostor {
    async fn before(server: &Redis) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mood = Arc::new(watch::Sender::new(Mood::Good));
        let (moods, behind) = (Arc::clone(&mood), server.port);
        let said = Arc::new(AtomicUsize::new(0));
        Tasks::new().spawn_upkeep("impostor", async move {
            let tasks = Tasks::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (mut watching, said) = (moods.subscribe(), Arc::clone(&said));
                tasks.spawn("connection", async move {
                    let mood = watching.borrow_and_update().clone();
                    tokio::select! {
                        _ = play(stream, mood, behind, &said) => {}
                        // Connections from before are gone.
                        _ = watching.changed() => {}
                    }
                });
            }
        });
        Self { port, mood }
    }

    fn turns(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }
}

async fn play(mut stream: TcpStream, mood: Mood, port: u16, said: &AtomicUsize) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = vec![0; 64 << 10];
    match mood {
        Mood::Good => {
            let mut behind = TcpStream::connect(("127.0.0.1", port)).await?;
            behind.set_nodelay(true)?;
            copy_bidirectional(&mut stream, &mut behind).await?;
        }
        Mood::Says(all) => {
            while stream.read(&mut bytes).await? > 0 {
                let what = &all[said.fetch_add(1, Ordering::Relaxed) % all.len()];
                stream.write_all(what).await?;
            }
        }
        Mood::Streams(first, then) => {
            let _asked = stream.read(&mut bytes).await?;
            endless(&mut stream, &first, &then).await?;
        }
        Mood::Drips(what) => {
            for byte in what {
                stream.write_all(&[byte]).await?;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        Mood::Leaves(all) => {
            let _asked = stream.read(&mut bytes).await?;
            stream
                .write_all(&all[said.fetch_add(1, Ordering::Relaxed) % all.len()])
                .await?;
        }
        Mood::Shouts(what) => endless(&mut stream, &what, &what).await?,
        Mood::Murmurs(first, then) => {
            let mut behind = TcpStream::connect(("127.0.0.1", port)).await?;
            behind.set_nodelay(true)?;
            let mut answer = vec![0; 64 << 10];
            loop {
                tokio::select! {
                    asked = stream.read(&mut bytes) => {
                        let asked = &bytes[..asked?];
                        if asked.is_empty() {
                            break;
                        }
                        behind.write_all(asked).await?;
                        if asked.windows(9).any(|word| word.eq_ignore_ascii_case(b"SUBSCRIBE")) {
                            let read = behind.read(&mut answer).await?;
                            stream.write_all(&answer[..read]).await?;
                            endless(&mut stream, &first, &then).await?;
                        }
                    }
                    read = behind.read(&mut answer) => {
                        let read = read?;
                        if read == 0 {
                            break;
                        }
                        stream.write_all(&answer[..read]).await?;
                    }
                }
            }
        }
    }
    Ok(())
}

async fn endless(stream: &mut TcpStream, first: &[u8], then: &[u8]) -> std::io::Result<()> {
    stream.write_all(first).await?;
    if then.is_empty() {
        std::future::pending::<()>().await;
    }
    loop {
        stream.write_all(then).await?;
    }
}

/// Answers that come at once, each wrong in its own way.
const WRONG: [&str; 26] = [
    "",
    "GET / HTTP/1.1\r\n\r\n",
    "\0\u{1}\u{7f}\r\n",
    "?1\r\n",
    "$abc\r\n",
    "$-7\r\n",
    "$100\r\nabc\r\n",
    "$3\r\nabcdefgh\r\n",
    "%-1\r\n",
    ":42\r\n",
    ":99999999999999999999\r\n",
    "$-1\r\n",
    "*-1\r\n",
    "*0\r\n",
    "*3\r\n:1\r\n$1\r\na\r\n*1\r\n_\r\n",
    "#t\r\n",
    ",nan\r\n",
    "(123456789012345678901234567890\r\n",
    "=7\r\ntxt:abc\r\n",
    "+OK\r\n",
    "$5\r\n{\"a\":\r\n",
    "$2\r\n{}\r\n",
    ">2\r\n+message\r\n+a\r\n",
    "|1\r\n+a\r\n+b\r\n+OK\r\n",
    "+OK\r\n+OK\r\n",
    "+forged\u{1b}[2J\u{7}\r\n",
];

const ERRORS: [&str; 17] = [
    "MOVED 3999 10.255.255.1:6381",
    "MOVED 3999",
    "ASK 3999 127.0.0.1:1",
    "LOADING Redis is loading the dataset in memory",
    "READONLY You can't write against a read only replica.",
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair",
    "BUSY Redis is busy running a script",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "NOSCRIPT No matching script.",
    "CLUSTERDOWN Hash slot not served",
    "MASTERDOWN Link with MASTER is down",
    "NOREPLICAS Not enough good replicas to write.",
    "MISCONF Redis is configured to save RDB snapshots",
    "NOPERM this user has no permissions",
    "\u{1b}[2J\u{7}forged line",
    "",
];

fn attacks() -> Vec<(&'static str, Mood)> {
    let many = |then: &str| then.repeat(64 * 1024 / then.len()).into_bytes();
    let streams = |first: &str, then: &str| Mood::Streams(first.into(), many(then));
    let murmurs = |first: &str, then: &str| Mood::Murmurs(first.into(), many(then));
    let all = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    let errors = ERRORS.iter().map(|error| format!("-{error}\r\n").into_bytes());
    let message = "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\n*\r\n";
    vec![
        ("wrong answers", Mood::Says(all(&WRONG))),
        ("errors", Mood::Says(errors.collect())),
        (
            "the end in the middle",
            Mood::Leaves(all(&["", "+", "$5\r\nab", "*2\r\n:1\r\n", "$5\r\n12345", "-ERR"])),
        ),
        ("silence", Mood::Says(all(&[""]))),
        ("a byte a second", Mood::Drips(b"+OK\r\n+OK\r\n".to_vec())),
        ("a length of 999,999,999,999", streams("$999999999999\r\n", "x")),
        ("a length of 63 bits", streams("$9223372036854775807\r\n", "x")),
        ("the longest string there may be", streams("$8000000\r\n", "x")),
        ("a line without end", streams("+", "x")),
        ("an array of 999,999,999", streams("*999999999\r\n", ":1\r\n")),
        ("an array of 65,000", streams("*65000\r\n", "$-1\r\n")),
        ("arrays in arrays without end", streams("", "*1\r\n")),
        ("maps in maps without end", streams("", "%1\r\n")),
        ("attributes without a value", streams("", "|0\r\n")),
        ("answers without end", streams("", ":1\r\n")),
        ("answers before any request", Mood::Shouts(many("+OK\r\n"))),
        ("calls to all without end", murmurs("", message)),
        (
            "a message without end",
            murmurs("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$99999999999\r\n", "x"),
        ),
        ("a list of messages without end", murmurs("*999999\r\n", "$1\r\nx\r\n")),
        ("numbers for messages", murmurs(":1\r\n", ":1\r\n")),
    ]
}

/// Asks what is known and what is not, and whether the program lives, for a while.
async fn suffer(spawned: &Spawned, what: &str, until: Instant, next: &mut usize) -> usize {
    let (caller, admin) = (spawned.caller(), spawned.admin());
    let mut most = 0;
    while Instant::now() < until {
        *next += 1;
        let (old, new) = ([id(0)], [id(*next)]);
        let (known, asked, lives) = tokio::join!(
            within("a hit", caller.ask(&old)),
            within("an answer or a refusal", caller.ask_with(&new, &[("prefer", "wait=0")])),
            within("a sign of life", admin.fetch("/livez")),
        );
        assert_eq!(known.status, StatusCode::OK, "{what}: {}", known.text());
        let status = asked.status.as_u16();
        assert!(matches!(status, 200 | 429 | 503), "{what}: {status} {}", asked.text());
        assert!(
            status == 200 || asked.retry_after().is_some(),
            "{what}: {}",
            asked.text()
        );
        assert_eq!(lives.status, StatusCode::OK, "{what}");
        most = most.max(ProcessUsage::of(spawned.gateway.pid()).memory_kib);
    }
    most
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_store_says_hits_go_on_and_no_window_is_over() {
    let server = Redis::start().await;
    let store = Impostor::before(&server).await;
    let spawned = Setup::new()
        .limits(Shape::SlidingLog, &["50/1s", "400/10s"])
        .set("cache.ttl", "1h")
        .set("store.url", &format!("redis://127.0.0.1:{}", store.port))
        .spawn()
        .await;
    let mut next = 0;
    assert_eq!(spawned.caller().ask(&[id(0)]).await.status, StatusCode::OK);
    suffer(&spawned, "nothing", Instant::now() + ACT, &mut next).await;
    let before = ProcessUsage::of(spawned.gateway.pid());
    for (what, mood) in attacks() {
        store.turns(mood);
        let most = suffer(&spawned, what, Instant::now() + ACT, &mut next).await;
        println!("{what}: at most {most} KiB, {} before", before.memory_kib);
        assert!(most <= before.memory_kib + SLACK_KIB, "{what}: {most} KiB, {before:?}");
    }
    store.turns(Mood::Good);
    let resumed = async || {
        next += 1;
        let asked = spawned.caller().ask(&[id(next)]).await;
        let status = spawned.admin().fetch("/status").await.json();
        (asked.status == StatusCode::OK && status["mode"] != "store-lost").then_some(())
    };
    until("calls to leave by the store again", resumed).await;
    let returned = async || {
        let held = ProcessUsage::of(spawned.gateway.pid());
        (held.files <= before.files + 4 && held.threads <= before.threads + 2).then_some(held)
    };
    let held = until("files and threads to be given back", returned).await;
    println!("held before {before:?}, after {held:?}");
    let output = spawned.finish().await;
    assert!(!output.contains("panicked"), "{output}");
    let odd = |line: &&str| line.starts_with("forged") || line.contains(['\u{1b}', '\u{7}']);
    assert_eq!(
        output.lines().find(odd),
        None,
        "the store writes no lines of its own into the log"
    );
    let longest = output.lines().map(str::len).max();
    println!(
        "{} lines in the log, the longest of {longest:?} bytes",
        output.lines().count()
    );
}
