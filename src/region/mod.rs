//! Picks the host that a call goes to: the nearest healthy one.
//!
//! ```text
//! probes ─► round-trip time ─┐
//!                            ├─► HostSelector: the current host ─► layer: pick, call, report, next host if nothing was sent
//! calls ──► health ──────────┘
//! ```
//!
//! The round-trip time is the time to set up a connection, measured in the background without any
//! request, token or quota. How long answers take does not count: it depends on the request, and
//! comparing hosts by it would cost calls at hosts that are not in use. A host that connects fast
//! and answers slowly stays; one that makes no progress is ejected (outlier ejection, see
//! `outlier`), and one whose answers are bad, if that is its own fault (see `bad_answers`). Health
//! is derived from probes and from the calls themselves. Nothing here costs a second call: the
//! layer tries another host only when provably nothing was processed. Other repetitions are made by
//! the retry layer, are charged, and avoid the failed host.

mod bad_answers;
mod health;
mod host;
mod host_selector;
mod layer;
mod outlier;
mod probe;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use url::Url;

use crate::telemetry::metrics;

pub use host_selector::{HostSelector, HostStatus, SelectedHost};
pub use layer::Error;
pub use probe::Probe;

/// A host that serves the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The geography's short name, such as `eu`; several hosts may share it.
    pub name: String,
    /// The host's base address, without a path.
    pub url: Url,
}

/// Settings of a [`HostSelector`].
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    candidates: Vec<Candidate>,
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
#[derive(Clone, Copy, Debug, PartialEq)]
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

metrics! {
    /// Gauges for each host. The label is the region's name; further hosts of the same name append
    /// their host name, as in `eu (api-eu.securitycenter.microsoft.com)`. Clones share the values.
    #[derive(Clone, Debug)]
    pub struct Metrics {
        /// Smoothed time to set a connection to the region's host up.
        rtt: Family<Label, Gauge<f64, AtomicU64>> = "region_rtt" in Seconds,
        /// 1 when the region's host is in use or could be, 0 when it has been left.
        healthy: Family<Label, Gauge> = "region_healthy",
        /// 1 for the region that calls go to.
        selected: Family<Label, Gauge> = "region_selected",
        /// The number of the selector whose values are shown: the latest one.
        shown: Arc<AtomicU64>,
        own: u64,
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    region: Arc<str>,
}

impl Metrics {
    /// The same gauges for a selector that replaces the current one. Their values are cleared, and
    /// the old selector no longer changes them.
    pub fn succeed(&self) -> Self {
        let own = self.shown.fetch_add(1, Ordering::Relaxed) + 1;
        self.rtt.clear();
        self.healthy.clear();
        self.selected.clear();
        Self { own, ..self.clone() }
    }

    fn show(&self, row: &HostStatus) {
        if self.shown.load(Ordering::Relaxed) != self.own {
            return;
        }
        let label = Label {
            region: Arc::clone(&row.label),
        };
        if let Some(rtt) = row.rtt {
            self.rtt.get_or_create(&label).set(rtt.as_secs_f64());
        }
        self.healthy.get_or_create(&label).set(row.healthy.into());
        self.selected.get_or_create(&label).set(row.selected.into());
    }
}
