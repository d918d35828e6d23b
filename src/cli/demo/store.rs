//! A redis-server or valkey-server of the demo's own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::cli::Error;

/// A server that keeps nothing on disk. Killed when dropped.
pub(super) struct Store {
    address: SocketAddr,
    child: Child,
}

/// What it is called, here and there.
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];

/// How long it may take to listen.
const START: Duration = Duration::from_secs(10);

impl Store {
    /// Starts one on a free port.
    pub(super) async fn start() -> Result<Self, Error> {
        let failed = |error| Error::failed("no free port for the store", error);
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        drop(socket);
        let child = spawn(address.port())?;
        let mut store = Self { address, child };
        store.listens().await?;
        Ok(store)
    }

    pub(super) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Ends it without a warning.
    pub(super) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, empty.
    pub(super) async fn restart(&mut self) -> Result<(), Error> {
        self.child = spawn(self.address.port())?;
        self.listens().await
    }

    async fn listens(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + START;
        while TcpStream::connect(self.address).await.is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(Error::failed(
                    "the store did not start",
                    format!("it ended with {status}"),
                ));
            }
            if Instant::now() > deadline {
                return Err(Error::failed(
                    "the store did not start",
                    format!("not within {START:?}"),
                ));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(port: u16) -> Result<Child, Error> {
    for program in PROGRAMS {
        let started = Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        match started {
            Ok(child) => return Ok(child),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::failed(format!("cannot start {program}"), error)),
        }
    }
    Err(Error::user(
        "demo --replicas needs redis-server or valkey-server, and neither is on the PATH; install one, for instance with \
         `apt-get install redis-server`, or leave --replicas out",
    ))
}
