//! The simulator and the gateway.

use std::net::TcpListener;

use super::gateway::DemoGateway;
use crate::cli::Error;
use crate::sim::{self, Simulator};

/// Everything that the demo plays with.
pub(super) struct Fixture {
    pub(super) simulator: Simulator,
    pub(super) gateway: DemoGateway,
}

impl Fixture {
    /// Starts the simulator and a gateway for it, on their usual ports if these are free.
    pub(super) async fn start() -> Result<Self, Error> {
        let simulator = simulator()?;
        let text = format!(
            "{}[merge]\nenabled = true\ngather = \"20ms\"\nknown_rows = 10000\n{}",
            listeners(free_or_any(8080), free_or_any(9901)),
            simulator.config_toml()
        );
        let gateway = DemoGateway::start(&text).await?;
        Ok(Self { simulator, gateway })
    }

    /// Ends everything.
    pub(super) async fn stop(self) {
        self.gateway.stop().await;
        self.simulator.stop().await;
    }
}

/// The simulated upstream, as all demos have it.
pub(super) fn simulator() -> Result<Simulator, Error> {
    Simulator::start(sim::Config::default())
        .map_err(|error| Error::failed("cannot start the simulated upstream", error))
}

/// The sections that say where a gateway listens.
pub(super) fn listeners(data: u16, admin: u16) -> String {
    format!("[server]\nlisten = [\"127.0.0.1:{data}\"]\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n")
}

/// The usual port, or 0 for any when somebody else has it.
pub(super) fn free_or_any(port: u16) -> u16 {
    TcpListener::bind(("127.0.0.1", port)).map_or(0, |_| port)
}
