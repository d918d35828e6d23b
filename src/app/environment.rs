//! What the configuration does not say, because one choice suits every real network.

use std::time::Duration;

use crate::resources::Machine;
use crate::{net, region};

/// How names are looked up, and the times of connections and probes. Tests of faults shorten the
/// times and make names fail.
#[derive(Clone, Debug)]
pub struct HostEnvironment {
    /// Finds addresses.
    pub resolver: net::Resolver,
    /// Times of connections; the proxy and the CA file in it are replaced by the configuration's.
    pub net: net::Config,
    /// Changes the times of probes and backoffs.
    pub regions: fn(&mut region::Config),
    /// How often a replica asks the store what others have found out about merging.
    pub merge_interval: Duration,
    /// What the machine lets this process use.
    pub machine: Machine,
}

impl Default for HostEnvironment {
    fn default() -> Self {
        Self {
            resolver: net::Resolver::system(),
            net: net::Config::default(),
            regions: |_| {},
            merge_interval: Duration::from_mins(1),
            machine: Machine::detect(),
        }
    }
}
