//! The quota of one process: permits that cannot be forgotten.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::SignedDuration;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::config::{Config, Limit};
use super::forecast::Forecast;
use super::ledger::Charge;
use super::metrics::Metrics;
use super::snapshot::Snapshot;
use super::state::QuotaState;
use super::state_file::StateFile;
use super::throttle_hint::ThrottleHint;
use crate::attempt::Scarcity;
use crate::clock::{Reading, Wall};

/// The quota, kept in this process. Clones share it.
#[derive(Clone, Debug)]
pub struct Quota(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<PersistedState>,
    /// Counts changes that make an earlier forecast wrong.
    version: AtomicU64,
    /// Counts the moments at which the state may have changed.
    revision: AtomicU64,
    changed: Notify,
    wall: Wall,
    metrics: Metrics,
}

/// The state, and the file that remembers it, if there is one.
#[derive(Debug)]
struct PersistedState {
    /// The longest that a call can take.
    attempt: Duration,
    quota_state: QuotaState,
    file: Option<StateFile>,
}

impl Quota {
    /// Opens the quota and, when a state file is configured, remembers the calls of earlier
    /// processes.
    ///
    /// # Errors
    /// When the state file cannot be used.
    pub fn open(config: &Config, wall: Wall, metrics: Metrics) -> io::Result<Self> {
        let now = Instant::now();
        let mut quota_state = QuotaState::new(config, now);
        let file = match &config.state_file {
            None => None,
            Some(path) => {
                let most = config.limits.iter().map(Limit::calls).max().unwrap_or(0);
                let window = config.limits.last().map_or(Duration::ZERO, Limit::hold);
                let (state_file, past) =
                    StateFile::open(path, &config.predecessors, most, window, config.attempt, &wall.read())?;
                tracing::info!(calls = past.charges.len(), path = %path.display(), "remembered the calls of the last window");
                if !past.charges.is_empty() {
                    // Calls are remembered: the past is known, whatever an unknown one would have
                    // meant.
                    let bucket = past.bucket.map(|(ago, filling)| (moment(ago, now), filling));
                    let mut past: Vec<Instant> = past.charges.into_iter().map(|ago| moment(ago, now)).collect();
                    past.sort();
                    quota_state = QuotaState::resume(config, &past, bucket, now);
                }
                if let Some(at) = now.checked_sub(window) {
                    // Those processes may have made calls before the ones that were worth
                    // remembering.
                    quota_state.ledger.forget_until(at);
                }
                Some(state_file)
            }
        };
        let attempt = config.attempt;
        let state = PersistedState {
            attempt,
            quota_state,
            file,
        };
        Ok(Self::with(state, wall, metrics))
    }

    /// A quota of its own that is forgotten with it: a state file in `config` is left alone.
    pub fn ephemeral(config: &Config, wall: Wall, metrics: Metrics) -> Self {
        let quota_state = QuotaState::new(config, Instant::now());
        let state = PersistedState {
            attempt: config.attempt,
            quota_state,
            file: None,
        };
        Self::with(state, wall, metrics)
    }

    fn with(state: PersistedState, wall: Wall, metrics: Metrics) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            version: AtomicU64::new(0),
            revision: AtomicU64::new(0),
            changed: Notify::new(),
            wall,
            metrics,
        }))
    }

    /// Goes on with other limits, burst and attempt, without forgetting a call: see
    /// [`QuotaState::reconfigure`]. The state file stays the one it is.
    pub fn reconfigure(&self, config: &Config) {
        let mut state = self.0.lock();
        state.quota_state.reconfigure(config, Instant::now());
        // Calls that were promised more time still have it.
        state.attempt = state.attempt.max(config.attempt);
        let attempt = state.attempt;
        if let Some(state_file) = state.file.as_mut() {
            let most = config.limits.iter().map(Limit::calls).max().unwrap_or(0);
            state_file.extend(most, config.limits.last().map_or(Duration::ZERO, Limit::hold), attempt);
        }
        drop(state);
        self.0.metrics.forget_windows();
        self.0.changed();
    }

    /// Takes the slot that is free now. That is no change of [`Quota::version`]: the rest of a
    /// forecast counts on it.
    ///
    /// # Errors
    /// When there is none: the moment to ask again, or `None` when only [`Quota::changed`] can
    /// tell.
    pub fn take(&self, now: Instant) -> Result<Permit, Option<Instant>> {
        let mut state = self.0.lock();
        let charge = state.quota_state.take(now)?;
        let latest = now + state.attempt;
        let note = match &mut *state {
            PersistedState { file: None, .. } => None,
            PersistedState {
                file: Some(state_file),
                quota_state,
                ..
            } => Some(state_file.issued(&self.0.wall.read(), quota_state.pace.filling(now))),
        };
        drop(state);
        let note = note.and_then(|note| report(note, "write"));
        Ok(Permit {
            shared: Arc::clone(&self.0),
            charge,
            note,
            stage: Stage::Held,
            latest,
        })
    }

    /// Appends the starts of the next `count` slots to `slots`; see [`Forecast`].
    pub fn forecast(&self, now: Instant, count: usize, slots: &mut VecDeque<Instant>) {
        let mut forecast = Forecast::new(&self.0.look().quota_state, now);
        slots.extend((0..count).map(|_| forecast.next_slot()));
    }

    /// Changes whenever an earlier forecast may no longer hold.
    pub fn version(&self) -> u64 {
        self.0.version.load(Ordering::Relaxed)
    }

    /// Resolves when a slot may have become free earlier than last said. For one waiter; changes
    /// while nobody waits are not lost.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// When a call of unknown fate ends by itself, which is no change that [`Quota::changed`]
    /// tells.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.0.look().quota_state.next_timeout()
    }

    /// Whether calls that nobody waits for may be made now.
    pub fn has_surplus(&self) -> bool {
        self.0.lock().quota_state.has_surplus(Instant::now())
    }

    /// How scarce slots are.
    pub fn scarcity(&self) -> Scarcity {
        self.0.lock().quota_state.scarcity(Instant::now())
    }

    /// When the quota, if no further call is made, is as good as a fresh one; `now` when it is.
    pub fn empty_at(&self, now: Instant) -> Instant {
        self.0.look().quota_state.empty_at(now)
    }

    /// Changes whenever a snapshot may have become another one, except by the passing of time.
    pub fn revision(&self) -> u64 {
        self.0.revision.load(Ordering::Relaxed)
    }

    /// The state for people.
    pub fn snapshot(&self) -> Snapshot {
        self.0.look().quota_state.snapshot(Instant::now())
    }

    /// Brings the gauges up to date; called when somebody scrapes.
    pub fn show(&self) {
        let snapshot = self.snapshot();
        self.0.metrics.show(&snapshot);
    }
}

impl Shared {
    /// The state, to change it.
    fn lock(&self) -> MutexGuard<'_, PersistedState> {
        let state = self.look();
        self.revision.fetch_add(1, Ordering::Relaxed);
        state
    }

    /// The state, to look at it; also to let it do what is due.
    fn look(&self) -> MutexGuard<'_, PersistedState> {
        // A panic inside leaves a state that is at worst too careful.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.version.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
    }
}

/// The right to make one call, charged when it was issued. Dropped before [`Permit::leave`], the
/// slot goes back; dropped after it, the charge stays until the call's timeout, because the call
/// may have arrived.
#[derive(Debug)]
pub struct Permit {
    shared: Arc<Shared>,
    charge: Charge,
    note: Option<u64>,
    stage: Stage,
    latest: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Held,
    Left,
    Ended,
}

impl Permit {
    /// When the call must have ended: the ledger keeps the charge a little longer, and no longer.
    pub fn latest(&self) -> Instant {
        self.latest
    }

    /// The call is about to leave.
    pub fn leave(&mut self) {
        self.stage = Stage::Left;
    }

    /// The call was answered, and not with a 429.
    pub fn settle(self) {
        let shared = Arc::clone(&self.shared);
        if self.end(
            |state, charge, now| state.quota_state.settle(charge, now),
            StateFile::settled,
        ) {
            shared.changed();
        } else {
            // A slot may be free a moment earlier than last said.
            shared.changed.notify_one();
        }
    }

    /// Provably no byte of the call was written.
    pub fn refund(self) {
        let shared = Arc::clone(&self.shared);
        self.end(
            |state, charge, now| state.quota_state.refund(charge, now),
            StateFile::refunded,
        );
        shared.changed();
    }

    /// The call was answered with a 429: everybody pauses. Returns for how long.
    pub fn throttled(self, answer: ThrottleHint) -> Duration {
        let shared = Arc::clone(&self.shared);
        let (until, foreign) = self.end(
            |state, charge, now| {
                let until = state.quota_state.throttled(charge, answer, now);
                (until, state.quota_state.foreign())
            },
            StateFile::settled,
        );
        shared.changed();
        shared.metrics.throttled();
        let pause = until.saturating_duration_since(Instant::now());
        let paused_s = pause.as_secs();
        if foreign > 0 {
            tracing::warn!(
                foreign,
                paused_s,
                "the upstream answered 429 while the ledger had room: others on the same app registration are estimated to make that many \
                 calls in the longest window"
            );
        } else {
            tracing::warn!(paused_s, "the upstream answered 429: all calls pause");
        }
        pause
    }

    fn end<R>(
        mut self,
        on_state: impl FnOnce(&mut PersistedState, Charge, Instant) -> R,
        on_file: impl FnOnce(&mut StateFile, u64, &Reading) -> io::Result<()>,
    ) -> R {
        self.stage = Stage::Ended;
        let mut state = self.shared.lock();
        let result = on_state(&mut state, self.charge, Instant::now());
        let noted = match (self.note, state.file.as_mut()) {
            (Some(note), Some(state_file)) => on_file(state_file, note, &self.shared.wall.read()),
            _ => Ok(()),
        };
        drop(state);
        report(noted, "write");
        result
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.stage == Stage::Left {
            self.shared.lock().quota_state.lose(self.charge, Instant::now());
            self.shared.changed();
        } else if self.stage == Stage::Held {
            let shared = Arc::clone(&self.shared);
            let unused = Self {
                shared,
                note: self.note.take(),
                stage: Stage::Ended,
                charge: self.charge,
                latest: self.latest,
            };
            self.stage = Stage::Ended;
            unused.refund();
        }
    }
}

/// The moment that long ago. A machine that has just booted has no moment that long ago; now is the
/// careful choice.
fn moment(ago: SignedDuration, now: Instant) -> Instant {
    match Duration::try_from(ago) {
        Ok(ago) => now.checked_sub(ago).unwrap_or(now),
        Err(_) => now + ago.unsigned_abs(),
    }
}

fn report<T>(result: io::Result<T>, doing: &str) -> Option<T> {
    result
        .inspect_err(
            |error| tracing::warn!(%error, "cannot {doing} the quota's state file; a restart may forget calls"),
        )
        .ok()
}
