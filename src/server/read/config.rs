//! How much to read, and how long callers may wait.

use std::time::Duration;

use super::Authorization;

/// The limits of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Largest body, in bytes.
    pub max_body: usize,
    /// Longest time from the head to the end of the body.
    pub body_timeout: Duration,
    /// Most bytes of bodies in memory at a time, over all requests. Above it, requests are refused (503).
    pub body_budget: usize,
    /// How long a request may wait for its turn when it does not say.
    pub max_wait: Duration,
    /// How long it may wait at most, whatever it says.
    pub max_wait_limit: Duration,
    /// Whether callers may bring tokens of their own.
    pub authorization: Authorization,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_body: 1024 * 1024,
            // A full body over a slow link of 35 kB/s.
            body_timeout: Duration::from_secs(30),
            // 64 of the largest bodies, or a hundred thousand ordinary ones.
            body_budget: 64 * 1024 * 1024,
            max_wait: Duration::from_secs(20),
            max_wait_limit: Duration::from_mins(10),
            authorization: Authorization::default(),
        }
    }
}
