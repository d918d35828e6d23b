//! The settings of the choice of a host.

use std::time::Duration;

use url::Url;

/// A host that serves the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The geography's short name, such as `eu`; several hosts may share it.
    pub name: String,
    /// The host's base address, without a path.
    pub url: Url,
}

/// Settings of a [`HostSelector`](crate::region::HostSelector).
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) candidates: Vec<Candidate>,
    /// The time between two probes of a host, give or take a tenth. 30 s notices a change of
    /// latency within a minute at the cost of two handshakes per minute and host.
    pub probe_interval: Duration,
    /// The longest time for one probe; a host that needs longer counts as unreachable.
    pub probe_timeout: Duration,
    /// How long the first call after the start waits for the first probe to be answered; then it
    /// goes to the first candidate.
    pub first_wait: Duration,
    /// The longest time that one call looks for a host that accepts connections.
    pub failover_limit: Duration,
    /// How long a host is ejected that cannot be connected to. Trying it again is cheap: a probe.
    pub down: Backoff,
    /// How long a host is ejected that answers badly. Trying it again is expensive: a caller's
    /// attempt.
    pub ejected: Backoff,
}

/// How long a host is ejected: it doubles from the first time to the longest.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The first time.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
}

/// Why the candidates cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is no candidate, or the pin leaves none.
    #[error("there is no region to choose from")]
    Empty,
    /// There are more candidates than are worth probing.
    #[error("there are {count} regions, the most are {}", Config::MAX_CANDIDATES)]
    TooMany {
        /// The number of candidates.
        count: usize,
    },
    /// Two candidates with the same address.
    #[error("the region address {0} is listed twice")]
    Twice(String),
}

impl Config {
    /// The most candidates: each costs a background task and a handshake every half minute.
    pub const MAX_CANDIDATES: usize = 32;

    /// The default settings for `candidates`, which are tried in this order while nothing is known
    /// about them.
    ///
    /// # Errors
    ///
    /// When there is none, too many, or one twice.
    pub fn new(candidates: Vec<Candidate>) -> Result<Self, ConfigError> {
        if candidates.is_empty() {
            return Err(ConfigError::Empty);
        }
        if candidates.len() > Self::MAX_CANDIDATES {
            return Err(ConfigError::TooMany {
                count: candidates.len(),
            });
        }
        for (at, candidate) in candidates.iter().enumerate() {
            if candidates[..at].iter().any(|other| other.url == candidate.url) {
                return Err(ConfigError::Twice(candidate.url.to_string()));
            }
        }
        Ok(Self {
            candidates,
            probe_interval: Duration::from_secs(30),
            probe_timeout: Duration::from_secs(3),
            first_wait: Duration::from_secs(1),
            failover_limit: Duration::from_secs(10),
            down: Backoff {
                first: Duration::from_secs(1),
                longest: Duration::from_mins(1),
            },
            ejected: Backoff {
                first: Duration::from_secs(30),
                longest: Duration::from_mins(10),
            },
        })
    }

    /// The candidates, in order.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }
}
