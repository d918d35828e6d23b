//! What is on its way to the store. Nobody waits for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::bell::Word;
use super::clock::StoreTime;
use super::config::Name;
use super::depot::Landing;
use super::layer::Inner;
use super::metrics::{Metrics, Write};
use super::value::Value;

/// Most parcels on their way. With the documented quota there are two a second at the most.
const MOST: usize = 256;

/// One thing for the store.
#[derive(Debug)]
pub(super) enum Parcel {
    /// An answer; with the token of the lease that it ends.
    Answer {
        name: Name,
        token: Option<Arc<str>>,
        value: Value,
    },
    /// The end of a lease.
    Word { name: Name, token: Arc<str>, word: Word },
}

/// Where parcels are handed in.
#[derive(Debug)]
pub(super) struct Outbox {
    sender: mpsc::Sender<Parcel>,
    metrics: Metrics,
}

impl Outbox {
    pub(super) fn new(metrics: Metrics) -> (Self, mpsc::Receiver<Parcel>) {
        let (sender, receiver) = mpsc::channel(MOST);
        (Self { sender, metrics }, receiver)
    }

    /// Hands a parcel in. When there is no room it is dropped: a lease then runs out.
    pub(super) fn send(&self, parcel: Parcel) {
        let is_answer = matches!(parcel, Parcel::Answer { .. });
        if self.sender.try_send(parcel).is_err() && is_answer {
            self.metrics.wrote(Write::Dropped);
        }
    }
}

/// Delivers parcels in their order, until the gateway stops; what has been handed in by then is still delivered, so that no follower waits
/// for a replica that is gone.
pub(super) async fn deliver(inner: Arc<Inner>, mut parcels: mpsc::Receiver<Parcel>) {
    loop {
        tokio::select! {
            biased;
            parcel = parcels.recv() => match parcel {
                Some(parcel) => inner.deliver(parcel).await,
                None => return,
            },
            () = inner.tasks.stopping() => return,
        }
    }
}

impl Inner {
    async fn deliver(&self, parcel: Parcel) {
        match parcel {
            Parcel::Word { name, token, word } => self.say(&name, &token, word).await,
            Parcel::Answer { name, token, value } => self.write(&name, token.as_deref(), &value).await,
        }
    }

    async fn say(&self, name: &Name, token: &str, word: Word) {
        let landing = Landing {
            token,
            message: word.message(name),
            value: None,
        };
        self.depot.land(name, &landing).await;
    }

    async fn write(&self, name: &Name, token: Option<&str>, value: &Value) {
        let Some(bytes) = value.write(name) else {
            self.metrics.wrote(Write::TooLarge);
            if let Some(token) = token {
                self.say(name, token, Word::Alone).await;
            }
            return;
        };
        let landing = Landing {
            token: token.unwrap_or_default(),
            message: Word::Landed.message(name),
            value: Some((bytes, value.end())),
        };
        let was_up = self.depot.is_up();
        let written = self.depot.land(name, &landing).await;
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
        let (outbox, mut parcels) = Outbox::new(Metrics::default());
        for n in 0..1000 {
            outbox.send(Parcel::Word {
                name: Name::new(&n.to_string()),
                token: "t".into(),
                word: Word::Alone,
            });
        }
        let kept = std::iter::from_fn(|| parcels.try_recv().ok()).count();
        assert_eq!(kept, 256);
    }
}
