//! Writing answers for the other replicas.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::codec::Value;
use super::layer::SharedCache;
use super::write_queue::WriteJob;
use crate::scan::{Answer, Keep, Request};

/// Keeps what another keeps, and writes it to the store as well.
#[derive(Debug)]
pub struct Publisher {
    member: SharedCache,
    memory: Arc<dyn Keep>,
}

impl Publisher {
    /// What `memory` keeps is written by `member`.
    #[must_use]
    pub fn new(member: SharedCache, memory: Arc<dyn Keep>) -> Self {
        Self { member, memory }
    }
}

impl Keep for Publisher {
    fn keep(&self, request: &Request, answer: &Answer, asked: Instant) -> Option<Duration> {
        // What must not be kept in memory must not be kept anywhere.
        let left = self.memory.keep(request, answer, asked)?;
        if !left.is_zero() {
            self.member.publish(request, answer, asked, left);
        }
        Some(left)
    }

    fn worth_prefetching(&self, asked: &Request, most: usize, now: Instant, until: Instant) -> Vec<Box<str>> {
        self.memory.worth_prefetching(asked, most, now, until)
    }

    fn keep_rows(&self, request: &Request, prefetched: Option<&Request>, answer: &Answer, asked: Instant) {
        self.memory.keep_rows(request, prefetched, answer, asked);
    }
}

impl SharedCache {
    /// Writes an answer that has just come, and is fresh for as long as is `left`.
    fn publish(&self, request: &Request, answer: &Answer, asked: Instant, left: Duration) {
        // Whoever holds the token may see what others may not.
        if request.holder().is_some() {
            return;
        }
        let inner = &self.0;
        // What another cache had kept before counts.
        let age = answer.age();
        let stored = Instant::now().checked_sub(age).and_then(|at| inner.backend.time(at));
        let (Some(asked), Some(stored)) = (inner.backend.time(asked), stored) else {
            // The store has never answered; a lease, if there is one, ends with its last holder.
            return;
        };
        let token = inner.registry.lease(request.key()).and_then(|lease| lease.land());
        inner.write_queue.send(WriteJob::Answer {
            name: inner.config.name(request.key()),
            token,
            value: Value {
                answer: answer.without_passing_fields(),
                asked,
                stored,
                ttl: left + age,
            },
        });
    }
}
