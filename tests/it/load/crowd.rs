//! Crowds of connections.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use defender_gateway::testing::sim::Shape;
use defender_gateway::testing::task::Tasks;

use super::ALONE;
use super::watch::Watch;
use crate::support::{Caller, PATH, ProcessUsage, Setup, Spawned, body, id, until};

/// Source addresses of a crowd. Honest callers come from 127.0.0.1.
const ADDRESSES: u8 = 50;

/// Who connects at the same time.
const PUSHERS: usize = 400;

/// A busy machine's worth of waiting for an answer that is ready.
const SOON: Duration = Duration::from_secs(5);

async fn gateway() -> Spawned {
    let spawned = Setup::new()
        .limits(Shape::SlidingLog, &["1000000/1m"])
        .set("quota.burst", "1000000")
        .set("cache.ttl", "1h")
        .spawn()
        .await;
    assert_eq!(spawned.caller().ask(&[id(0)]).await.status, 200);
    spawned
}

fn address(spawned: &Spawned) -> SocketAddr {
    spawned.caller().base().replace("http://", "").parse().unwrap()
}

async fn connect(from: u8, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 1, from], 0)))?;
    // The port is free again at once: a crowd needs many.
    socket.set_zero_linger()?;
    socket.connect(to).await
}

fn head(length: usize) -> String {
    format!(
        "POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// What one of a crowd says, if anything, before it does nothing more.
fn opening(n: usize) -> Vec<u8> {
    match n % 5 {
        0 | 1 => Vec::new(),
        2 => b"POST /api/Devi".to_vec(),
        3 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
        _ => {
            let request = body(&[id(0)]);
            [head(request.len()).as_bytes(), &request].concat()
        }
    }
}

/// An honest caller on its one connection, as long as the crowd pushes.
async fn honest(caller: Caller, over: Arc<AtomicBool>, kept: bool) -> (usize, usize, Duration) {
    let (mut served, mut missed, mut slowest) = (0, 0, Duration::ZERO);
    while !over.load(Ordering::Relaxed) {
        let caller = if kept {
            caller.clone()
        } else {
            Caller::http1(caller.base())
        };
        let from = Instant::now();
        let asking = [id(0)];
        match timeout(
            SOON,
            caller.try_send(caller.history_request().body(body(&asking)).unwrap()),
        )
        .await
        {
            Ok(Ok(answer)) if answer.status == 200 => served += 1,
            _ => missed += 1,
        }
        slowest = slowest.max(from.elapsed());
        sleep(Duration::from_millis(20)).await;
    }
    (served, missed, slowest)
}

/// Lets a crowd make so many attempts to connect, each of which is held until `most` are held.
async fn push(to: SocketAddr, attempts: usize, most: usize) -> (usize, usize) {
    let (next, connected) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let tasks = Tasks::new();
    for _ in 0..PUSHERS {
        let (next, connected) = (Arc::clone(&next), Arc::clone(&connected));
        tasks.spawn("pusher", async move {
            let mut held = VecDeque::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= attempts {
                    break;
                }
                let from = u8::try_from(n % usize::from(ADDRESSES)).unwrap() + 1;
                let Ok(Ok(mut stream)) = timeout(SOON, connect(from, to)).await else {
                    continue;
                };
                connected.fetch_add(1, Ordering::Relaxed);
                // It may have been closed already.
                let _ = stream.write_all(&opening(n)).await;
                held.push_back(stream);
                if held.len() > most / PUSHERS {
                    held.pop_front();
                }
            }
        });
    }
    while !tasks.is_empty() {
        sleep(Duration::from_millis(20)).await;
    }
    (attempts, connected.load(Ordering::Relaxed))
}

/// As many open files as the system lets this process have; how many that is.
fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    limit.maximum.unwrap_or(u64::MAX)
}

async fn crowd(attempts: usize, lives: Duration) {
    let _alone = ALONE.lock().await;
    let spawned = gateway().await;
    let to = address(&spawned);
    let files = raise_open_files();
    let hold = usize::try_from(files.min(10_000)).unwrap() / 2;
    let before = ProcessUsage::of(spawned.gateway.pid());
    let watch = Watch::over(&spawned.gateway);
    let over = Arc::new(AtomicBool::new(false));
    let tasks = Tasks::new();
    let kept = tasks.spawn("honest", honest(spawned.caller(), Arc::clone(&over), true));
    let new = tasks.spawn("honest", honest(spawned.caller(), Arc::clone(&over), false));
    let begun = Instant::now();
    let (attempted, connected) = push(to, attempts, hold).await;
    let took = begun.elapsed();
    over.store(true, Ordering::Relaxed);
    let (kept, new) = (kept.await.unwrap(), new.await.unwrap());
    let seen = watch.finish();
    println!(
        "{attempted} connections attempted from {ADDRESSES} addresses in {took:?}, {connected} made, {hold} held ({files} files allowed); \
         on a connection from before {} answers, {} missed, the slowest {:?}; on new ones {} answers, {} missed, the slowest {:?}; {}",
        kept.0,
        kept.1,
        kept.2,
        new.0,
        new.1,
        new.2,
        seen.report(0.5)
    );
    assert_eq!(kept.1, 0, "whoever is connected is served");
    assert!(kept.0 > 0 && new.0 > 0, "{kept:?} {new:?}");
    seen.assert_alive(lives, SOON);
    // 2,048 connections with small buffers.
    let most = seen.held.iter().map(|held| held.memory_kib).max().unwrap();
    assert!(most <= before.memory_kib + 96 * 1024, "{before:?}, then {most} KiB");
    assert_given_back(&spawned, before).await;
    spawned.finish().await;
}

async fn assert_given_back(spawned: &Spawned, before: ProcessUsage) {
    let returned = async || {
        let held = ProcessUsage::of(spawned.gateway.pid());
        (held.files <= before.files + 8 && held.threads <= before.threads + 2).then_some(held)
    };
    let after = until("files and threads to be given back", returned).await;
    println!("held before {before:?}, after {after:?}");
    // Whoever comes next finds nothing of the crowd.
    assert_eq!(spawned.caller().ask(&[id(1)]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_ten_thousand_connections_drives_nobody_out_and_stops_nothing() {
    crowd(10_000, SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute or two, for a release build"]
async fn a_crowd_of_a_hundred_thousand_connections() {
    crowd(100_000, Duration::from_millis(100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_slow_heads_bodies_and_readers_cost_little_and_delay_nobody() {
    const EACH: usize = 300;
    let _alone = ALONE.lock().await;
    raise_open_files();
    let spawned = gateway().await;
    let to = address(&spawned);
    let before = ProcessUsage::of(spawned.gateway.pid());
    let watch = Watch::over(&spawned.gateway);
    let over = Arc::new(AtomicBool::new(false));
    let tasks = Tasks::new();
    for n in 0..EACH * 3 {
        let over = Arc::clone(&over);
        tasks.spawn("slow", async move {
            let mut stream = connect(u8::try_from(n % 50).unwrap() + 1, to).await.unwrap();
            match n % 3 {
                0 => drip(&mut stream, head(10).as_bytes(), &over).await,
                1 => {
                    let request = body(&[id(0)]);
                    // It may give up before the body is complete.
                    let _ = stream.write_all(head(request.len()).as_bytes()).await;
                    drip(&mut stream, &request, &over).await;
                }
                _ => unread(&mut stream, &over).await,
            }
        });
    }
    let honest = honest(spawned.caller(), Arc::clone(&over), false);
    let ending = async {
        sleep(Duration::from_secs(6)).await;
        over.store(true, Ordering::Relaxed);
    };
    let ((served, missed, slowest), ()) = tokio::join!(honest, ending);
    let seen = watch.finish();
    println!(
        "{served} answers on new connections, {missed} missed, the slowest {slowest:?}; {}",
        seen.report(0.5)
    );
    assert_eq!(missed, 0);
    seen.assert_alive(SOON, SOON);
    let most = seen.held.iter().map(|held| held.memory_kib).max().unwrap();
    assert!(most <= before.memory_kib + 96 * 1024, "{before:?}, then {most} KiB");
    until("the slow ones to leave", async || tasks.is_empty().then_some(())).await;
    assert_given_back(&spawned, before).await;
    spawned.finish().await;
}

/// A few bytes a second.
async fn drip(stream: &mut TcpStream, bytes: &[u8], over: &AtomicBool) {
    for byte in bytes {
        if over.load(Ordering::Relaxed) || stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Requests one after the other, of whose answers a byte is read now and then.
async fn unread(stream: &mut TcpStream, over: &AtomicBool) {
    let request = body(&[id(0)]);
    let all = [head(request.len()).as_bytes(), &request].concat().repeat(50);
    let mut byte = [0];
    while !over.load(Ordering::Relaxed) {
        let _ = timeout(Duration::from_millis(50), stream.write_all(&all)).await;
        let _ = timeout(Duration::from_millis(50), stream.read(&mut byte)).await;
        sleep(Duration::from_millis(200)).await;
    }
}
