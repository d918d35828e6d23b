//! The state that the hosts of one simulator share.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::config::{Behaviour, Config, Throttle};
use super::entra::{Federation, Mint, TokenService};
use super::history::History;
use super::limit::{Limit, Limiter, Rejected, Rejection, Scope, Shape};
use super::neighbour::Neighbour;
use super::record::Journal;
use super::rng::Rng;
use crate::clock::Wall;
use crate::operation::Operation;
use crate::task::Tasks;

/// The state of a simulator.
#[derive(Debug)]
pub(super) struct SimState {
    started: Instant,
    pub(super) wall: Wall,
    pub(super) tasks: Tasks,
    /// Ends every wait.
    pub(super) stopping: CancellationToken,
    pub(super) journal: Journal,
    pub(super) seed: u64,
    state: Mutex<State>,
}

/// The state that can change.
#[derive(Debug)]
pub(super) struct State {
    pub(super) token_service: TokenService,
    /// The limits of one app in one tenant, over all regions: together for all operations, or for
    /// each of them.
    pub(super) limiters: Vec<Limiter>,
    pub(super) neighbour: Option<Neighbour>,
    pub(super) limits: Vec<Limit>,
    pub(super) rejected: Rejected,
    pub(super) scope: Scope,
    pub(super) throttle: Throttle,
    pub(super) history: History,
    /// How often [`Action::Scan`](super::action::Action::Scan) was applied.
    pub(super) scans: u32,
    pub(super) regions: BTreeMap<String, Behaviour>,
    pub(super) rng: Rng,
}

/// The two halves of a round trip.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trip {
    pub(super) there: Duration,
    pub(super) back: Duration,
}

impl SimState {
    pub(super) fn new(config: &Config, tasks: Tasks) -> Self {
        let token_service = TokenService {
            tenant_id: config.tenant_id.clone(),
            client_id: config.client_id.clone(),
            secret: config.client_secret.clone(),
            old_secret: None,
            federation: Federation::of(config.certificates.clone()),
            rules: config.sign_in.clone(),
            lifetime: config.token_lifetime,
            mint: Mint::new(config.seed),
        };
        let regions = config
            .regions
            .iter()
            .map(|region| (region.name.clone(), region.behaviour.clone()));
        Self {
            started: Instant::now(),
            wall: config.wall.clone(),
            tasks,
            stopping: CancellationToken::new(),
            journal: Journal::new(config.remember, config.log.clone()),
            seed: config.seed,
            state: Mutex::new(State {
                token_service,
                limiters: limiters(config.scope, config.shape, &config.limits, config.rejected),
                scope: config.scope,
                neighbour: None,
                limits: config.limits.clone(),
                rejected: config.rejected,
                throttle: config.throttle,
                history: config.history.clone(),
                scans: 0,
                regions: regions.collect(),
                rng: Rng::new(config.seed),
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

    /// The moment `at` after the start.
    pub(super) fn moment(&self, at: Duration) -> Instant {
        self.started + at
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
        tokio::select! {
            () = tokio::time::sleep(span), if !span.is_zero() => {}
            () = self.stopping.cancelled(), if !span.is_zero() => {}
            else => {}
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

    /// The latencies of a call to `region`.
    pub(super) fn trip(&mut self, region: &str) -> Trip {
        let Some(behaviour) = self.regions.get(region) else {
            return Trip {
                there: Duration::ZERO,
                back: Duration::ZERO,
            };
        };
        let (half, jitter) = (behaviour.latency / 2, behaviour.jitter / 2);
        Trip {
            there: half + self.rng.upto(jitter),
            back: half + self.rng.upto(jitter),
        }
    }

    /// Changes one region, or all of them.
    pub(super) fn change_regions(&mut self, name: Option<&str>, change: impl Fn(&mut Behaviour)) -> io::Result<()> {
        let mut found = false;
        for (region, behaviour) in &mut self.regions {
            if name.is_none_or(|name| name == region) {
                change(behaviour);
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
pub(super) fn limiters(scope: Scope, shape: Shape, limits: &[Limit], rejected: Rejected) -> Vec<Limiter> {
    let count = match scope {
        Scope::All => 1,
        Scope::Operation => Operation::ALL.len(),
    };
    vec![Limiter::new(shape, limits).counting(rejected); count]
}

pub(super) fn unknown_region(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no region is named {name:?}"))
}
