//! Checks that a body is JSON, and reads it whole, within its limits.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt as _;
use hyper::body::Body;
use tokio::time::{Instant, timeout_at};

use super::Config;
use crate::memory::{ALLOCATED_PER_BYTE, MemoryBudget, Reservation};
use crate::response::RequestError;

/// A body in memory; its reservation is released on drop.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) bytes: Bytes,
    _share: Option<Reservation>,
}

/// What a body needs that does not arrive at once, in one piece.
struct SlowBody {
    joined: BytesMut,
    reservation: Reservation,
    deadline: Instant,
}

impl SlowBody {
    fn new(config: &Config, budget: &Arc<MemoryBudget>) -> Self {
        Self {
            joined: BytesMut::new(),
            reservation: Reservation::none(Arc::clone(budget)),
            deadline: Instant::now() + config.body_timeout,
        }
    }

    /// Adds a piece, unless the budget is spent.
    fn add(&mut self, piece: &Bytes) -> Result<(), RequestError> {
        if !self.reservation.grow(piece.len() * ALLOCATED_PER_BYTE) {
            return Err(RequestError::Busy);
        }
        self.joined.extend_from_slice(piece);
        Ok(())
    }
}

/// Rejects a body whose announced length is too large, before it is read.
pub(super) fn check_length(body: &impl Body, config: &Config) -> Result<(), RequestError> {
    if body.size_hint().lower() > config.max_body as u64 {
        return Err(RequestError::BodySize { limit: config.max_body });
    }
    Ok(())
}

/// The whole body, which is rejected as soon as it exceeds the limit. `budget` pays for bodies that
/// are incomplete; a body that is complete at once is held only while it is parsed.
pub(super) async fn read<B>(mut body: B, config: &Config, budget: &Arc<MemoryBudget>) -> Result<Received, RequestError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let begin = || SlowBody::new(config, budget);
    let (mut at_once, mut slow) = (Bytes::new(), None);
    // Checked before each piece: when the length was announced, the end need not be waited for.
    while !body.is_end_stream() {
        let frame = if let Some(frame) = body.frame().now_or_never() {
            frame
        } else {
            let slow: &mut SlowBody = slow.get_or_insert_with(begin);
            slow.add(&std::mem::take(&mut at_once))?;
            let frame = timeout_at(slow.deadline, body.frame()).await;
            frame.map_err(|_| RequestError::BodyTimeout {
                limit: config.body_timeout,
            })?
        };
        let Some(frame) = frame else { break };
        // Trailers contain nothing that is needed.
        let Ok(data) = frame.map_err(|_| RequestError::BodyBroken)?.into_data() else {
            continue;
        };
        // Some callers end a body over HTTP/2 with an empty frame.
        if data.is_empty() {
            continue;
        }
        let before = at_once.len() + slow.as_ref().map_or(0, |slow| slow.joined.len());
        if before + data.len() > config.max_body {
            return Err(RequestError::BodySize { limit: config.max_body });
        }
        // Nearly every body is one piece, and is not copied.
        if before == 0 {
            at_once = data;
            continue;
        }
        let slow = slow.get_or_insert_with(begin);
        slow.add(&std::mem::take(&mut at_once))?;
        slow.add(&data)?;
    }
    Ok(match slow {
        Some(slow) if !slow.joined.is_empty() => Received {
            bytes: slow.joined.freeze(),
            _share: Some(slow.reservation),
        },
        _ => Received {
            bytes: at_once,
            _share: None,
        },
    })
}

/// Accepts JSON in UTF-8 that is declared as such.
///
/// A missing type is rejected as well (415): a page of another site can make a browser send it
/// without a preflight request.
pub(super) fn check_type(fields: &HeaderMap) -> Result<(), RequestError> {
    let mut types = fields.get_all(header::CONTENT_TYPE).iter();
    match (types.next().and_then(|media| media.to_str().ok()), types.next()) {
        (Some(media), None) if is_json(media) => Ok(()),
        _ => Err(RequestError::ContentType),
    }
}

/// Accepts bodies without a content coding. Requests with only [usual](crate::server::is_usual)
/// fields have none.
pub(super) fn check_codings(fields: &HeaderMap) -> Result<(), RequestError> {
    let mut codings = fields.get_all(header::CONTENT_ENCODING).iter();
    if codings.any(|list| !list.as_bytes().split(|byte| *byte == b',').all(is_identity)) {
        return Err(RequestError::ContentEncoding);
    }
    if is_transfer_coded(fields) {
        return Err(RequestError::TransferEncoding);
    }
    Ok(())
}

/// Whether a coding changes nothing, or an element of a list is empty (RFC 9110 §5.6.1.2, §8.4.1).
fn is_identity(coding: &[u8]) -> bool {
    let coding = coding.trim_ascii();
    coding.is_empty() || coding.eq_ignore_ascii_case(b"identity")
}

/// Whether a body has another transfer coding than `chunked`, or several: hyper decodes only the
/// former (RFC 9112 §6.1).
fn is_transfer_coded(fields: &HeaderMap) -> bool {
    let mut codings = fields.get_all(header::TRANSFER_ENCODING).iter();
    let is_chunked = |coding: &HeaderValue| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    codings.next().is_some_and(|first| !is_chunked(first)) || codings.next().is_some()
}

/// Whether a media type is `application/json`, with any parameters except a character set that is
/// not UTF-8 even where the body is plain ASCII, as ids are.
fn is_json(media: &str) -> bool {
    if media == "application/json" {
        return true;
    }
    let mut parts = media.split(';').map(str::trim);
    let json = parts
        .next()
        .is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    json && parts
        .filter_map(|parameter| parameter.split_once('='))
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))
        .all(|(_, value)| {
            let named = value.trim().trim_matches('"');
            CHARSETS.iter().any(|charset| charset.eq_ignore_ascii_case(named))
        })
}

/// UTF-8, and those whose ASCII is the same. What else a body holds has to be UTF-8.
const CHARSETS: [&str; 4] = ["utf-8", "utf8", "us-ascii", "iso-8859-1"];

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;

    use futures_util::{StreamExt as _, stream};
    use http_body_util::{Full, StreamBody};
    use hyper::body::{Frame, SizeHint};

    async fn read<B: Body<Data = Bytes> + Unpin>(
        body: B,
        config: &Config,
        budget: &Arc<MemoryBudget>,
    ) -> Result<Received, RequestError> {
        check_length(&body, config)?;
        super::read(body, config, budget).await
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
        let budget = MemoryBudget::new(20);
        let received = read(pieces(&["ab", "", "cd", "ef"]), &config(), &budget).await.unwrap();
        assert_eq!(received.bytes, "abcdef");
        assert_eq!(budget.left(), 20 - 2 * 6);
        drop(received);
        assert_eq!(budget.left(), 20);
    }

    #[tokio::test]
    async fn a_body_may_be_as_large_as_the_limit_and_no_larger() {
        let budget = MemoryBudget::new(100);
        let full = |size| Full::new(Bytes::from(vec![b'x'; size]));
        assert!(read(full(10), &config(), &budget).await.is_ok());
        let error = read(full(11), &config(), &budget).await.unwrap_err();
        assert_eq!(error, RequestError::BodySize { limit: 10 });
        let error = read(pieces(&["123456", "78901"]), &config(), &budget)
            .await
            .unwrap_err();
        assert_eq!(error, RequestError::BodySize { limit: 10 });
        assert_eq!(budget.left(), 100);
    }

    #[tokio::test]
    async fn a_body_announced_too_large_is_not_read() {
        struct Announced(u64);

        impl Body for Announced {
            type Data = Bytes;
            type Error = Infallible;

            fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
                unreachable!("it is not read")
            }

            fn size_hint(&self) -> SizeHint {
                SizeHint::with_exact(self.0)
            }
        }

        let error = read(Announced(11), &config(), &MemoryBudget::new(9)).await.unwrap_err();
        assert_eq!(error, RequestError::BodySize { limit: 10 });
    }

    #[tokio::test]
    async fn a_spent_budget_refuses_bodies_that_are_incomplete() {
        let budget = MemoryBudget::new(5);
        let error = read(pieces(&["a", "bc"]), &config(), &budget).await.unwrap_err();
        assert_eq!(error, RequestError::Busy);
        let open =
            stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"abc")))]).chain(stream::pending());
        let error = read(StreamBody::new(open), &config(), &budget).await.unwrap_err();
        assert_eq!(error, RequestError::Busy);
        assert_eq!(budget.left(), 5);
        for whole in [&["abc"][..], &["abc", ""], &["", "abc"]] {
            let at_once = read(pieces(whole), &config(), &budget).await;
            assert_eq!(at_once.unwrap().bytes, "abc", "{whole:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let body = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let error = read(body, &config(), &MemoryBudget::new(9)).await.unwrap_err();
        assert_eq!(
            error,
            RequestError::BodyTimeout {
                limit: Duration::from_secs(3)
            }
        );
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_the_callers_fault() {
        let body = StreamBody::new(stream::iter([Err::<Frame<Bytes>, _>("reset")]));
        let error = read(body, &config(), &MemoryBudget::new(9)).await.unwrap_err();
        assert_eq!(error, RequestError::BodyBroken);
    }

    fn content(fields: &[(&'static str, &'static str)]) -> Result<(), RequestError> {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, value.parse().unwrap());
        }
        check_type(&map).and_then(|()| check_codings(&map))
    }

    #[test]
    fn json_may_have_parameters() {
        for good in [
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            "application/json;charset=\"UTF-8\"; odata=x",
            "application/json; charset=utf8",
            "application/json; charset=US-ASCII",
            "application/json; charset=ISO-8859-1",
            "application/json;",
        ] {
            assert_eq!(content(&[("content-type", good)]), Ok(()), "{good}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for bad in [
            "",
            "text/plain",
            "application/jsonx",
            "application/json, text/plain",
            "application/json; charset=utf-16",
        ] {
            assert_eq!(
                content(&[("content-type", bad)]),
                Err(RequestError::ContentType),
                "{bad}"
            );
        }
        assert_eq!(content(&[]), Err(RequestError::ContentType));
        let json = ("content-type", "application/json");
        assert_eq!(content(&[json, json]), Err(RequestError::ContentType));
        assert_eq!(
            content(&[json, ("content-encoding", "gzip")]),
            Err(RequestError::ContentEncoding)
        );
        for identity in ["identity", "Identity", "", "identity, identity"] {
            assert_eq!(content(&[json, ("content-encoding", identity)]), Ok(()), "{identity}");
        }
        assert_eq!(
            content(&[json, ("content-encoding", "identity, gzip")]),
            Err(RequestError::ContentEncoding)
        );
    }
}
