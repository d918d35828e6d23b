//! Writes answers to the store for the other replicas, through a queue, so that no request waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::codec::{StoreTime, StoredResponse};
use super::config::Name;
use super::lease::{Lease, LeaseEvent, LeasedCall};
use super::metrics::{Metrics, Write};
use super::{Inner, SharedCache};
use crate::scan::{CacheSink, CallObserver, Request, StoredRows, UpstreamResponse};

/// Stores answers in memory and writes those that were stored to the store as well.
#[derive(Debug)]
pub struct Publisher {
    shared_cache: SharedCache,
    memory: Arc<dyn CacheSink>,
}

impl Publisher {
    /// What `memory` stores is also written through `shared_cache`.
    pub fn new(shared_cache: SharedCache, memory: Arc<dyn CacheSink>) -> Self {
        Self { shared_cache, memory }
    }
}

impl CacheSink for Publisher {
    fn keep(&self, request: &Request, answer: &UpstreamResponse, asked: Instant) -> Option<Duration> {
        // What must not be stored in memory must not be stored anywhere.
        let left = self.memory.keep(request, answer, asked)?;
        if !left.is_zero() {
            self.shared_cache.publish(request, answer, asked, left);
        }
        Some(left)
    }

    fn observer(&self, request: &Request) -> Option<Box<dyn CallObserver>> {
        let lease = self.shared_cache.lease(request)?;
        Some(Box::new(LeasedCall::new(lease)))
    }

    fn worth_prefetching(&self, asked: &Request, most: usize, now: Instant, until: Instant) -> Vec<Box<str>> {
        self.memory.worth_prefetching(asked, most, now, until)
    }

    fn rows_since(&self, request: &Arc<Request>, since: Instant) -> Option<Box<dyn StoredRows>> {
        self.memory.rows_since(request, since)
    }

    fn keep_rows(&self, request: &Request, prefetched: Option<&Request>, answer: &UpstreamResponse, asked: Instant) {
        self.memory.keep_rows(request, prefetched, answer, asked);
    }
}

impl SharedCache {
    /// The lease on a request, if it is this replica's.
    fn lease(&self, request: &Request) -> Option<Arc<Lease>> {
        // The token's holder may see rows that other callers may not.
        let is_shared = request.token_id().is_none();
        let lease = || self.0.registry.lease(&self.0.config.name(request.key()));
        is_shared.then(lease).flatten()
    }

    /// Writes an answer that has just arrived and is fresh for another `left`.
    fn publish(&self, request: &Request, answer: &UpstreamResponse, asked: Instant, left: Duration) {
        // The token's holder may see rows that other callers may not.
        if request.token_id().is_some() {
            return;
        }
        let inner = &self.0;
        // The time that an HTTP cache on the way stored it counts as well.
        let age = answer.age();
        let stored = Instant::now().checked_sub(age).and_then(|at| inner.backend.time(at));
        let (Some(asked), Some(stored)) = (inner.backend.time(asked), stored) else {
            // The store has never replied. If there is a lease, it ends when it is dropped.
            return;
        };
        let name = inner.config.name(request.key());
        let token = inner.registry.lease(&name).and_then(|lease| lease.complete());
        inner.write_queue.send(WriteJob {
            name,
            token,
            result: Ok(StoredResponse {
                answer: answer.without_passing_fields(),
                asked,
                stored,
                ttl: left + age,
            }),
        });
    }
}

/// The most jobs in the queue. With the documented quota there are two a second at most.
const MOST: usize = 256;

/// One write to the store.
#[derive(Debug)]
pub(super) struct WriteJob {
    pub(super) name: Name,
    /// That of the lease that it ends, if there is one.
    pub(super) token: Option<Arc<str>>,
    /// An answer, or how the lease ended without one.
    pub(super) result: Result<StoredResponse, LeaseEvent>,
}

/// The sending end of the queue.
#[derive(Debug)]
pub(super) struct WriteQueue {
    sender: mpsc::Sender<WriteJob>,
    metrics: Metrics,
}

impl WriteQueue {
    pub(super) fn new(metrics: Metrics) -> (Self, mpsc::Receiver<WriteJob>) {
        let (sender, receiver) = mpsc::channel(MOST);
        (Self { sender, metrics }, receiver)
    }

    /// Queues a job. When the queue is full the job is dropped, and its lease expires.
    pub(super) fn send(&self, job: WriteJob) {
        let is_answer = job.result.is_ok();
        if self.sender.try_send(job).is_err() && is_answer {
            self.metrics.record_write(Write::Dropped);
        }
    }
}

/// Runs jobs in order until the gateway stops. Jobs that are queued by then are still run, so that
/// no follower waits for a replica that is gone.
pub(super) async fn run_writer(inner: Arc<Inner>, mut jobs: mpsc::Receiver<WriteJob>) {
    loop {
        tokio::select! {
            biased;
            job = jobs.recv() => match job {
                Some(job) => inner.write(job).await,
                None => return,
            },
            () = inner.tasks.stopping() => return,
        }
    }
}

impl Inner {
    async fn write(&self, WriteJob { name, token, result }: WriteJob) {
        let token = token.as_deref().unwrap_or_default();
        let value = match result {
            Ok(value) => value,
            Err(event) => {
                self.backend.complete(&name, token, event, None).await;
                return;
            }
        };
        let Some(bytes) = value.write(&name) else {
            self.metrics.record_write(Write::TooLarge);
            if !token.is_empty() {
                self.backend.complete(&name, token, LeaseEvent::Alone, None).await;
            }
            return;
        };
        let was_up = self.backend.is_up();
        let answer = Some((&*bytes, value.end()));
        let written = self.backend.complete(&name, token, LeaseEvent::Completed, answer).await;
        self.metrics.record_write(match (written, was_up) {
            (true, _) => Write::Written,
            (false, true) => Write::Failed,
            (false, false) => Write::Dropped,
        });
    }
}

impl StoredResponse {
    /// When its freshness ends.
    fn end(&self) -> StoreTime {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        StoreTime(self.stored.0.saturating_add(millis(self.ttl)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_beyond_the_queues_capacity_are_dropped_without_waiting() {
        let (write_queue, mut jobs) = WriteQueue::new(Metrics::default());
        for n in 0..1000 {
            write_queue.send(WriteJob {
                name: Name::new(&n.to_string()),
                token: Some("t".into()),
                result: Err(LeaseEvent::Alone),
            });
        }
        let kept = std::iter::from_fn(|| jobs.try_recv().ok()).count();
        assert_eq!(kept, 256);
    }
}
