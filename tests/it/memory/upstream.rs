//! An upstream that answers with as many bytes as it is asked for: a thousand for each row of
//! `$top`.

use std::net::SocketAddr;

use bytes::Bytes;
use defender_gateway::testing::task::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// It runs for as long as the test's runtime does.
pub(super) async fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = Tasks::new();
    tasks.clone().spawn_upkeep("upstream", async move {
        while let Ok((stream, _)) = listener.accept().await {
            tasks.spawn("upstream connection", serve(stream));
        }
    });
    address
}

/// Until the gateway hangs up.
async fn serve(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut read = Vec::new();
    while let Some((rows, id)) = read_request(&mut stream, &mut read).await {
        if answer(&mut stream, rows, &id).await.is_err() {
            break;
        }
    }
}

/// The rows wanted, and the first id; `None` at the end.
async fn read_request(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<(usize, String)> {
    let end = loop {
        if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        more(stream, read).await?;
    };
    let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
    let number = |after: &str| {
        let text = head.split(after).nth(1).unwrap_or("1");
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(1)
    };
    let (length, rows) = (number("content-length: "), number("top="));
    while read.len() < end + length {
        more(stream, read).await?;
    }
    let body = String::from_utf8_lossy(&read[end..end + length]).into_owned();
    read.drain(..end + length);
    let id = body.split('"').nth(3).unwrap_or_default().to_owned();
    Some((rows, id))
}

async fn more(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<()> {
    stream.read_buf(read).await.is_ok_and(|read| read > 0).then_some(())
}

/// In pieces: its length is not known before.
async fn answer(stream: &mut TcpStream, rows: usize, id: &str) -> std::io::Result<()> {
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await?;
    chunk(stream, b"{\"value\":[").await?;
    let row = format!("{{\"ScanDefinitionIds\":\"{id}\",\"x\":\"{}\"}}", "y".repeat(930));
    let (row, next) = (Bytes::from(row.clone()), Bytes::from(format!(",{row}")));
    for n in 0..rows {
        chunk(stream, if n == 0 { &row } else { &next }).await?;
    }
    chunk(stream, b"]}").await?;
    stream.write_all(b"0\r\n\r\n").await
}

async fn chunk(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    let head = format!("{:x}\r\n", bytes.len());
    stream.write_all(&[head.as_bytes(), bytes, b"\r\n"].concat()).await
}
