//! The network between gateways and their store: a line that can be cut, and led to another server.

use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use defender_gateway::testing::task::Tasks;

/// A line to a port of this machine.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) port: u16,
    /// Where it leads; `None`: nothing gets through, and nobody is told so.
    target: Arc<watch::Sender<Option<u16>>>,
    accepting: JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Line {
    pub(crate) async fn to(port: u16) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port_here = socket.local_addr().unwrap().port();
        let target = Arc::new(watch::Sender::new(Some(port)));
        let accepting = Tasks::new().spawn("line", accept(socket, Arc::clone(&target)));
        Self {
            port: port_here,
            target,
            accepting,
        }
    }

    /// What is sent from now on is never answered.
    pub(crate) fn cut(&self) {
        self.target.send_replace(None);
    }

    /// Leads to this port from now on. Connections from before are gone.
    pub(crate) fn lead_to(&self, port: u16) {
        self.target.send_replace(Some(port));
    }
}

async fn accept(socket: TcpListener, target: Arc<watch::Sender<Option<u16>>>) {
    let tasks = Tasks::new();
    while let Ok((stream, _)) = socket.accept().await {
        tasks.spawn("connection", carry(stream, target.subscribe()));
    }
}

async fn carry(mut stream: TcpStream, mut target: watch::Receiver<Option<u16>>) {
    let to = *target.borrow_and_update();
    if let Some(port) = to {
        let Ok(mut other) = TcpStream::connect(("127.0.0.1", port)).await else {
            return;
        };
        // A line that waits for more before it sends would be slower than the network that it
        // stands for.
        let _ = (stream.set_nodelay(true), other.set_nodelay(true));
        tokio::select! {
            _ = copy_bidirectional(&mut stream, &mut other) => return,
            _ = target.changed() => {}
        }
        if target.borrow_and_update().is_some() {
            return;
        }
    }
    // Cut: whoever waits at either end waits in vain until the line is mended.
    let _ = target.changed().await;
}
