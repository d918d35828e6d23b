//! The queue over a clockwork of slots, in paused time.

mod fair_queue;
mod fairness;
mod handover;
mod obedience;
mod overload;
mod reference;
mod retry;
mod unused;

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Config, Metrics, PermitSource, Queue, Weights};
use crate::attempt::{Attempt, FlowDemand, QueuePosition, Retries, SharedOrder};
use crate::caller::{CacheDirectives, Caller, Name, RequestId, Urgency};
use crate::scan::{Endpoint, Request};
use crate::task::Tasks;

/// Runs what a property test tries, in a runtime of its own.
pub(super) fn in_paused_time<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(work)
}

/// One slot every so often; none is saved up, unless said otherwise.
#[derive(Clone, Debug)]
pub(super) struct Clockwork(Arc<Works>);

#[derive(Debug)]
struct Works {
    next: Mutex<Instant>,
    every: Duration,
    /// So many slots are saved up that nobody takes when they come.
    saved: u32,
    version: AtomicU64,
    changed: Notify,
    /// The order of all queues, if there are others.
    shared: Mutex<Option<Arc<SharedOrder>>>,
}

/// A slot of the clockwork; goes back unless used.
#[derive(Debug)]
pub(super) struct Slot {
    works: Arc<Works>,
    used: bool,
}

impl Slot {
    pub(super) fn used(mut self) {
        self.used = true;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.used {
            *self.works.next.lock().unwrap() = Instant::now();
            self.works.version.fetch_add(1, Ordering::Relaxed);
            self.works.changed.notify_one();
        }
    }
}

impl Clockwork {
    pub(super) fn new(every: Duration) -> Self {
        Self::saving(0, every)
    }

    /// As many as `saved` slots that nobody takes are saved up.
    pub(super) fn saving(saved: u32, every: Duration) -> Self {
        let next = Mutex::new(Instant::now());
        Self(Arc::new(Works {
            next,
            every,
            saved,
            version: AtomicU64::new(0),
            changed: Notify::new(),
            shared: Mutex::default(),
        }))
    }

    /// This is wanted of the same slots elsewhere.
    pub(super) fn share_with(&self, others: Vec<FlowDemand>) {
        let shared = SharedOrder {
            others,
            ..SharedOrder::default()
        };
        *self.0.shared.lock().unwrap() = Some(Arc::new(shared));
    }

    /// No slot before that moment, although others are forecast.
    pub(super) fn fail_until(&self, at: Instant) {
        *self.0.next.lock().unwrap() = at;
    }

    /// No slot before that moment.
    pub(super) fn pause_until(&self, at: Instant) {
        *self.0.next.lock().unwrap() = at;
        self.0.version.fetch_add(1, Ordering::Relaxed);
        self.0.changed.notify_one();
    }
}

impl PermitSource for Clockwork {
    type Permit = Slot;

    fn take(&self, now: Instant) -> Result<Slot, Option<Instant>> {
        let mut next = self.0.next.lock().unwrap();
        if *next > now {
            return Err(Some(*next));
        }
        *next = (*next).max(now - self.0.every * self.0.saved) + self.0.every;
        self.0.version.fetch_add(1, Ordering::Relaxed);
        Ok(Slot {
            works: Arc::clone(&self.0),
            used: false,
        })
    }

    fn forecast(&self, now: Instant, count: usize, slots: &mut VecDeque<Instant>) {
        let first = (*self.0.next.lock().unwrap()).max(now - self.0.every * self.0.saved);
        let starts = (0..u32::try_from(count).unwrap()).map(|n| first + self.0.every * n);
        slots.extend(starts.map(|start| start.max(now)));
    }

    fn version(&self) -> u64 {
        self.0.version.load(Ordering::Relaxed)
    }

    fn changed(&self) -> impl Future<Output = ()> + Send {
        self.0.changed.notified()
    }

    fn next_timeout(&self) -> Option<Instant> {
        None
    }

    fn shared_order(&self) -> Option<Arc<SharedOrder>> {
        self.0.shared.lock().unwrap().clone()
    }
}

/// A try of `name` that may wait so long.
pub(super) fn attempt(name: &str, urgency: u8, wait: Duration) -> Attempt {
    let now = Instant::now();
    let caller = Caller {
        name: Name::new(name),
        urgency: Urgency::new(urgency).unwrap(),
        deadline: now + wait,
        wait: None,
        cache_directives: CacheDirectives::default(),
        request_id: RequestId::random(),
        trace: crate::telemetry::trace::Trace::None,
        has_fallback: false,
    };
    Attempt {
        request: Arc::new(Request::plain(Endpoint::HISTORY, ["a"]).unwrap()),
        caller: Arc::new(caller),
        position: QueuePosition::new(now),
        retries: Retries::default(),
    }
}

pub(super) fn queue(every: Duration, tasks: &Tasks) -> (Queue<Clockwork>, Clockwork) {
    queue_before(Clockwork::new(every), tasks)
}

pub(super) fn queue_before(clockwork: Clockwork, tasks: &Tasks) -> (Queue<Clockwork>, Clockwork) {
    let config = Config {
        longest_wait: Duration::from_hours(10),
        ..Config::default()
    };
    (
        Queue::start(config, clockwork.clone(), tasks, Metrics::default()),
        clockwork,
    )
}

pub(super) const SECOND: Duration = Duration::from_secs(1);
