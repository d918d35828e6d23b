//! What sharing saved: how many requests were answered, and by what.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use serde_json::{Value, json};
use tower::Service;

use crate::BoxError;
use crate::scan::{Call, Forward, Outcome, Served};

/// Counts answers by how they came about. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Saved(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    /// Of those forwarded, how many asked for a part only.
    partial: AtomicU64,
}

impl Saved {
    /// How many requests were answered in this way.
    #[must_use]
    pub fn answered(&self, outcome: Outcome) -> u64 {
        self.0.outcomes[outcome as usize].load(Ordering::Relaxed)
    }

    /// How many of those forwarded asked only for the ids that were not stored.
    #[must_use]
    pub fn partial(&self) -> u64 {
        self.0.partial.load(Ordering::Relaxed)
    }

    /// The counts beside the calls that were made, as `/status` shows them.
    pub(super) fn show(&self, calls: u64) -> Value {
        let requests: u64 = Outcome::ALL.iter().map(|outcome| self.answered(*outcome)).sum();
        // Read first: it is counted last, so that no moment shows more of these than were forwarded.
        let partial = self.partial();
        let by = Outcome::ALL.iter().map(|outcome| {
            let count = match outcome {
                Outcome::Forwarded => self.answered(*outcome).saturating_sub(partial),
                _ => self.answered(*outcome),
            };
            (outcome.as_str().to_owned(), json!(count))
        });
        let by = by.chain([("partial".to_owned(), json!(partial))]);
        json!({
            "requests": requests,
            "upstream_calls": calls,
            "by": by.collect::<serde_json::Map<_, _>>(),
        })
    }

    fn count(&self, served: &Served) {
        self.0.outcomes[served.outcome as usize].fetch_add(1, Ordering::Relaxed);
        if served.outcome == Outcome::Forwarded && served.status.forward == Some(Forward::Partial) {
            self.0.partial.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Counts what passes.
#[derive(Clone, Debug)]
pub struct Layer(Saved);

impl Layer {
    /// Counts into `saved`.
    #[must_use]
    pub fn new(saved: Saved) -> Self {
        Self(saved)
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Counting<S>;

    fn layer(&self, inner: S) -> Counting<S> {
        Counting {
            inner,
            saved: self.0.clone(),
        }
    }
}

/// The service of [`Layer`].
#[derive(Clone, Debug)]
pub struct Counting<S> {
    inner: S,
    saved: Saved,
}

impl<S> Service<Call> for Counting<S>
where
    S: Service<Call, Response = Served, Error = BoxError>,
{
    type Response = Served;
    type Error = BoxError;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        Answering {
            answer: self.inner.call(call),
            saved: self.saved.clone(),
        }
    }
}

pin_project! {
    /// An answer that will be counted.
    #[derive(Debug)]
    pub struct Answering<F> {
        #[pin]
        answer: F,
        saved: Saved,
    }
}

impl<F> Future for Answering<F>
where
    F: Future<Output = Result<Served, BoxError>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.answer.poll(context));
        if let Ok(served) = &answer {
            this.saved.count(served);
        }
        Poll::Ready(answer)
    }
}
