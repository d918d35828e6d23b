//! Writes answers to the store for the other replicas.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::codec::StoredResponse;
use super::layer::SharedCache;
use super::write_queue::WriteJob;
use crate::scan::{CacheSink, Request, StoredRows, UpstreamResponse};

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
        inner.write_queue.send(WriteJob::Answer {
            name,
            token,
            value: StoredResponse {
                answer: answer.without_passing_fields(),
                asked,
                stored,
                ttl: left + age,
            },
        });
    }
}
