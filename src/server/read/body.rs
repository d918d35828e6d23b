//! Reads a body whole, within its limits.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use hyper::body::Body;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Config;
use crate::respond::Refusal;

/// A body in memory; its part of the budget goes back on drop.
#[derive(Debug)]
pub(super) struct Received<'a> {
    pub(super) bytes: Bytes,
    _share: Option<SemaphorePermit<'a>>,
}

/// Reads `body`. What is announced too large is refused unread; what turns out too large, as soon as it does.
pub(super) async fn read<'a, B>(
    fields: &HeaderMap,
    body: B,
    config: &Config,
    budget: &'a Semaphore,
) -> Result<Received<'a>, Refusal>
where
    B: Body<Data = Bytes>,
{
    let limit = config.max_body;
    let too_large = Refusal::BodySize { limit };
    let announced = fields
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) || body.size_hint().lower() > limit as u64 {
        return Err(too_large);
    }
    let collect = collect(body, limit, budget);
    tokio::time::timeout(config.body_timeout, collect)
        .await
        .map_err(|_| Refusal::BodyTimeout {
            limit: config.body_timeout,
        })?
}

async fn collect<B>(body: B, limit: usize, budget: &Semaphore) -> Result<Received<'_>, Refusal>
where
    B: Body<Data = Bytes>,
{
    let mut body = std::pin::pin!(body);
    let mut bytes = Bytes::new();
    let mut more = BytesMut::new();
    let mut share: Option<SemaphorePermit<'_>> = None;
    while let Some(frame) = body.frame().await {
        // Trailers say nothing that we need.
        let Ok(data) = frame.map_err(|_| Refusal::BodyBroken)?.into_data() else {
            continue;
        };
        if data.is_empty() {
            continue;
        }
        if bytes.len() + more.len() + data.len() > limit {
            return Err(Refusal::BodySize { limit });
        }
        let size = u32::try_from(data.len()).map_err(|_| Refusal::BodySize { limit })?;
        let permit = budget.try_acquire_many(size).map_err(|_| Refusal::Busy)?;
        match &mut share {
            Some(share) => share.merge(permit),
            None => share = Some(permit),
        }
        // Nearly every body is one piece, and is not copied.
        if bytes.is_empty() && more.is_empty() {
            bytes = data;
        } else {
            more.extend_from_slice(&std::mem::take(&mut bytes));
            more.extend_from_slice(&data);
        }
    }
    Ok(Received {
        bytes: if more.is_empty() { bytes } else { more.freeze() },
        _share: share,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::time::Duration;

    use futures_util::{StreamExt as _, stream};
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

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
        let budget = Semaphore::new(10);
        let received = read(&HeaderMap::new(), pieces(&["ab", "", "cd", "ef"]), &config(), &budget)
            .await
            .unwrap();
        assert_eq!(received.bytes, "abcdef");
        assert_eq!(budget.available_permits(), 4);
        drop(received);
        assert_eq!(budget.available_permits(), 10);
    }

    #[tokio::test]
    async fn a_body_may_be_as_large_as_the_limit_and_no_larger() {
        let budget = Semaphore::new(100);
        let full = |size| Full::new(Bytes::from(vec![b'x'; size]));
        assert!(read(&HeaderMap::new(), full(10), &config(), &budget).await.is_ok());
        let error = read(&HeaderMap::new(), full(11), &config(), &budget).await.unwrap_err();
        assert_eq!(error, Refusal::BodySize { limit: 10 });
        let error = read(&HeaderMap::new(), pieces(&["123456", "78901"]), &config(), &budget)
            .await
            .unwrap_err();
        assert_eq!(error, Refusal::BodySize { limit: 10 });
        assert_eq!(budget.available_permits(), 100);
    }

    #[tokio::test]
    async fn a_body_announced_too_large_is_not_read() {
        let mut fields = HeaderMap::new();
        fields.insert(header::CONTENT_LENGTH, "11".parse().unwrap());
        let never = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let error = read(&fields, never, &config(), &Semaphore::new(9)).await.unwrap_err();
        assert_eq!(error, Refusal::BodySize { limit: 10 });
    }

    #[tokio::test]
    async fn a_spent_budget_refuses_at_once() {
        let error = read(&HeaderMap::new(), pieces(&["abc"]), &config(), &Semaphore::new(2))
            .await
            .unwrap_err();
        assert_eq!(error, Refusal::Busy);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let body = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let error = read(&HeaderMap::new(), body, &config(), &Semaphore::new(9))
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
        let error = read(&HeaderMap::new(), body, &config(), &Semaphore::new(9))
            .await
            .unwrap_err();
        assert_eq!(error, Refusal::BodyBroken);
    }
}
