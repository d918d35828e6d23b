//! What the shared quota does while replicas are killed and the store is frozen or emptied.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use super::{FAST, Replicas, Server};

/// Replicas in a process of their own, which tells on its output when it makes calls.
struct Killable {
    child: Child,
    calls: Arc<Mutex<Vec<Instant>>>,
}

impl Killable {
    fn start(server: &Server, count: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(REPLICAS_AT, server.folder.path())
            .env(REPLICAS_OF, count.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let calls = Arc::<Mutex<Vec<Instant>>>::default();
        let (lines, heard) = (BufReader::new(child.stdout.take().unwrap()).lines(), Arc::clone(&calls));
        std::thread::spawn(move || {
            for _ in lines.map_while(Result::ok) {
                heard.lock().unwrap().push(Instant::now());
            }
        });
        Self { child, calls }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) const REPLICAS_AT: &str = "BENCH_REPLICAS_AT";

const REPLICAS_OF: &str = "BENCH_REPLICAS_OF";

/// What [`Killable`] runs.
pub(super) async fn be_killed(folder: std::ffi::OsString) {
    let count: usize = std::env::var(REPLICAS_OF).unwrap().parse().unwrap();
    let server = Server {
        child: Command::new("true").spawn().unwrap(),
        folder: tempfile::tempdir().unwrap(),
    };
    let socket = std::path::Path::new(&folder).join("redis.sock");
    std::os::unix::fs::symlink(socket, server.folder.path().join("redis.sock")).unwrap();
    let replicas = Replicas::start_at(server, count, FAST).await;
    replicas.saturate();
    let mut told = 0;
    loop {
        let made = replicas.calls.lock().unwrap().len();
        (told..made).for_each(|_| println!("call"));
        told = made;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The longest time without a call within ten seconds from then on, and how many windows were over
/// by then.
async fn gap_after(begun: Instant, calls: &[&Arc<Mutex<Vec<Instant>>>]) -> (Duration, usize) {
    tokio::time::sleep_until(begun + Duration::from_secs(10)).await;
    let mut all: Vec<_> = calls.iter().flat_map(|calls| calls.lock().unwrap().clone()).collect();
    all.sort_unstable();
    let over = FAST.iter().map(|(most, window)| {
        let spans = all.windows(*most as usize + 1);
        // Calls of another process are seen a moment later than they are made.
        spans
            .filter(|span| span[*most as usize] - span[0] + Duration::from_millis(50) < *window)
            .count()
    });
    let over = over.sum();
    let end = begun + Duration::from_secs(10);
    let after = all.into_iter().filter(|at| (begun..end).contains(at));
    let marks: Vec<_> = std::iter::once(begun).chain(after).chain([end]).collect();
    let gap = marks.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    (gap, over)
}

/// A third of the replicas killed, the store frozen, emptied, and emptied right after a kill.
pub(super) async fn chaos(count: usize) {
    let server = Server::start();
    let (first, second) = (Killable::start(&server, count / 6), Killable::start(&server, count / 6));
    let (mut first, mut second) = (first, second);
    let mut replicas = Replicas::start_at(server, count - count / 6 * 2, FAST).await;
    replicas.saturate();
    tokio::time::sleep(FAST[1].1 / 2).await;
    let calls = [
        &Arc::clone(&replicas.calls),
        &Arc::clone(&first.calls),
        &Arc::clone(&second.calls),
    ];
    let told = |what: &str, (gap, over): (Duration, usize)| {
        println!(
            "|   {what}: {:.2} s without a call, {over} windows over | | | | | | | | |",
            gap.as_secs_f64()
        );
    };
    let pid = replicas.server.child.id().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    signal("-STOP");
    tokio::time::sleep(Duration::from_secs(3)).await;
    signal("-CONT");
    told("after a freeze of 3 s", gap_after(Instant::now(), &calls).await);
    let flush = async |connection: &mut MultiplexedConnection| {
        let _: () = redis::cmd("FLUSHALL").query_async(connection).await.unwrap();
    };
    flush(&mut replicas.connection).await;
    told("after a flush", gap_after(Instant::now(), &calls).await);
    first.kill();
    second.kill();
    told("after kill -9 of a third", gap_after(Instant::now(), &calls).await);
    let mut third = Killable::start(&replicas.server, count / 3);
    let calls = [calls[0], calls[1], calls[2], &Arc::clone(&third.calls)];
    tokio::time::sleep(Duration::from_secs(15)).await;
    third.kill();
    flush(&mut replicas.connection).await;
    told(
        "after kill -9 of a third and a flush",
        gap_after(Instant::now(), &calls).await,
    );
    replicas.end().await;
}
