//! What an operator reads.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::{Bench, Is, ROUND, pass};

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

#[tokio::test(start_paused = true)]
async fn a_line_per_change_with_numbers_and_addresses_as_people_write_them() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let bench = Bench::new([("us", Is::Up(80)), ("eu", Is::Up(10))]);
    pass(ROUND).await;
    bench.world.set("eu", Is::Refused);
    bench.call().await.unwrap();
    bench.world.set("eu", Is::Up(10));
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
