//! How many connections a process opens: one over which commands are sent and messages come, or two
//! where the store speaks RESP2 only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use defender_gateway::testing::store::{Client, Error};
use defender_gateway::testing::task::Tasks;

use super::{KEPT, comes_back, config, keys, messages, publish, script};
use crate::support::redis::Redis;
use crate::support::{until, within};

/// Connections to the server, without the one that asks.
async fn connections(server: &Redis) -> usize {
    let list: String = server.ask(&["CLIENT", "LIST"]).await.unwrap();
    list.lines().filter(|line| !line.contains(" cmd=client")).count()
}

/// Waits until so many connections to the server are open.
async fn are_open(server: &Redis, expected: usize) {
    let open = async || (connections(server).await == expected).then_some(());
    until(&format!("{expected} connections"), open).await;
}

/// Whatever the server speaks, commands are answered and messages are heard, also after all
/// connections were closed.
async fn works_over(server: &Redis, expected: usize) {
    let client = Client::new(&config(&server.url()));
    client.set("{t}b", b"kept", KEPT).await.unwrap();
    // Without channels there is nothing to listen to. One that was refused may still be closing.
    are_open(server, 1).await;
    let mut channels = Vec::new();
    for channel in ["{t}a", "{t}c"] {
        channels.push((channel, messages(&client, channel).await));
    }
    // Parts of a process share what they have.
    let parts = vec![client.clone(); 3];
    for killed in [false, true] {
        if killed {
            for kind in ["pubsub", "normal"] {
                server.command(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).await;
            }
            comes_back(&client).await;
        }
        for part in &parts {
            assert_eq!(part.step(&script(), &keys(), "said").await.unwrap(), "kept");
        }
        for (channel, heard) in &mut channels {
            let hears = async || {
                publish(&client, channel, b"ready").await;
                heard.try_recv().ok()
            };
            until("a message", hears).await;
            publish(&client, channel, b"last").await;
            while within("the last message", heard.recv()).await.unwrap() != b"last" {}
        }
        are_open(server, expected).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_is_enough_where_the_store_speaks_resp3() {
    works_over(&Redis::start().await, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_come_over_a_second_connection_where_the_store_refuses_hello() {
    // As servers before version 6 and some proxies do.
    let server = Redis::start_with(&["--rename-command", "HELLO", "NONE-OF-THESE"]).await;
    assert!(server.ask::<redis::Value>(&["HELLO", "3"]).await.is_err());
    works_over(&server, 2).await;
}

/// Each takes a round trip, and a connection to a store that is far away has to be there in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_command_subscribes_to_all_channels_of_a_new_connection() {
    let server = Redis::start().await;
    let client = Client::new(&config(&server.url()));
    client.set("{t}a", b"1", KEPT).await.unwrap();
    let mut channels = Vec::new();
    for n in 0..13 {
        let channel = format!("{{t}}{n}");
        let heard = messages(&client, &channel).await;
        channels.push((channel, heard));
    }
    server.command(&["CONFIG", "RESETSTAT"]).await;
    for kind in ["pubsub", "normal"] {
        server.command(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).await;
    }
    comes_back(&client).await;
    let stats: String = server.ask(&["INFO", "commandstats"]).await.unwrap();
    assert!(stats.contains("cmdstat_subscribe:calls=1,"), "{stats}");
    for (channel, heard) in &mut channels {
        publish(&client, channel, b"hello").await;
        assert_eq!(within("a message", heard.recv()).await.unwrap(), b"hello");
    }
}

/// A line to a server on which the first connection that hears messages brings none, and is not
/// closed either.
async fn deaf_line(port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    let was_deaf = Arc::new(AtomicBool::new(false));
    Tasks::new().spawn_upkeep("deaf line", async move {
        let tasks = Tasks::new();
        while let Ok((stream, _)) = listener.accept().await {
            let was_deaf = Arc::clone(&was_deaf);
            tasks.spawn("connection", async move {
                // Either side may leave.
                let _ = carry(stream, port, &was_deaf).await;
            });
        }
    });
    own
}

async fn carry(mut stream: TcpStream, port: u16, was_deaf: &AtomicBool) -> std::io::Result<()> {
    let mut behind = TcpStream::connect(("127.0.0.1", port)).await?;
    let (mut asked, mut said) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut hears = false;
    loop {
        tokio::select! {
            read = stream.read(&mut asked) => {
                let asked = &asked[..read?];
                if asked.is_empty() {
                    return Ok(());
                }
                behind.write_all(asked).await?;
                hears |= asked.windows(9).any(|word| word.eq_ignore_ascii_case(b"SUBSCRIBE"));
            }
            read = behind.read(&mut said) => {
                let said = &said[..read?];
                if said.is_empty() {
                    return Ok(());
                }
                stream.write_all(said).await?;
                if hears && !was_deaf.swap(true, Ordering::Relaxed) {
                    return std::future::pending().await;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_for_messages_that_is_silent_for_ever_is_replaced() {
    let server = Redis::start_with(&["--rename-command", "HELLO", "NONE-OF-THESE"]).await;
    let mut settings = config(&format!("redis://127.0.0.1:{}", deaf_line(server.port).await));
    // It has to answer after sixty times this.
    settings.timeout = Duration::from_millis(50);
    let patient = Client::new(&config(&server.url()));
    let client = Client::new(&settings);
    comes_back(&client).await;
    let mut heard = messages(&client, "{t}a").await;
    let look = async || {
        publish(&patient, "{t}a", b"ready").await;
        heard.try_recv().ok()
    };
    until("a message", look).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_do_not_pile_up_in_front_of_a_store_that_stands_still() {
    let server = Redis::start().await;
    let mut settings = config(&server.url());
    let client = Client::new(&settings);
    client.set("{t}b", b"kept", KEPT).await.unwrap();
    client.step(&script(), &keys(), "known").await.unwrap();
    settings.timeout = Duration::from_millis(50);
    let impatient = Client::new(&settings);
    impatient.get("{t}b").await.unwrap();
    server.stands_still().await;
    for _ in 0..3 {
        let error = impatient.step(&script(), &keys(), "late").await.unwrap_err();
        assert!(matches!(error, Error::Timeout(_)), "{error:?}");
    }
    server.goes_on().await;
    comes_back(&client).await;
    let calls = async || {
        let stats: String = server.ask(&["INFO", "commandstats"]).await.unwrap();
        let counts = ["cmdstat_evalsha:calls=", "cmdstat_exists:calls="].map(|name| {
            let line = stats.lines().find_map(|line| line.strip_prefix(name));
            line.map_or(0, |line| line.split(',').next().unwrap().parse::<u32>().unwrap())
        });
        // The last of them was sent over a connection whose commands may be read after ours.
        (counts[1] == 2).then_some(counts[0])
    };
    assert_eq!(
        until("all commands to be taken", calls).await,
        2,
        "the known one, and one that was late"
    );
}
