//! The link to the store: every kind of address, against real servers.

mod access;
mod connections;
mod many;
mod scripts;

use std::time::Duration;

use tokio::sync::mpsc;

use defender_gateway::testing::store::{Address, Client, Config, Event, Script};

use crate::support::redis::ANSWER;
use crate::support::until;

/// Longer than any of these tests.
const KEPT: Duration = Duration::from_mins(5);

fn config(url: &str) -> Config {
    Config::new(Address::parse(url).unwrap(), ANSWER)
}

/// Asks until the store answers again.
async fn comes_back(client: &Client) {
    let look = async || client.set("{t}back", b"1", KEPT).await.ok();
    until("the store to be found again", look).await;
}

/// What is said on a channel from now on.
async fn messages(client: &Client, channel: &str) -> mpsc::UnboundedReceiver<Vec<u8>> {
    let (sender, messages) = mpsc::unbounded_channel();
    let heard = move |event: Event<'_>| {
        if let Event::Message(message) = event {
            let _ = sender.send(message.to_vec());
        }
        true
    };
    client.subscribe(channel.to_owned(), heard).await;
    messages
}

/// Writes one key, reads another, and says so.
/// Says `message` on `channel`.
async fn publish(client: &Client, channel: &str, message: &[u8]) {
    let script = Script::new("redis.call('PUBLISH', KEYS[1], ARGV[1])");
    client.run(&script, &[channel.to_owned()], &[message]).await.unwrap();
}

fn script() -> Script {
    Script::new(
        "redis.call('SET', KEYS[1], ARGV[1]) redis.call('PUBLISH', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[2])",
    )
}

fn keys() -> [String; 2] {
    ["{t}a".into(), "{t}b".into()]
}
