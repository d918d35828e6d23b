//! A watched exchange is given up when it makes no progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::{hold, request_read};
use crate::net::testing::{Names, client, listen, quick};
use crate::net::{Error, Kind, Limits};

const LIMITS: Limits = Limits {
    head: Duration::from_secs(20),
    whole: Duration::from_secs(20),
    body_bytes: 1 << 20,
};
/// Long beside how late a busy machine is.
const PATIENCE: Duration = Duration::from_secs(3);

/// Sends `pieces`, each after its pause, then nothing more.
async fn meets(pieces: &'static [(u64, usize)]) -> (Result<usize, Error>, usize) {
    let address = listen(move |mut stream| async move {
        request_read(&mut stream).await;
        for (n, (pause_ms, length)) in pieces.iter().enumerate() {
            tokio::time::sleep(Duration::from_millis(*pause_ms)).await;
            let piece = if n == 0 {
                b"HTTP/1.1 200 OK\r\ncontent-length: 16384\r\n\r\n".to_vec()
            } else {
                vec![b'x'; *length]
            };
            if stream.write_all(&piece).await.is_err() {
                return;
            }
        }
        hold(stream).await;
    });
    let names = Names::new([("eu.test", address.await)]);
    let request = Request::post("http://eu.test/").body(Bytes::new()).unwrap();
    let watches = Arc::<AtomicUsize>::default();
    let watch = || {
        watches.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(PATIENCE)
    };
    let client = client(&quick(), &names);
    let result = client.send_with(request, LIMITS, watch).await;
    (result.map(|answer| answer.body().len()), watches.load(Ordering::SeqCst))
}

#[tokio::test]
async fn a_host_that_says_nothing_is_given_up() {
    let begun = Instant::now();
    let (result, watches) = meets(&[]).await;
    let error = result.unwrap_err();
    assert!(matches!(error.kind(), Kind::HeadTimeout), "{error:?}");
    assert!(error.is_timeout() && !error.is_unprocessed() && !error.is_answered());
    assert_eq!(watches, 1);
    assert!(begun.elapsed() < LIMITS.whole / 2, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_body_that_stops_or_trickles_is_given_up() {
    // A few bytes, and half a body.
    for pieces in [
        &[(0, 0), (0, 8192)][..],
        &[(0, 0), (100, 1), (100, 1), (100, 1), (100, 1), (100, 1)],
    ] {
        let (result, _) = meets(pieces).await;
        let error = result.unwrap_err();
        assert!(matches!(error.kind(), Kind::BodyTimeout), "{error:?}");
        assert!(error.is_answered());
    }
}

#[tokio::test]
async fn one_that_moves_on_is_not() {
    // More than the timeout in all, and a quarter of it at a time.
    let (result, watches) = meets(&[(750, 0), (750, 4096), (750, 4096), (750, 4096), (750, 4096)]).await;
    assert_eq!(result.unwrap(), 16384);
    assert!(watches >= 5, "{watches}");
}
