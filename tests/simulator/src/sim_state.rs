//! The state that the hosts of one simulator share.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Region};
use crate::entra::TokenService;
use crate::limit::{Limiter, Rejection, Scope};
use crate::operation::Operation;
use crate::record::Journal;
use crate::rng::Rng;
use crate::tasks::Tasks;

/// The state of a simulator.
#[derive(Debug)]
pub(super) struct SimState {
    pub(super) started: Instant,
    pub(super) tasks: Tasks,
    /// Ends every wait.
    pub(super) stopping: CancellationToken,
    pub(super) journal: Journal,
    state: Mutex<State>,
}

/// The state that can change, the settings included.
#[derive(Debug)]
pub(super) struct State {
    pub(super) config: Config,
    pub(super) token_service: TokenService,
    /// The limits of one app in one tenant, over all regions: together for all operations, or for
    /// each of them.
    pub(super) limiters: Vec<Limiter>,
    pub(super) neighbour: Option<Neighbour>,
    /// How often [`Action::Scan`](super::control::Action::Scan) was applied.
    pub(super) scans: u32,
    pub(super) rng: Rng,
}

impl SimState {
    pub(super) fn new(config: Config, tasks: Tasks) -> Self {
        Self {
            started: Instant::now(),
            tasks,
            stopping: CancellationToken::new(),
            journal: Journal::new(config.remember, config.log.clone()),
            state: Mutex::new(State {
                token_service: TokenService::new(&config),
                limiters: limiters(&config),
                neighbour: None,
                scans: 0,
                rng: Rng::new(config.seed),
                config,
            }),
        }
    }

    /// The state. The lock is never held across an await.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time since the start, from which records are counted.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Another client with the same app registration makes `n` calls at once; returns how many were
    /// admitted.
    pub(super) fn other_calls(&self, n: u32) -> u32 {
        let mut state = self.state();
        let at = self.elapsed();
        (0..n).fold(0, |admitted, _| {
            admitted + u32::from(state.arrive(Operation::HistoryByDefinition, at).is_ok())
        })
    }

    /// Waits, unless the simulator is stopping.
    pub(super) async fn rest(&self, span: Duration) {
        if !span.is_zero() {
            self.stopping.run_until_cancelled(tokio::time::sleep(span)).await;
        }
    }
}

impl State {
    /// Checks a call against the limits, after those of the other client that came before it.
    pub(super) fn arrive(&mut self, operation: Operation, at: Duration) -> Result<(), Rejection> {
        while let Some(earlier) = self.neighbour.as_mut().and_then(|neighbour| neighbour.call(at)) {
            // A refused call is not repeated.
            let _ = self.limiters[0].arrive(earlier);
        }
        let limiters = self.limiters.len();
        self.limiters[operation as usize % limiters].arrive(at)
    }

    /// How long a call takes to `region`, and its answer back.
    pub(super) fn trip(&mut self, region: &str) -> (Duration, Duration) {
        let region = self.config.region(region);
        let (half, jitter) = region.map_or_else(Default::default, |region| (region.latency / 2, region.jitter / 2));
        (half + self.rng.upto(jitter), half + self.rng.upto(jitter))
    }

    /// What the history is generated from: the seed, and the number of later scans.
    pub(super) fn generated_from(&self) -> (u64, u32) {
        (self.config.seed, self.scans)
    }

    /// Changes one region, or all of them.
    pub(super) fn change_regions(&mut self, name: Option<&str>, change: impl Fn(&mut Region)) -> io::Result<()> {
        let mut found = false;
        for region in &mut self.config.regions {
            if name.is_none_or(|name| name == region.name) {
                change(region);
                found = true;
            }
        }
        if found {
            Ok(())
        } else {
            Err(unknown_region(name.unwrap_or_default()))
        }
    }
}

/// The limiters, without calls: one, or one for each operation.
pub(super) fn limiters(config: &Config) -> Vec<Limiter> {
    let count = match config.scope {
        Scope::All => 1,
        Scope::Operation => Operation::ALL.len(),
    };
    vec![Limiter::new(config.shape, &config.limits).counting(config.rejected); count]
}

pub(super) fn unknown_region(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no region is named {name:?}"))
}

/// The future calls of the other client.
#[derive(Clone, Debug)]
pub(super) struct Neighbour {
    rng: Rng,
    mean: Duration,
    /// The next call, after the start of the simulator.
    next: Duration,
}

impl Neighbour {
    /// A client that makes this many calls an hour on average from `now` on; `None` for none.
    pub(super) fn new(per_hour: u32, seed: u64, now: Duration) -> Option<Self> {
        let mean = Duration::from_hours(1).checked_div(per_hour)?;
        let mut neighbour = Self {
            rng: Rng::for_text(seed, "neighbour"),
            mean,
            next: now,
        };
        let gap = neighbour.gap();
        neighbour.next += gap;
        Some(neighbour)
    }

    /// The next call up to `now`, if there is one.
    pub(super) fn call(&mut self, now: Duration) -> Option<Duration> {
        let at = (self.next <= now).then_some(self.next)?;
        let gap = self.gap();
        self.next += gap;
        Some(at)
    }

    /// The time to the next of events that are independent of each other.
    fn gap(&mut self) -> Duration {
        let share = (self.rng.below(1 << 53) as f64 + 1.0) / (1_u64 << 53) as f64;
        self.mean.mul_f64(-share.ln())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_client_calls_at_its_rate_at_random_moments() {
        let hours = Duration::from_hours(20);
        let mut neighbour = Neighbour::new(750, 1, Duration::ZERO).unwrap();
        let calls: Vec<_> = std::iter::from_fn(|| neighbour.call(hours)).collect();
        assert!((14_500..15_500).contains(&calls.len()), "{}", calls.len());
        assert!(calls.is_sorted());
        let short = calls
            .windows(2)
            .filter(|pair| pair[1] < pair[0] + Duration::from_secs(1));
        assert!(short.count() > 1_000, "not evenly spaced");
        assert!(Neighbour::new(0, 1, Duration::ZERO).is_none());
    }
}
