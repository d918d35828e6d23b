//! Bodies that arrive whole, slowly, or not to the end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;

use super::line::Line;

/// A body on its way out.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// In how many pieces a slow body comes.
const PIECES: u32 = 10;

/// Long enough for what was written before to leave, short enough to be no delay.
const FLUSH: Duration = Duration::from_millis(5);

pub(super) fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).boxed_unsync()
}

/// Comes in pieces, evenly spread over `over`.
pub(super) fn slow(bytes: Bytes, over: Duration) -> Body {
    let piece = bytes.len().div_ceil(PIECES as usize).max(1);
    let pieces = stream::unfold(bytes, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(over / PIECES).await;
        let first = rest.split_to(piece.min(rest.len()));
        Some((Ok(Frame::data(first)), rest))
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// Its first half comes, then the connection is reset.
pub(super) fn cut_short(mut bytes: Bytes, line: Arc<Line>) -> Body {
    let half = bytes.split_to(bytes.len() / 2);
    let pieces = stream::unfold(Some(half), move |half| {
        let line = Arc::clone(&line);
        async move {
            if let Some(half) = half {
                return Some((Ok(Frame::data(half)), None));
            }
            tokio::time::sleep(FLUSH).await;
            line.cut();
            std::future::pending().await
        }
    });
    StreamBody::new(pieces).boxed_unsync()
}
