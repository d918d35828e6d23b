//! Responses that the peer has not read yet, and since when.
//!
//! HTTP/2 queues a whole response as soon as the peer's window is open by a byte, so neither the
//! end of a body nor written bytes show that it was read. That its memory is freed does.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hyper::body::Body as _;
use tokio::time::Instant;

use crate::response::Body;

/// Smaller responses are not watched: most are that small, and watching costs an allocation. A
/// connection holds a hundred of them at most.
const WATCHED: u64 = 4 * 1024;

/// The large responses of one connection that have not been read yet.
#[derive(Debug, Default)]
pub(super) struct PendingResponses(Mutex<Pending>);

#[derive(Debug, Default)]
struct Pending {
    answers: u64,
    /// By number; the first one is the oldest.
    since: BTreeMap<u64, Instant>,
}

impl PendingResponses {
    /// Watches a body from now on, if it is large.
    pub(super) fn watch(self: &Arc<Self>, body: &mut Body) {
        if body.size_hint().lower() < WATCHED {
            return;
        }
        // The body is in memory, so its only frame is ready at once.
        let frame = Pin::new(&mut *body).poll_frame(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Some(Ok(frame))) = frame else {
            return;
        };
        let bytes = frame.into_data().unwrap_or_default();
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = waiting.answers;
        waiting.answers += 1;
        waiting.since.insert(number, Instant::now());
        drop(waiting);
        *body = Body::new(Bytes::from_owner(Watched {
            bytes,
            number,
            of: Arc::clone(self),
        }));
    }

    /// Since when the oldest one has been pending.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.since.first_key_value().map(|(_, since)| *since)
    }
}

/// The bytes of one of them, until the last copy is dropped.
struct Watched {
    bytes: Bytes,
    number: u64,
    of: Arc<PendingResponses>,
}

impl AsRef<[u8]> for Watched {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut waiting = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.since.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_answer_whose_memory_is_held_counts() {
        let (pending, begun) = (Arc::new(PendingResponses::default()), Instant::now());
        let text = Bytes::from(vec![7; 5000]);
        let watched = |mut body| {
            pending.watch(&mut body);
            body
        };
        let first = watched(Body::new(text.clone())).collect().await.unwrap().to_bytes();
        assert_eq!(first, text);
        tokio::time::advance(Duration::from_secs(1)).await;
        let second = watched(Body::new(text.clone()));
        assert_eq!(pending.oldest(), Some(begun));
        let rest = first.slice(4000..);
        drop(first);
        assert_eq!(pending.oldest(), Some(begun), "a part of it is still to be sent");
        drop(rest);
        assert_eq!(pending.oldest(), Some(begun + Duration::from_secs(1)));
        drop(second);
        assert_eq!(pending.oldest(), None);
    }

    #[tokio::test]
    async fn small_answers_are_passed_on_as_they_are() {
        let pending = Arc::new(PendingResponses::default());
        let text = Bytes::from_static(b"{}");
        let mut body = Body::new(text.clone());
        pending.watch(&mut body);
        assert_eq!(pending.oldest(), None);
        assert_eq!(body.collect().await.unwrap().to_bytes().as_ptr(), text.as_ptr());
    }
}
