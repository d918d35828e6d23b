//! What is on its way to the store. Nobody waits for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::backend::Completion;
use super::clock::StoreTime;
use super::codec::Value;
use super::config::Name;
use super::layer::Inner;
use super::metrics::{Metrics, Write};
use super::waiters::LeaseEvent;

/// Most parcels on their way. With the documented quota there are two a second at the most.
const MOST: usize = 256;

/// One thing for the store.
#[derive(Debug)]
pub(super) enum WriteJob {
    /// An answer; with the token of the lease that it ends.
    Answer {
        name: Name,
        token: Option<Arc<str>>,
        value: Value,
    },
    /// The end of a lease.
    LeaseEvent {
        name: Name,
        token: Arc<str>,
        word: LeaseEvent,
    },
}

/// Where parcels are handed in.
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

    /// Hands a parcel in. When there is no room it is dropped: a lease then runs out.
    pub(super) fn send(&self, job: WriteJob) {
        let is_answer = matches!(job, WriteJob::Answer { .. });
        if self.sender.try_send(job).is_err() && is_answer {
            self.metrics.wrote(Write::Dropped);
        }
    }
}

/// Delivers parcels in their order, until the gateway stops; what has been handed in by then is still delivered, so that no follower waits
/// for a replica that is gone.
pub(super) async fn deliver(inner: Arc<Inner>, mut parcels: mpsc::Receiver<WriteJob>) {
    loop {
        tokio::select! {
            biased;
            job = parcels.recv() => match job {
                Some(job) => inner.deliver(job).await,
                None => return,
            },
            () = inner.tasks.stopping() => return,
        }
    }
}

impl Inner {
    async fn deliver(&self, job: WriteJob) {
        match job {
            WriteJob::LeaseEvent { name, token, word } => self.say(&name, &token, word).await,
            WriteJob::Answer { name, token, value } => self.write(&name, token.as_deref(), &value).await,
        }
    }

    async fn say(&self, name: &Name, token: &str, word: LeaseEvent) {
        let landing = Completion {
            token,
            message: word.message(name),
            value: None,
        };
        self.backend.land(name, &landing).await;
    }

    async fn write(&self, name: &Name, token: Option<&str>, value: &Value) {
        let Some(bytes) = value.write(name) else {
            self.metrics.wrote(Write::TooLarge);
            if let Some(token) = token {
                self.say(name, token, LeaseEvent::Alone).await;
            }
            return;
        };
        let landing = Completion {
            token: token.unwrap_or_default(),
            message: LeaseEvent::Landed.message(name),
            value: Some((bytes, value.end())),
        };
        let was_up = self.backend.is_up();
        let written = self.backend.land(name, &landing).await;
        self.metrics.wrote(match (written, was_up) {
            (true, _) => Write::Written,
            (false, true) => Write::Failed,
            (false, false) => Write::Dropped,
        });
    }
}

impl Value {
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
    fn what_finds_no_room_is_dropped_and_nobody_waits() {
        let (write_queue, mut parcels) = WriteQueue::new(Metrics::default());
        for n in 0..1000 {
            write_queue.send(WriteJob::LeaseEvent {
                name: Name::new(&n.to_string()),
                token: "t".into(),
                word: LeaseEvent::Alone,
            });
        }
        let kept = std::iter::from_fn(|| parcels.try_recv().ok()).count();
        assert_eq!(kept, 256);
    }
}
