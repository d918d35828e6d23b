//! The program under attack, and what must be true of it afterwards.

use std::sync::atomic::{AtomicUsize, Ordering};

use defender_gateway::testing::sim::Shape;

use super::wire::Wire;
use crate::support::{PATH, ProcessUsage, Setup, Spawned, id, until};

/// What attackers ask for. It must never arrive.
pub(super) const FORBIDDEN: &str = "smuggled";

/// A gateway as a program, in front of a simulated upstream that it may ask as often as it likes.
pub(super) struct Bench {
    spawned: Spawned,
    address: String,
    asked: AtomicUsize,
}

impl Bench {
    pub(super) async fn start() -> Self {
        let setup = Setup::new()
            .limits(Shape::SlidingLog, &["1000000/1m"])
            .set("quota.burst", "1000000");
        let spawned = setup.spawn().await;
        let address = spawned.caller().base().trim_start_matches("http://").to_owned();
        let bench = Self {
            spawned,
            address,
            asked: AtomicUsize::new(0),
        };
        bench.honest("before anything").await;
        bench
    }

    pub(super) async fn connect(&self) -> Wire {
        Wire::connect(&self.address).await
    }

    /// An honest caller's new request, on a connection of its own.
    pub(super) async fn honest(&self, after: &str) {
        let n = self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = self.spawned.caller().try_send(self.new_request(n)).await;
        let answer = answer.unwrap_or_else(|error| panic!("after {after}: {error}"));
        assert_eq!(answer.status, 200, "after {after}: {}", answer.text());
        assert_eq!(answer.row_ids(), [id(n)], "after {after}");
    }

    fn new_request(&self, n: usize) -> http::Request<bytes::Bytes> {
        let caller = self.spawned.caller();
        caller.history_request().body(crate::support::body(&[id(n)])).unwrap()
    }

    /// An honest request in bytes, the last on its connection.
    pub(super) fn last_request(&self) -> String {
        let body = history_body(&id(self.asked.fetch_add(1, Ordering::Relaxed)));
        request("POST", "Connection: close\r\n", &body)
    }

    /// Has the gateway learn the answer about an id, and returns the id.
    pub(super) async fn known(&self) -> String {
        self.honest("asking what will be asked again").await;
        id(self.asked.load(Ordering::Relaxed) - 1)
    }

    /// Nothing arrived upstream but what honest callers asked for, each request once.
    pub(super) fn assert_nothing_got_through(&self, attack: &str) {
        let calls = self.spawned.simulator.calls();
        let (asked, ids) = (
            self.asked.load(Ordering::Relaxed),
            calls.iter().flat_map(|call| call.ids.clone()).collect::<Vec<_>>(),
        );
        let mut honest: Vec<_> = (0..asked).map(id).collect();
        honest.sort();
        let mut arrived = ids;
        arrived.sort();
        assert_eq!(arrived, honest, "after {attack}");
        assert_eq!(calls.len(), asked, "after {attack}");
    }

    pub(super) fn held(&self) -> ProcessUsage {
        ProcessUsage::of(self.spawned.gateway.pid())
    }

    /// Waits until no more files and threads are held than before, and asserts that memory is near
    /// what it was.
    pub(super) async fn returned_to(&self, before: ProcessUsage, slack_kib: usize) {
        let look = async || {
            let held = self.held();
            // Honest callers' connections may linger for a moment, and those of the pool to the
            // upstream come and go.
            (held.files <= before.files + 4 && held.threads <= before.threads + 2).then_some(held)
        };
        let held = until("files and threads to be given back", look).await;
        println!("held before {before:?}, after {held:?}");
        assert!(
            held.memory_kib <= before.memory_kib + slack_kib,
            "before {before:?}, after {held:?}"
        );
    }

    /// Ends the program in good order.
    pub(super) async fn finish(self) {
        let output = self.spawned.finish().await;
        assert!(!output.contains("panicked"), "{output}");
    }
}

/// A body that asks for one id.
pub(super) fn history_body(id: &str) -> String {
    format!("{{\"ScanDefinitionIds\":[\"{id}\"]}}")
}

/// The head's lines up to the length, which is the attacker's business.
pub(super) fn start(method: &str) -> String {
    format!("{method} {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
}

/// A request in bytes.
pub(super) fn request(method: &str, fields: &str, body: &str) -> String {
    format!("{}Content-Length: {}\r\n{fields}\r\n{body}", start(method), body.len())
}

/// A request that must never be asked.
pub(super) fn forbidden() -> String {
    request("POST", "", &history_body(FORBIDDEN))
}
