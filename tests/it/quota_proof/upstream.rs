//! An upstream that answers late, wrongly, or not at all, and writes down when each call arrived.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use defender_gateway::testing::attempt::{Charged, Delivery, Failure, RetryHint};
use defender_gateway::testing::caller::Name;
use defender_gateway::testing::scan::UpstreamResponse;

use super::counting::{Counting, Told};

/// The longest that the client waits for an answer.
pub(super) const TIMEOUT: Duration = Duration::from_mins(1);

/// How the upstream behaves; shares from 0 to 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manners {
    /// Longest time from sending to answer; the arrival lies anywhere between.
    pub(super) latency: Duration,
    /// Calls whose answer never comes.
    pub(super) lost: f64,
    /// Calls of which no byte is written.
    pub(super) unsent: f64,
    /// Calls answered 429 for no reason of ours.
    pub(super) throttled: f64,
    /// Calls answered 503.
    pub(super) failed: f64,
}

impl Manners {
    pub(super) const GOOD: Self = Self {
        latency: Duration::from_millis(800),
        lost: 0.0,
        unsent: 0.0,
        throttled: 0.0,
        failed: 0.0,
    };
}

/// One call that left.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) at: Instant,
    pub(super) arrived: Instant,
    pub(super) caller: Name,
    pub(super) urgency: u8,
    pub(super) life: usize,
}

/// The upstream. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Upstream(Arc<Mutex<Diary>>);

#[derive(Debug)]
struct Diary {
    manners: Manners,
    rng: Rng,
    sent: Vec<Sent>,
    life: usize,
    /// Real limits, storms and a neighbour; `None`: whatever comes is accepted.
    counting: Option<Counting>,
}

impl Upstream {
    pub(super) fn new(manners: Manners, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Diary {
            manners,
            rng: Rng::new(seed),
            sent: Vec::new(),
            life: 0,
            counting: None,
        })))
    }

    /// One that counts calls and refuses some of them.
    pub(super) fn counting(manners: Manners, seed: u64, counting: Counting) -> Self {
        let upstream = Self::new(manners, seed);
        upstream.0.lock().unwrap().counting = Some(counting);
        upstream
    }

    /// What was counted.
    pub(super) fn counted<R>(&self, look: impl FnOnce(&mut Counting) -> R) -> R {
        look(self.0.lock().unwrap().counting.as_mut().unwrap())
    }

    /// The process that sends is killed: what was already on its way arrives within a second or
    /// never.
    pub(super) fn kill(&self) {
        let mut diary = self.0.lock().unwrap();
        let (life, last) = (diary.life, Instant::now() + Duration::from_secs(1));
        diary.sent.retain(|sent| sent.life < life || sent.arrived <= last);
        diary.life += 1;
    }

    /// Everything that was sent, in that order.
    pub(super) fn sent(&self) -> Vec<Sent> {
        self.0.lock().unwrap().sent.clone()
    }

    /// When the last call of this caller left.
    pub(super) fn last_of(&self, caller: &Name) -> Option<Instant> {
        let diary = self.0.lock().unwrap();
        let last = diary.sent.iter().rev().find(|sent| sent.caller == *caller);
        last.map(|sent| sent.at)
    }

    /// One call. The arrival is written down when the call leaves: a caller that hangs up cannot
    /// call it back.
    pub(super) async fn call(self, call: Charged) -> Result<UpstreamResponse, Failure> {
        let delivery = self.0.lock().unwrap().receive(&call);
        match delivery {
            Received::Unsent => Err(failure(Delivery::NotSent)),
            Received::Lost => {
                tokio::time::sleep(TIMEOUT).await;
                Err(failure(Delivery::Unknown))
            }
            Received::Told(told, took) => {
                tokio::time::sleep(took).await;
                Ok(told.answer())
            }
            Received::Answered(status, took) => {
                tokio::time::sleep(took).await;
                let mut headers = HeaderMap::new();
                if status == StatusCode::TOO_MANY_REQUESTS {
                    headers.insert("retry-after", (took.as_secs() % 20).into());
                }
                let answer = UpstreamResponse {
                    status,
                    headers: headers.into(),
                    body: Bytes::new(),
                };
                Ok(answer)
            }
        }
    }
}

enum Received {
    Unsent,
    Lost,
    Answered(StatusCode, Duration),
    Told(Told, Duration),
}

impl Diary {
    fn receive(&mut self, call: &Charged) -> Received {
        let manners = self.manners;
        if self.rng.chance(manners.unsent) {
            return Received::Unsent;
        }
        let took = self.rng.up_to(manners.latency);
        let now = Instant::now();
        let lost = self.rng.chance(manners.lost);
        self.sent.push(Sent {
            at: now,
            arrived: now + self.rng.up_to(if lost { TIMEOUT } else { took }),
            caller: call.caller.name.clone(),
            urgency: call.caller.urgency.level(),
            life: self.life,
        });
        if lost {
            return Received::Lost;
        }
        if let Some(told) = self.counting.as_mut().and_then(|counting| counting.ours(now)) {
            return Received::Told(told, took);
        }
        let status = if self.rng.chance(manners.throttled) {
            StatusCode::TOO_MANY_REQUESTS
        } else if self.rng.chance(manners.failed) {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::OK
        };
        Received::Answered(status, took)
    }
}

fn failure(delivery: Delivery) -> Failure {
    Failure {
        delivery,
        again: RetryHint::Once,
        answer: None,
        source: "no answer".into(),
    }
}

/// A small seeded generator.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // Nearby seeds differ after a few steps only.
        for _ in 0..8 {
            rng.roll();
        }
        rng
    }

    pub(super) fn roll(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(super) fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.roll())
    }

    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.roll() < probability
    }

    /// A whole number from 0 up to `most`, `most` excluded.
    pub(super) fn below(&mut self, most: u32) -> u32 {
        let scaled = self.roll() * f64::from(most);
        let (mut low, mut high) = (0, most);
        while low < high {
            let middle = u32::midpoint(low, high);
            if f64::from(middle + 1) <= scaled {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The time to the next of events that come `every` so often on average, at random.
    pub(super) fn gap(&mut self, every: Duration) -> Duration {
        every.mul_f64(-(1.0 - self.roll()).ln())
    }
}
