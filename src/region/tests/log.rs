//! The log lines about hosts.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::{Behaviour, Fixture, ROUND, pass};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// The fields of all lines with this message.
    fn saying(&self, message: &str) -> Vec<Value> {
        let text = self.0.lock().unwrap();
        let lines = serde_json::Deserializer::from_slice(&text).into_iter::<Value>();
        lines
            .map(|line| line.unwrap()["fields"].take())
            .filter(|fields| fields["message"] == message)
            .collect()
    }
}

/// Collects what is logged on this thread while the guard lives.
fn collected() -> (Lines, tracing::subscriber::DefaultGuard) {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_writer(move || writer.clone())
        .finish();
    (lines, tracing::subscriber::set_default(subscriber))
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_all_hosts_is_logged_once_for_each() {
    for outage in [
        Behaviour::Refused,
        Behaviour::BlackHole,
        Behaviour::Busy(10),
        Behaviour::Losing(10),
    ] {
        let (lines, _guard) = collected();
        let hosts = ["us", "eu", "uk"];
        let fixture = Fixture::new([
            ("us", Behaviour::Up(80)),
            ("eu", Behaviour::Up(10)),
            ("uk", Behaviour::Up(30)),
        ]);
        pass(ROUND).await;
        for host in hosts {
            fixture.network.set(host, outage);
        }
        for _ in 0..3_600 {
            drop(fixture.call().await);
            pass(Duration::from_secs(1)).await;
        }
        let said = |message: &str| {
            let mut regions: Vec<_> = lines
                .saying(message)
                .iter()
                .map(|line| line["region"].to_string())
                .collect();
            regions.sort();
            regions
        };
        let each = ["\"eu\"", "\"uk\"", "\"us\""];
        assert_eq!(said("region left"), each);
        assert!(said("region back").is_empty());
        assert!(
            said("region selected").len() <= hosts.len(),
            "{:?}",
            said("region selected")
        );
        for (host, ms) in hosts.into_iter().zip([80, 10, 30]) {
            fixture.network.set(host, Behaviour::Up(ms));
        }
        for _ in 0..1_200 {
            drop(fixture.call().await);
            pass(Duration::from_secs(1)).await;
        }
        assert_eq!(said("region left"), each);
        assert_eq!(said("region back"), each);
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_per_change_with_numbers_and_addresses_as_people_write_them() {
    let (lines, _guard) = collected();
    let fixture = Fixture::new([("us", Behaviour::Up(80)), ("eu", Behaviour::Up(10))]);
    pass(ROUND).await;
    fixture.network.set("eu", Behaviour::Refused);
    fixture.call().await.unwrap();
    fixture.network.set("eu", Behaviour::Up(10));
    pass(ROUND).await;

    let selected = lines.saying("region selected");
    let regions: Vec<_> = selected.iter().map(|line| line["region"].as_str().unwrap()).collect();
    assert_eq!(regions, ["eu", "us", "eu"]);
    assert_eq!(selected[0]["url"], "https://eu.test");
    assert_eq!(selected[0]["rtt_ms"], 10.0);
    let left = lines.saying("region left");
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0]["reason"], "cannot be connected to");
    assert_eq!(lines.saying("region back").len(), 1);
    let before = lines.0.lock().unwrap().len();
    pass(Duration::from_hours(1)).await;
    assert_eq!(
        lines.0.lock().unwrap().len(),
        before,
        "an hour without change is silent"
    );
}
