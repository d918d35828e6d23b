//! Selects the current host among all candidates.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::region::host::Host;
use crate::region::outlier::{CallOutcome, PENDING, RecentMax};
use crate::region::{Config, Metrics};
use crate::scan::Request;

/// The candidates with their round-trip times and health. Clones share them.
#[derive(Clone, Debug)]
pub struct HostSelector {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    metrics: Metrics,
    state: Mutex<State>,
    /// Notified after each call to a host: where that had it ejected, its next probe is due earlier.
    pub(super) wake: Vec<Notify>,
    /// Whether any probe has been answered.
    measured: watch::Sender<bool>,
    /// Notified after every change, for calls that have to be checked again then.
    pub(super) changes: watch::Sender<()>,
    begun: Instant,
    requests: RandomState,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) hosts: Vec<Host>,
    pub(super) recent: RecentMax,
    current: Option<usize>,
}

/// A host selected for a call.
#[derive(Clone, Debug)]
pub struct SelectedHost {
    pub(super) index: usize,
    /// The request, as a hash.
    pub(super) request: u64,
    /// When it was selected.
    pub(super) at: Instant,
    /// The base address.
    pub base: Arc<Url>,
    /// The name in metrics and logs.
    pub label: Arc<str>,
}

/// The state of a host for `/status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostStatus {
    /// The region's name; several hosts may share it.
    pub name: Arc<str>,
    /// The name in metrics and logs: unique.
    pub label: Arc<str>,
    /// The base address.
    pub url: Arc<Url>,
    /// Whether the host is in use or could be: it is not ejected, or has shown since that it works,
    /// however often it was tried.
    pub healthy: bool,
    /// Why it is ejected; `None` when it is not.
    pub ejection_reason: Option<&'static str>,
    /// The smoothed connection set-up time; `None` until a probe has been answered.
    pub rtt: Option<Duration>,
    /// Whether the next call goes there.
    pub selected: bool,
}

impl HostStatus {
    /// Whether calls go there because it is the best host, and not only the least bad one.
    fn is_chosen(&self) -> bool {
        self.selected && self.healthy
    }
}

impl HostSelector {
    /// A selector that knows nothing yet; [`HostSelector::watch`](Self::watch) starts the probes.
    pub fn new(config: Config, metrics: Metrics) -> Self {
        let hosts = Host::all(&config);
        let selector = Self {
            shared: Arc::new(Shared {
                wake: hosts.iter().map(|_| Notify::new()).collect(),
                state: Mutex::new(State {
                    hosts,
                    recent: RecentMax::default(),
                    current: None,
                }),
                measured: watch::Sender::new(false),
                changes: watch::Sender::new(()),
                begun: Instant::now(),
                requests: RandomState::new(),
                config,
                metrics,
            }),
        };
        selector.change(|_, _| {});
        for host in &selector.lock().hosts {
            selector.shared.metrics.show(&host.shown);
        }
        selector
    }

    /// Every host's address with its unique name, for the upstream's metrics.
    pub fn labels(&self) -> Vec<(Arc<Url>, Arc<str>)> {
        let state = self.lock();
        state
            .hosts
            .iter()
            .map(|host| (Arc::clone(&host.shown.url), Arc::clone(&host.shown.label)))
            .collect()
    }

    /// The state of all hosts, in the order of the configuration.
    pub fn snapshot(&self) -> Vec<HostStatus> {
        let state = self.lock();
        let best = state.best(None, &[], Instant::now());
        let row = |(index, host): (usize, &Host)| HostStatus {
            selected: best == Some(index),
            ..host.shown.clone()
        };
        state.hosts.iter().enumerate().map(row).collect()
    }

    /// The best host for the request that is not in `tried` (the indices of this call's earlier
    /// choices); `None` when no other may be tried. A host that could not be connected to just now
    /// is tried only as the first choice when there is no better one, so that an outage of all
    /// hosts costs a caller one attempt.
    pub fn pick(&self, request: &Request, tried: &[usize], now: Instant) -> Option<SelectedHost> {
        let request = self.shared.requests.hash_one(request);
        let mut state = self.lock();
        state.select_current(now);
        let index = state.best(Some(request), tried, now)?;
        state.hosts[index].health.start_half_open(now);
        Some(state.choice(index, request, now))
    }

    /// Waits until a probe has been answered, at most until [`Config::first_wait`] after the
    /// selector was made.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn measured(&self) {
        if *self.shared.measured.borrow() {
            return;
        }
        let mut measured = self.shared.measured.subscribe();
        let deadline = self.shared.begun + self.shared.config.first_wait;
        // Without a measurement the candidates' order decides.
        let _ = timeout_at(deadline, measured.wait_for(|measured| *measured)).await;
    }

    /// The metrics of the hosts.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Reports how a call to `choice` ended.
    pub(super) fn report(&self, choice: &SelectedHost, outcome: CallOutcome) {
        self.change(|state, now| {
            let health = &mut state.hosts[choice.index].health;
            match outcome {
                CallOutcome::Success(pause) | CallOutcome::ClientError(pause) => {
                    health.answered(choice.at, now);
                    // Compared with what was known before.
                    state.on_answer(choice.index, pause, now);
                    state.judge_bad_answers(choice, now);
                    if matches!(outcome, CallOutcome::Success(_)) {
                        state.learn(choice.index, pause, now);
                    }
                }
                CallOutcome::Alive => state.on_sign_of_life(choice.index, now),
                CallOutcome::Unavailable => state.on_bad_answer(choice, false, now),
                CallOutcome::InvalidResponse => state.on_bad_answer(choice, true, now),
                CallOutcome::NotTaken => health.bad_answer(now),
                CallOutcome::NoAnswer => {
                    health.bad_answer(now);
                    // An ejection has an end of its own, after which one call tries the host.
                    if health.standing(now).is_usable() {
                        health.avoid_until(now + PENDING);
                    }
                }
                CallOutcome::NotConnected => health.connection_failed(choice.at, now),
            }
        });
        self.shared.wake[choice.index].notify_one();
    }

    /// Reports the end of a probe that began at `begun`; `None` when it failed.
    pub(super) fn probed(&self, index: usize, begun: Instant, setup: Option<Duration>) {
        self.change(|state, now| {
            let host = &mut state.hosts[index];
            match setup {
                Some(setup) => {
                    host.rtt.observe(setup);
                    host.health.connected(now);
                }
                None => host.health.connection_failed(begun, now),
            }
        });
        if setup.is_some() {
            self.shared.measured.send_replace(true);
        }
    }

    /// Applies a change, selects the current host again, and shows and logs what is different.
    /// Every answer comes through here, and hardly any makes a difference.
    fn change(&self, learn: impl FnOnce(&mut State, Instant)) {
        let now = Instant::now();
        let changes = {
            let mut state = self.lock();
            learn(&mut state, now);
            state.select_current(now);
            state.changes(now)
        };
        for (before, after) in &changes {
            self.shared.metrics.show(after);
            log_change(before, after);
        }
        self.shared.changes.send_replace(());
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything can panic.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs what is different.
fn log_change(before: &HostStatus, after: &HostStatus) {
    let (region, url) = (&*after.label, shown(&after.url));
    match (before.healthy, after.healthy) {
        (true, false) => tracing::warn!(region, url, reason = after.ejection_reason, "region left"),
        (false, true) => tracing::info!(region, url, "region back"),
        (true, true) | (false, false) => {}
    }
    // Before anything was measured, the choice is only the order of the configuration; while all
    // hosts are ejected, it is the least bad one, another for every call.
    if after.is_chosen() && !before.is_chosen() && after.rtt.is_some() {
        tracing::info!(region, url, rtt_ms = after.rtt.map(millis), "region selected");
    }
}

/// A base address as people write it: without the slash at the end.
pub(super) fn shown(base: &Url) -> &str {
    base.as_str().trim_end_matches('/')
}

/// Milliseconds with two decimals.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 100_000.0).round() / 100.0
}

impl State {
    /// Changes the current host when it has been ejected, or when another one is clearly nearer.
    fn select_current(&mut self, now: Instant) {
        let nearest = self
            .usable(now)
            .min_by_key(|index| self.hosts[*index].rtt.estimate().unwrap_or(Duration::MAX));
        let Some(nearest) = nearest else {
            // No host is usable: the least bad one is picked for each call, and the current one
            // comes first again when it is back.
            return;
        };
        let stays = self.current.filter(|current| {
            let current = &self.hosts[*current];
            current.health.standing(now).is_usable() && !self.hosts[nearest].rtt.is_clearly_less_than(&current.rtt)
        });
        self.current = stays.or(Some(nearest));
    }

    fn choice(&self, index: usize, request: u64, at: Instant) -> SelectedHost {
        let host = &self.hosts[index];
        SelectedHost {
            index,
            request,
            at,
            base: Arc::clone(&host.shown.url),
            label: Arc::clone(&host.shown.label),
        }
    }

    fn usable(&self, now: Instant) -> impl Iterator<Item = usize> + '_ {
        (0..self.hosts.len()).filter(move |index| self.hosts[*index].health.standing(now).is_usable())
    }

    /// The best host for this request, if there is one.
    fn best(&self, request: Option<u64>, tried: &[usize], now: Instant) -> Option<usize> {
        let is_suspected = |request: &u64| {
            self.hosts
                .iter()
                .any(|host| host.bad_answers.are_suspected(*request, now))
        };
        let again = request.filter(is_suspected);
        (0..self.hosts.len())
            .filter(|index| !tried.contains(index))
            .filter(|index| tried.is_empty() || !self.hosts[*index].health.in_backoff(now))
            .min_by_key(|index| self.hosts[*index].rank(self.current == Some(*index), again, now))
    }

    /// The hosts that are shown otherwise from now on: how they were, and how they are.
    fn changes(&mut self, now: Instant) -> Vec<(HostStatus, HostStatus)> {
        let best = self.best(None, &[], now);
        let mut changes = Vec::new();
        for (index, host) in self.hosts.iter_mut().enumerate() {
            let is_usable = host.health.standing(now).is_usable();
            let healthy = is_usable && (host.shown.healthy || host.health.has_recovered(now));
            let after = HostStatus {
                healthy,
                ejection_reason: host.health.ejection_reason().filter(|_| !healthy),
                rtt: host.rtt.estimate(),
                selected: best == Some(index),
                ..host.shown.clone()
            };
            if host.shown != after {
                changes.push((std::mem::replace(&mut host.shown, after.clone()), after));
            }
        }
        changes
    }
}
