//! A connection that sends any bytes.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::within;

/// One connection to the gateway.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    pub(super) async fn connect(address: &str) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let read = Vec::new();
        Self { stream, read }
    }

    /// Sends what the gateway takes of it; whether it took everything.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> bool {
        within("the gateway to take bytes or hang up", self.stream.write_all(bytes))
            .await
            .is_ok()
    }

    /// Sends for as long as the gateway takes bytes; it need not. Whether it took everything.
    pub(super) async fn press(&mut self, bytes: &[u8], patience: Duration) -> bool {
        let sent = tokio::time::timeout(patience, self.stream.write_all(bytes)).await;
        matches!(sent, Ok(Ok(())))
    }

    /// The status of the next answer, interim ones left out; `None` when the connection ends before
    /// one.
    pub(super) async fn reply(&mut self) -> Option<u16> {
        within("an answer or the end", self.read_reply()).await
    }

    async fn read_reply(&mut self) -> Option<u16> {
        loop {
            let end = loop {
                if let Some(at) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                    break at + 4;
                }
                self.more().await?;
            };
            let head = String::from_utf8(self.read.drain(..end).collect()).unwrap();
            let status = head[9..12].parse().unwrap();
            if status == 100 {
                continue;
            }
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length = length.map_or(0, |length| length.parse().unwrap());
            while self.read.len() < length {
                self.more().await?;
            }
            drop(self.read.drain(..length));
            return Some(status);
        }
    }

    /// Exactly so many further bytes; `None` when the connection ends before.
    pub(super) async fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.read.len() < length {
            self.more().await?;
        }
        Some(self.read.drain(..length).collect())
    }

    async fn more(&mut self) -> Option<()> {
        let read = self.stream.read_buf(&mut self.read).await;
        read.is_ok_and(|read| read > 0).then_some(())
    }

    /// Waits for the end of the connection; what came before it.
    pub(super) async fn ended(&mut self) -> Vec<u8> {
        within("the end of the connection", async {
            while self.more().await.is_some() {}
        })
        .await;
        std::mem::take(&mut self.read)
    }
}
