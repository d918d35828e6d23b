//! The quota of one process.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::Instant;

use super::config::Config;
use super::handle::{self, Permit, Watched};
use super::ledger::Charge;
use super::snapshot::Metrics;
use super::state::{QuotaState, ThrottleState};
use super::state_file::StateFile;
use super::throttle_hint::ThrottleHint;
use crate::clock::{Reading, Wall};
use crate::scan::TokenId;

/// The quota, kept in this process.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) state: Watched<PersistedState>,
    wall: Wall,
    pub(super) metrics: Metrics,
    /// Whose token the calls are made with, if it is a caller's.
    holder: Option<TokenId>,
    /// Why the state file lacks calls, which was told.
    unwritten: Mutex<Option<String>>,
    opened: Instant,
}

/// For so long another process that has the state file counts as the one before this one, which
/// finishes its work.
const HANDOVER: Duration = Duration::from_mins(5);

/// The state, and the file that remembers it, if there is one.
#[derive(Debug)]
pub(super) struct PersistedState {
    /// The longest that a call can take.
    attempt: Duration,
    pub(super) quota_state: QuotaState,
    file: Option<StateFile>,
    /// The pause as it was last written down.
    noted_pause: Option<Instant>,
}

impl PersistedState {
    /// Writes down that a pause was ordered, or is over; `None` when there is nothing to write.
    fn note_pause(&mut self, wall: &Wall) -> Option<io::Result<()>> {
        let paused = match self.quota_state.throttle {
            ThrottleState::Paused { until } => Some(until),
            ThrottleState::Open => None,
            // One call finds out whether it is over.
            ThrottleState::Probing { .. } => return None,
        };
        let state_file = self.file.as_mut().filter(|_| paused != self.noted_pause)?;
        self.noted_pause = paused;
        let now = Instant::now();
        Some(state_file.paused(&wall.read(), paused.map(|until| until.saturating_duration_since(now))))
    }
}

impl Local {
    /// Opens the quota and, when a state file is configured, remembers the calls of earlier
    /// processes.
    ///
    /// # Errors
    /// When the state file cannot be used.
    pub(super) fn open(config: &Config, wall: Wall, metrics: Metrics) -> io::Result<Self> {
        let Some(path) = &config.state_file else {
            return Ok(Self::ephemeral(config, wall, metrics));
        };
        let now = Instant::now();
        let (calls, window) = config.memory();
        let (state_file, past) =
            StateFile::open(path, &config.predecessors, calls, window, config.attempt, &wall.read())?;
        let window = past.reach.window;
        let config = &config.clone().remembering(past.reach.calls, window);
        tracing::info!(calls = past.charges.len(), path = %path.display(), "remembered the calls of the last window");
        let mut quota_state = if past.charges.is_empty() {
            QuotaState::new(config, now)
        } else {
            // Calls are remembered: the past is known, whatever an unknown one would have meant.
            let bucket = past.bucket.map(|(ago, filling)| (moment(ago, now), filling));
            let mut past: Vec<Instant> = past.charges.into_iter().map(|ago| moment(ago, now)).collect();
            past.sort();
            QuotaState::resume(config, &past, bucket, now)
        };
        if let Some((ago, left)) = past.pause {
            let ago = Duration::try_from(ago).unwrap_or_default();
            let left = left.min(ThrottleHint::LONGEST_WAIT).saturating_sub(ago);
            quota_state.throttle = ThrottleState::Paused { until: now + left };
        }
        if let Some(at) = now.checked_sub(window) {
            // Those processes may have made calls before the ones that were worth remembering.
            quota_state.ledger.forget_until(at);
        }
        Ok(Self::new(config, quota_state, Some(state_file), wall, metrics))
    }

    /// A quota that is forgotten: a state file in `config` is left alone.
    pub(super) fn ephemeral(config: &Config, wall: Wall, metrics: Metrics) -> Self {
        let quota_state = QuotaState::new(config, Instant::now());
        Self::new(config, quota_state, None, wall, metrics)
    }

    /// Such a quota for calls with the token of `holder`.
    pub(super) fn of_caller(config: &Config, wall: Wall, holder: TokenId) -> Self {
        Self {
            holder: Some(holder),
            ..Self::ephemeral(config, wall, Metrics::default())
        }
    }

    fn new(config: &Config, quota_state: QuotaState, file: Option<StateFile>, wall: Wall, metrics: Metrics) -> Self {
        let state = PersistedState {
            attempt: config.attempt,
            noted_pause: quota_state.paused_until(),
            quota_state,
            file,
        };
        Self {
            state: Watched::new(state),
            wall,
            metrics,
            holder: None,
            unwritten: Mutex::default(),
            opened: Instant::now(),
        }
    }

    /// Goes on with other limits, burst and attempt, without forgetting a call: see
    /// [`QuotaState::reconfigure`]. The state file stays the one it is.
    pub(super) fn reconfigure(&self, config: &Config) {
        let mut state = self.state.lock();
        state.quota_state.reconfigure(config, Instant::now());
        // Calls that were promised more time still have it.
        state.attempt = state.attempt.max(config.attempt);
        let (calls, window) = config.memory();
        let attempt = state.attempt;
        let file = state.file.as_mut();
        let extended = file.map(|file| file.extend(calls, window, attempt, &self.wall.read()));
        drop(state);
        // Mostly there was nothing to write.
        self.report(extended.filter(Result::is_err));
        self.metrics.forget_windows();
        self.state.slots_changed();
    }

    /// Goes on as another app registration: see [`QuotaState::forget_refusals`].
    pub(super) fn forget_refusals(&self, registration: u64) {
        let mut state = self.state.lock();
        state.quota_state.forget_refusals(registration);
        let noted = state.note_pause(&self.wall);
        drop(state);
        self.report(noted);
        self.state.slots_changed();
    }

    /// Takes the slot that is free now.
    ///
    /// # Errors
    /// When there is none: the moment to ask again, if it is known.
    pub(super) fn take(this: &Arc<Self>, now: Instant) -> Result<Permit, Option<Instant>> {
        let mut guard = this.state.lock();
        let state = &mut *guard;
        let charge = state.quota_state.take(now)?;
        let latest = now + state.attempt;
        let note = state.file.as_ref().map(StateFile::next_name);
        let noted = state.file.as_mut().map(|state_file| {
            let filling = state.quota_state.pace.filling(now);
            state_file.issued(&this.wall.read(), filling)
        });
        drop(guard);
        this.report(noted);
        let local = Arc::clone(this);
        let charge = LocalCharge {
            local,
            charge,
            note,
            registration: None,
        };
        Ok(Permit::new(handle::Charge::Local(charge), latest))
    }
}

impl Local {
    /// Why the state file lacks calls that were made, after trying once more to write them.
    pub(super) fn unwritten(&self) -> Option<String> {
        let mut state = self.state.look();
        let mended = state.file.as_mut().map(|file| file.mend(&self.wall.read()));
        drop(state);
        self.report(mended);
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether another process goes on using the state file, so that neither sees the other's calls.
    pub(super) fn is_file_shared(&self) -> bool {
        let state = self.state.look();
        let is_beside_another = state.file.as_ref().is_some_and(StateFile::is_beside_another);
        is_beside_another && self.opened.elapsed() > HANDOVER
    }

    /// Says once that the state file lacks something, and once that it lacks nothing any more.
    fn report<T>(&self, written: Option<io::Result<T>>) {
        let Some(written) = written else { return };
        let error = written.err().map(|error| error.to_string());
        let mut known = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*known, &error) {
            (None, Some(error)) => {
                tracing::warn!(%error, "cannot write the quota's state file; a restart may forget calls");
            }
            (Some(_), None) => tracing::info!("the quota's state file is written again, with all calls"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        *known = error;
    }
}

/// A charge in the ledger of this process, and its name in the state file.
#[derive(Debug)]
pub(super) struct LocalCharge {
    local: Arc<Local>,
    charge: Charge,
    note: Option<u64>,
    /// The app registration that it is made as, if that was said.
    registration: Option<u64>,
}

impl LocalCharge {
    /// The call is made as this app registration of the gateway's; callers have their own.
    pub(super) fn made_as(&mut self, registration: u64) {
        self.registration = self.local.holder.is_none().then_some(registration);
    }

    pub(super) fn settle(self) {
        let upsets = self.end(
            |quota_state, charge, now| {
                if quota_state.is_registration(self.registration) {
                    return quota_state.settle(charge, now);
                }
                quota_state.settle_for_another(charge, now);
                true
            },
            StateFile::settled,
        );
        if upsets {
            self.local.state.slots_changed();
        } else {
            // A slot may be free a moment earlier than last said.
            self.local.state.changed.notify_one();
        }
    }

    pub(super) fn refund(self) {
        self.end(QuotaState::refund, StateFile::refunded);
        self.local.state.slots_changed();
    }

    pub(super) fn lose(self) {
        let mut state = self.local.state.lock();
        state.quota_state.lose(self.charge, Instant::now());
        drop(state);
        self.local.state.slots_changed();
    }

    pub(super) fn throttled(self, answer: ThrottleHint) -> Option<Duration> {
        let known = self.end(
            |quota_state, charge, now| {
                if !quota_state.is_registration(self.registration) {
                    quota_state.settle_for_another(charge, now);
                    return None;
                }
                let until = quota_state.throttled(charge, answer, now);
                Some((until, quota_state.foreign(now)))
            },
            StateFile::settled,
        );
        self.local.state.slots_changed();
        self.local.metrics.throttled();
        let Some((until, foreign)) = known else {
            tracing::warn!("the upstream answered 429 to the app registration before the present one: nothing pauses");
            return None;
        };
        let pause = until.saturating_duration_since(Instant::now());
        let paused_s = pause.as_secs();
        // Without one it is the gateway's own token.
        let holder = self.local.holder.map(tracing::field::debug);
        if foreign > 0 {
            tracing::warn!(
                holder,
                foreign,
                paused_s,
                "the upstream answered 429 while the ledger had room: others on the same app registration are estimated to make that many \
                 calls in the longest window"
            );
        } else {
            tracing::warn!(holder, paused_s, "the upstream answered 429: all calls pause");
        }
        Some(pause)
    }

    fn end<R>(
        &self,
        on_state: impl FnOnce(&mut QuotaState, Charge, Instant) -> R,
        on_file: impl FnOnce(&mut StateFile, u64, &Reading) -> io::Result<()>,
    ) -> R {
        let mut state = self.local.state.lock();
        let result = on_state(&mut state.quota_state, self.charge, Instant::now());
        let noted = match (self.note, state.file.as_mut()) {
            (Some(note), Some(state_file)) => Some(on_file(state_file, note, &self.local.wall.read())),
            _ => None,
        };
        let noted_pause = state.note_pause(&self.local.wall);
        drop(state);
        self.local.report(noted);
        self.local.report(noted_pause);
        result
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

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};

    use super::*;
    use crate::quota::tests::documented;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_disk_is_told_once_and_so_is_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quota");
        let mut config = documented();
        config.state_file = Some(path.clone());
        let local = Arc::new(Local::open(&config, Wall::system(), Metrics::default()).unwrap());
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let said = |text: &str| String::from_utf8_lossy(&lines.0.lock().unwrap()).matches(text).count();
        let calls = async || {
            for _ in 0..5 {
                tokio::time::advance(Duration::from_secs(10)).await;
                let permit = Local::take(&local, Instant::now()).unwrap();
                permit.settle();
            }
        };
        let in_the_way = folder.path().join("quota.new");
        calls().await;
        for outages in 1..=2 {
            // Neither is there room for another line, nor for another file.
            fs::create_dir(&in_the_way).unwrap();
            let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
            local.state.lock().file.as_mut().unwrap().file = full;
            calls().await;
            assert!(local.unwritten().is_some());
            assert_eq!((said("cannot write"), said("written again")), (outages, outages - 1));
            fs::remove_dir(&in_the_way).unwrap();
            assert_eq!(local.unwritten(), None);
            assert_eq!((said("cannot write"), said("written again")), (outages, outages));
            let next = Local::open(&config, Wall::system(), Metrics::default()).unwrap();
            let windows = next.state.lock().quota_state.windows(Instant::now());
            assert_eq!(
                windows.last().unwrap().used,
                outages * 10,
                "all calls until now are there"
            );
            calls().await;
        }
    }
}
