//! The limits of reading requests.

use std::time::Duration;

use super::Authorization;

/// The limits of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The largest body in bytes.
    pub max_body: usize,
    /// The longest time from the head to the end of the body.
    pub body_timeout: Duration,
    /// The most bytes of incomplete bodies at a time, over all requests. Requests beyond that are
    /// refused (503).
    pub body_budget: usize,
    /// How long a request may wait for a slot when it does not say.
    pub max_wait: Duration,
    /// The longest wait that a request may ask for.
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
