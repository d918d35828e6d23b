//! A way to the store that is slow, or can be blocked: bytes are taken and go nowhere.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use defender_gateway::testing::task::Tasks;

/// Stands in front of a server.
pub(crate) struct Proxy {
    port: u16,
    blocked: watch::Sender<bool>,
}

impl Proxy {
    pub(crate) async fn start(server: &str) -> Self {
        Self::slow(server, Duration::ZERO).await
    }

    /// One on which bytes take so long, each way.
    pub(crate) async fn slow(server: &str, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let blocked = watch::Sender::new(false);
        let server = server.trim_start_matches("redis://").to_owned();
        let watching = blocked.subscribe();
        Tasks::new().spawn("proxy", async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&server).await else {
                    continue;
                };
                let (client, server) = (client.into_split(), server.into_split());
                Tasks::new().spawn("there", pump(client.0, server.1, watching.clone(), delay));
                Tasks::new().spawn("back", pump(server.0, client.1, watching.clone(), delay));
            }
        });
        Self { port, blocked }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn block(&self) {
        self.blocked.send_replace(true);
    }

    pub(crate) fn unblock(&self) {
        self.blocked.send_replace(false);
    }

    pub(crate) fn is_blocked(&self) -> bool {
        *self.blocked.borrow()
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut blocked: watch::Receiver<bool>,
    delay: Duration,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let n = from.read(&mut buffer).await?;
        // Fails when the test is over.
        if n == 0 || blocked.wait_for(|blocked| !blocked).await.is_err() {
            return Ok(());
        }
        tokio::time::sleep(delay).await;
        to.write_all(&buffer[..n]).await?;
    }
}
