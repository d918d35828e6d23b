//! `CONNECT` (RFC 9110 §9.3.6): asks a proxy for a tunnel.

use std::io;

use http::HeaderValue;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The longest answer of a proxy: its head, with the interim ones before it.
const MAX_HEAD_BYTES: usize = 8 * 1024;

/// The user agent; some proxies reject requests without one.
const AGENT: &str = concat!("defender-gateway/", env!("CARGO_PKG_VERSION"));

/// Turns a connection to a proxy into one to `authority` (`host:port`). The caller bounds the time.
///
/// # Errors
///
/// When the proxy refuses, sends an invalid answer or closes the connection. The text contains the
/// status, never the credentials.
pub(super) async fn open<S>(stream: &mut S, authority: &str, authorization: Option<&HeaderValue>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {AGENT}\r\n").into_bytes();
    if let Some(authorization) = authorization {
        head.extend_from_slice(b"Proxy-Authorization: ");
        head.extend_from_slice(authorization.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    stream.write_all(&head).await?;
    stream.flush().await?;
    match final_status(stream).await? {
        Some(200..=299) => Ok(()),
        Some(407) => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the proxy wants other credentials (407)",
        )),
        Some(other) => Err(io::Error::other(format!(
            "the proxy refused the tunnel with status {other}"
        ))),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the proxy's answer is not HTTP/1",
        )),
    }
}

/// The status of the final answer, after any interim ones (RFC 9110 §15.2); `None` when it is not
/// HTTP/1.
async fn final_status<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<u16>> {
    let mut room = MAX_HEAD_BYTES;
    loop {
        let head = read_head(stream, room).await?;
        room -= head.len();
        match status(&head) {
            // 101 would end HTTP, which was not asked for.
            Some(100 | 102..=199) => {}
            other => return Ok(other),
        }
    }
}

/// Reads up to the empty line and not a byte further, because what follows belongs to the tunnel.
async fn read_head<S: AsyncRead + Unpin>(stream: &mut S, room: usize) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(256);
    // A line may end without a carriage return (RFC 9112 §2.2).
    while !(head.ends_with(b"\n\r\n") || head.ends_with(b"\n\n")) {
        if head.len() == room {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the proxy's answer is too long",
            ));
        }
        head.push(stream.read_u8().await?);
    }
    Ok(head)
}

fn status(head: &[u8]) -> Option<u16> {
    let line = head
        .strip_prefix(b"HTTP/1.1 ")
        .or_else(|| head.strip_prefix(b"HTTP/1.0 "))?;
    let (code, rest) = line.split_at_checked(3)?;
    let ends = matches!(rest.first(), Some(b' ' | b'\r' | b'\n'));
    let code = std::str::from_utf8(code)
        .ok()
        .filter(|code| code.bytes().all(|b| b.is_ascii_digit()))?;
    code.parse().ok().filter(|_| ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(answer: &[u8]) -> (io::Result<()>, String, Vec<u8>) {
        let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
        theirs.write_all(answer).await.unwrap();
        theirs.shutdown().await.unwrap();
        let result = open(&mut ours, "eu.test:443", Some(&HeaderValue::from_static("Basic eA=="))).await;
        let mut rest = Vec::new();
        ours.read_to_end(&mut rest).await.unwrap();
        drop(ours);
        let mut sent = String::new();
        theirs.read_to_string(&mut sent).await.unwrap();
        (result, sent, rest)
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for_and_nothing_behind_the_answer_is_lost() {
        let (result, sent, rest) = asked(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nhello").await;
        result.unwrap();
        let agent = concat!("User-Agent: defender-gateway/", env!("CARGO_PKG_VERSION"));
        assert_eq!(
            sent,
            format!(
                "CONNECT eu.test:443 HTTP/1.1\r\nHost: eu.test:443\r\n{agent}\r\nProxy-Authorization: Basic eA==\r\n\r\n"
            )
        );
        assert_eq!(rest, b"hello");
    }

    #[tokio::test]
    async fn plain_line_feeds_end_lines_too() {
        for answer in [
            "HTTP/1.0 200 OK\n\nhello",
            "HTTP/1.1 200\nVia: x\n\nhello",
            "HTTP/1.1 200 OK\nVia: x\n\r\nhello",
        ] {
            let (result, _, rest) = asked(answer.as_bytes()).await;
            result.unwrap();
            assert_eq!(rest, b"hello");
        }
    }

    #[tokio::test]
    async fn interim_answers_before_the_final_one_are_skipped() {
        let interim =
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.0 199 x\r\n\r\n";
        let (result, _, rest) = asked(format!("{interim}HTTP/1.1 200 OK\r\n\r\nhello").as_bytes()).await;
        result.unwrap();
        assert_eq!(rest, b"hello");
        let (result, ..) = asked(format!("{interim}HTTP/1.1 403 Forbidden\r\n\r\n").as_bytes()).await;
        assert!(result.unwrap_err().to_string().contains("status 403"));
        // The number of interim answers is bounded.
        let endless = "HTTP/1.1 102 Processing\r\n\r\n".repeat(2 * MAX_HEAD_BYTES / 27);
        assert_eq!(
            asked(endless.as_bytes()).await.0.unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[tokio::test]
    async fn refusals_and_nonsense_are_errors() {
        let (result, ..) = asked(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        for bad in [
            &b"HTTP/1.1 503 Busy\r\n\r\n"[..],
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\n\r\n",
            b"SSH-2.0-OpenSSH\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n",
            &[b'x'; 2 * MAX_HEAD_BYTES],
        ] {
            assert!(asked(bad).await.0.is_err());
        }
    }
}
