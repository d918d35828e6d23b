//! How to reach the outside.

use std::path::PathBuf;
use std::time::Duration;

use crate::net::Proxy;

/// Settings of a [`Client`](crate::net::Client) and its connections.
#[derive(Clone, Debug)]
pub struct Config {
    /// PEM file of further CA certificates, trusted besides the built-in Mozilla roots. Read once.
    pub ca_file: Option<PathBuf>,
    /// Forward proxy for `https` addresses; plain `http` (loopback, IMDS) never goes through it.
    pub proxy: Option<Proxy>,
    /// Longest time for one connection: name, TCP to any of its addresses, proxy and TLS together.
    ///
    /// 3 s leaves room for one lost SYN (repeated after 1 s) and a distant host, and is short enough to try another region.
    pub connect_timeout: Duration,
    /// A connection older than this takes no new request, so that a change in DNS is followed even while the old address answers.
    pub max_age: Duration,
    /// What the kernel may keep for a connection of what was received and not yet read, in bytes, before it doubles that for its own
    /// needs; `None`: as much as it likes, up to megabytes, which a distant host may need.
    pub receive_buffer: Option<u32>,
    /// HTTP/2 connections are pinged when nothing has come for this long, also while idle ...
    pub ping_every: Duration,
    /// ... and are given up when the answer takes longer than this.
    pub ping_answer: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ca_file: None,
            proxy: None,
            connect_timeout: Duration::from_secs(3),
            max_age: Duration::from_mins(10),
            receive_buffer: None,
            ping_every: Duration::from_secs(15),
            ping_answer: Duration::from_secs(10),
        }
    }
}
