//! A response, and how it is delivered: at once, slowly, partly or not at all.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;

use crate::wire::connection::Connection;

/// A response, and how it is delivered.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) response: Response<Bytes>,
    manner: Manner,
}

/// How a response is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Properly,
    Never,
    Cut,
    CutMidBody,
    SlowHead(Duration),
    SlowBody(Duration),
    /// Over HTTP/2, the stream is reset with this reason instead of a response.
    Reset(h2::Reason),
}

impl Reply {
    /// A whole response, delivered properly.
    pub(crate) fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let mut response = Response::new(body.into());
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self {
            response,
            manner: Manner::Properly,
        }
    }

    /// Adds this field; an unprintable value is left out.
    pub(crate) fn with(mut self, name: http::HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.response.headers_mut().insert(name, value);
        }
        self
    }

    /// Sets how it is delivered.
    pub(crate) fn delivered(mut self, manner: Manner) -> Self {
        self.manner = manner;
        self
    }

    /// The status that the client will see; `None` without a response.
    pub(crate) fn status(&self) -> Option<u16> {
        match self.manner {
            Manner::Never | Manner::Cut | Manner::Reset(_) => None,
            _ => Some(self.response.status().as_u16()),
        }
    }

    /// The page of a front end that could not reach the service behind it.
    pub(crate) fn front_end_page(status: StatusCode) -> Self {
        let reason = status.canonical_reason().unwrap_or("Error");
        let page = format!("<html><head><title>{status}</title></head><body><h2>{reason}</h2></body></html>\r\n");
        Self::new(status, "text/html", page)
    }

    /// A redirect to a host to which a client must not send a secret or token.
    pub(crate) fn redirect() -> Self {
        Self::new(StatusCode::FOUND, "text/html", "<html>moved</html>")
            .with(http::header::LOCATION, "http://127.0.0.1:9/elsewhere")
    }

    /// Sends it over the connection.
    pub(super) async fn deliver(self, connection: Arc<Connection>) -> Result<Response<Body>, h2::Error> {
        let (mut head, bytes) = self.response.into_parts();
        head.headers.insert(CONTENT_LENGTH, bytes.len().into());
        let body = match self.manner {
            Manner::Properly => whole(bytes),
            Manner::Never => std::future::pending().await,
            Manner::Cut => {
                connection.cut();
                std::future::pending().await
            }
            Manner::CutMidBody => cut_short(bytes, connection),
            Manner::SlowHead(over) => {
                connection.trickle(over);
                whole(bytes)
            }
            Manner::SlowBody(over) => slow(bytes, over),
            Manner::Reset(reason) => return Err(reason.into()),
        };
        Ok(Response::from_parts(head, body))
    }
}

/// A body on its way out.
type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The number of pieces of a slow body.
const PIECES: u32 = 10;

/// Long enough for what was written before to be sent, and short enough not to matter.
const FLUSH: Duration = Duration::from_millis(5);

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).boxed_unsync()
}

/// A body sent in pieces, evenly spread over `over`.
fn slow(bytes: Bytes, over: Duration) -> Body {
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
fn cut_short(mut bytes: Bytes, connection: Arc<Connection>) -> Body {
    let half = bytes.split_to(bytes.len() / 2);
    let end = async move {
        tokio::time::sleep(FLUSH).await;
        connection.cut();
        std::future::pending().await
    };
    let pieces = stream::iter([Ok(Frame::data(half))]).chain(stream::once(end));
    StreamBody::new(pieces).boxed_unsync()
}
