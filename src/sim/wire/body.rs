//! Bodies that are sent at once, slowly, or partly.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;

use super::connection::Connection;

/// A body on its way out.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The number of pieces of a slow body.
const PIECES: u32 = 10;

/// Long enough for what was written before to be sent, and short enough not to matter.
const FLUSH: Duration = Duration::from_millis(5);

pub(super) fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).boxed_unsync()
}

/// A body sent in pieces, evenly spread over `over`.
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

/// A body whose first half is sent before the connection is reset.
pub(super) fn cut_short(mut bytes: Bytes, connection: Arc<Connection>) -> Body {
    let half = bytes.split_to(bytes.len() / 2);
    let pieces = stream::unfold(Some(half), move |half| {
        let connection = Arc::clone(&connection);
        async move {
            if let Some(half) = half {
                return Some((Ok(Frame::data(half)), None));
            }
            tokio::time::sleep(FLUSH).await;
            connection.cut();
            std::future::pending().await
        }
    });
    StreamBody::new(pieces).boxed_unsync()
}
