//! Reads request bodies, within bounds.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

/// How long a body may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) enum Unread {
    /// It is too long. It was read to its end all the same, so that the client sees the error and
    /// not a broken connection.
    TooLong,
    /// It was incomplete.
    Broken,
}

/// Reads a body of at most `longest` bytes.
pub(in crate::sim) async fn read(body: Incoming, longest: usize) -> Result<Bytes, Unread> {
    match tokio::time::timeout(DEADLINE, collect(body, longest)).await {
        Ok(read) => read,
        Err(_) => Err(Unread::Broken),
    }
}

async fn collect(mut body: Incoming, longest: usize) -> Result<Bytes, Unread> {
    let (mut kept, mut fits) = (BytesMut::new(), true);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else {
            continue;
        };
        fits = fits && kept.len() + data.len() <= longest;
        if fits {
            kept.extend_from_slice(&data);
        }
    }
    if fits { Ok(kept.freeze()) } else { Err(Unread::TooLong) }
}
