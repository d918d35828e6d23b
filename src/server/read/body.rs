//! Reads a body whole, within its limits.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use hyper::body::Body;
use pin_project_lite::pin_project;
use tokio::time::Sleep;

use super::Config;
use super::budget::{Budget, Share};
use crate::respond::Refusal;

/// A body in memory; its part of the budget goes back on drop.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) bytes: Bytes,
    _share: Share,
}

pin_project! {
    /// A body on its way in. What is announced too large is refused unread; what turns out too large, as soon as it does.
    #[derive(Debug)]
    pub(super) struct Receiving<B> {
        #[pin]
        body: B,
        received: Bytes,
        // In front of it stands nothing: the pieces of a body that came in more than one.
        joined: BytesMut,
        share: Option<Share>,
        limit: usize,
        too_large: bool,
        timeout: Duration,
        // Most bodies are there at once and need no timer.
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<B> Receiving<B>
where
    B: Body<Data = Bytes>,
{
    pub(super) fn new(fields: &HeaderMap, body: B, config: &Config, budget: Arc<Budget>) -> Self {
        let limit = config.max_body;
        let announced = fields
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        Self {
            too_large: announced.is_some_and(|length| length > limit as u64) || body.size_hint().lower() > limit as u64,
            body,
            received: Bytes::new(),
            joined: BytesMut::new(),
            share: Some(Share::of(budget)),
            limit,
            timeout: config.body_timeout,
            timer: None,
        }
    }

    fn poll_body(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Received, Refusal>> {
        let mut this = self.project();
        let too_large = Refusal::BodySize { limit: *this.limit };
        if *this.too_large {
            return Poll::Ready(Err(too_large));
        }
        while let Some(frame) = ready!(this.body.as_mut().poll_frame(context)) {
            // Trailers say nothing that we need.
            let Ok(data) = frame.map_err(|_| Refusal::BodyBroken)?.into_data() else {
                continue;
            };
            if data.is_empty() {
                continue;
            }
            if this.received.len() + this.joined.len() + data.len() > *this.limit {
                return Poll::Ready(Err(too_large));
            }
            if !this.share.as_mut().is_some_and(|share| share.grow(data.len())) {
                return Poll::Ready(Err(Refusal::Busy));
            }
            // Nearly every body is one piece, and is not copied.
            if this.received.is_empty() && this.joined.is_empty() {
                *this.received = data;
            } else {
                this.joined.extend_from_slice(&std::mem::take(this.received));
                this.joined.extend_from_slice(&data);
            }
        }
        let joined = std::mem::take(this.joined);
        let bytes = if joined.is_empty() {
            std::mem::take(this.received)
        } else {
            joined.freeze()
        };
        // It is there until the body is complete, and a complete body is not polled again.
        let share = this.share.take().ok_or(Refusal::Busy)?;
        Poll::Ready(Ok(Received { bytes, _share: share }))
    }
}

impl<B> Future for Receiving<B>
where
    B: Body<Data = Bytes>,
{
    type Output = Result<Received, Refusal>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(received) = self.as_mut().poll_body(context) {
            return Poll::Ready(received);
        }
        let this = self.project();
        let limit = *this.timeout;
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(Refusal::BodyTimeout { limit }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::time::Duration;

    use futures_util::{StreamExt as _, stream};
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    async fn read<B: Body<Data = Bytes>>(
        fields: &HeaderMap,
        body: B,
        config: &Config,
        budget: &Arc<Budget>,
    ) -> Result<Received, Refusal> {
        Receiving::new(fields, body, config, Arc::clone(budget)).await
    }

    fn config() -> Config {
        Config {
            max_body: 10,
            body_timeout: Duration::from_secs(3),
            ..Config::default()
        }
    }

    fn pieces(pieces: &'static [&'static str]) -> impl Body<Data = Bytes, Error = Infallible> {
        StreamBody::new(stream::iter(pieces).map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))))
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_put_together_and_its_budget_returned() {
        let budget = Budget::new(10);
        let received = read(&HeaderMap::new(), pieces(&["ab", "", "cd", "ef"]), &config(), &budget)
            .await
            .unwrap();
        assert_eq!(received.bytes, "abcdef");
        assert_eq!(budget.left(), 4);
        drop(received);
        assert_eq!(budget.left(), 10);
    }

    #[tokio::test]
    async fn a_body_may_be_as_large_as_the_limit_and_no_larger() {
        let budget = Budget::new(100);
        let full = |size| Full::new(Bytes::from(vec![b'x'; size]));
        assert!(read(&HeaderMap::new(), full(10), &config(), &budget).await.is_ok());
        let error = read(&HeaderMap::new(), full(11), &config(), &budget).await.unwrap_err();
        assert_eq!(error, Refusal::BodySize { limit: 10 });
        let error = read(&HeaderMap::new(), pieces(&["123456", "78901"]), &config(), &budget)
            .await
            .unwrap_err();
        assert_eq!(error, Refusal::BodySize { limit: 10 });
        assert_eq!(budget.left(), 100);
    }

    #[tokio::test]
    async fn a_body_announced_too_large_is_not_read() {
        let mut fields = HeaderMap::new();
        fields.insert(header::CONTENT_LENGTH, "11".parse().unwrap());
        let never = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let error = read(&fields, never, &config(), &Budget::new(9)).await.unwrap_err();
        assert_eq!(error, Refusal::BodySize { limit: 10 });
    }

    #[tokio::test]
    async fn a_spent_budget_refuses_at_once() {
        let error = read(&HeaderMap::new(), pieces(&["abc"]), &config(), &Budget::new(2))
            .await
            .unwrap_err();
        assert_eq!(error, Refusal::Busy);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let body = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let error = read(&HeaderMap::new(), body, &config(), &Budget::new(9))
            .await
            .unwrap_err();
        assert_eq!(
            error,
            Refusal::BodyTimeout {
                limit: Duration::from_secs(3)
            }
        );
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_the_callers_fault() {
        let body = StreamBody::new(stream::iter([Err::<Frame<Bytes>, _>("reset")]));
        let error = read(&HeaderMap::new(), body, &config(), &Budget::new(9))
            .await
            .unwrap_err();
        assert_eq!(error, Refusal::BodyBroken);
    }
}
