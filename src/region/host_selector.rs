//! All candidates, and which one is current.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::region::host::Host;
use crate::region::outlier::{CallOutcome, ProgressCheck, RecentMax};
use crate::region::{Config, Fault, Metrics};

/// The candidates with what is known about them. Clones share it.
#[derive(Clone, Debug)]
pub struct HostSelector {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    metrics: Metrics,
    state: Mutex<State>,
    /// Woken when a host is left, whose next probe then is due earlier.
    wake: Vec<Notify>,
    /// Whether any probe has been answered.
    measured: watch::Sender<bool>,
    /// Told after every change, for calls that wait for one.
    news: watch::Sender<()>,
    begun: Instant,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) hosts: Vec<Host>,
    pub(super) recent: RecentMax,
    current: Option<usize>,
    /// What people were last told, host by host.
    told: Vec<Option<Told>>,
}

/// What people are told of a host.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Told {
    healthy: bool,
    /// Whether the log says that it has been left: until it has proved itself, however often it is tried.
    left: bool,
    rtt: Option<Duration>,
    selected: bool,
}

impl Told {
    /// Whether calls go there because it is the best, not because it is the least bad.
    fn is_chosen(&self) -> bool {
        self.selected && !self.left
    }
}

/// Something else is to be told of a host than before.
struct News {
    before: Option<Told>,
    after: Told,
    row: HostStatus,
}

/// A host picked for a call.
#[derive(Clone, Debug)]
pub struct SelectedHost {
    pub(super) index: usize,
    /// The base address.
    pub base: Arc<Url>,
    /// The name in metrics and logs.
    pub label: Arc<str>,
}

/// A host as `/status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostStatus {
    /// The region's name; several hosts may share it.
    pub name: Arc<str>,
    /// The name in metrics and logs: unique.
    pub label: Arc<str>,
    /// The base address.
    pub url: Arc<Url>,
    /// Whether the host is in use or could be.
    pub healthy: bool,
    /// Why it has been left, in words; `None` when it has not.
    pub ejection_reason: Option<&'static str>,
    /// Smoothed connection set-up time; `None` until a probe has been answered.
    pub rtt: Option<Duration>,
    /// Whether the next call goes there.
    pub selected: bool,
}

impl HostSelector {
    /// A table that knows nothing yet; [`HostSelector::watch`](Self::watch) starts the probes.
    #[must_use]
    pub fn new(config: Config, metrics: Metrics) -> Self {
        let hosts = Host::all(&config);
        let table = Self {
            shared: Arc::new(Shared {
                wake: hosts.iter().map(|_| Notify::new()).collect(),
                state: Mutex::new(State {
                    told: hosts.iter().map(|_| None).collect(),
                    hosts,
                    recent: RecentMax::default(),
                    current: None,
                }),
                measured: watch::Sender::new(false),
                news: watch::Sender::new(()),
                begun: Instant::now(),
                config,
                metrics,
            }),
        };
        table.change(|_, _| {});
        table
    }

    /// Every host's address with its unique name, for the upstream's metrics.
    #[must_use]
    pub fn labels(&self) -> Vec<(Arc<Url>, Arc<str>)> {
        let state = self.lock();
        state
            .hosts
            .iter()
            .map(|host| (Arc::clone(&host.url), Arc::clone(&host.label)))
            .collect()
    }

    /// What is known, in the order of the configuration.
    #[must_use]
    pub fn snapshot(&self) -> Vec<HostStatus> {
        self.lock().rows(Instant::now())
    }

    /// The best host that is not in `tried` (indices of this call's earlier choices); `None` when no other is worth a try. A host that has
    /// just been found dead is tried only when there is no better one to begin with, so that an outage of all costs a caller one attempt.
    #[must_use]
    pub fn pick(&self, tried: &[usize], now: Instant) -> Option<SelectedHost> {
        let mut state = self.lock();
        state.elect(now);
        let index = state.best(now, tried)?;
        state.hosts[index].health.start_half_open(now);
        Some(state.choice(index))
    }

    /// Tells when there is something to [`judge`](Self::check_progress) anew.
    pub(super) fn news(&self) -> watch::Receiver<()> {
        self.shared.news.subscribe()
    }

    /// What is to become of a call to a host that has not moved on since `begun` and may start anew until `deadline`.
    pub(super) fn check_progress(&self, index: usize, begun: Instant, deadline: Instant) -> ProgressCheck {
        self.lock().check_progress(index, begun, deadline, Instant::now())
    }

    /// Whether another host than `choice` is there that nothing is known against.
    pub(super) fn has_other_good(&self, choice: &SelectedHost) -> bool {
        self.lock().has_other_good(choice.index, Instant::now())
    }

    /// Waits until a probe has been answered, at most until [`Config::first_wait`] after the table was made.
    ///
    /// # Cancel safety
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

    /// Where the hosts are shown.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    pub(super) fn config(&self) -> &Config {
        &self.shared.config
    }

    /// A call to `choice` has brought a response.
    pub(super) fn answered(&self, choice: &SelectedHost, outcome: CallOutcome) {
        self.change(|state, now| {
            let health = &mut state.hosts[choice.index].health;
            match outcome {
                CallOutcome::Success(pause) => {
                    health.answered(now);
                    // Judged by what was known before.
                    state.on_answer(choice.index, pause, now);
                    state.learn(choice.index, pause, now);
                }
                CallOutcome::ClientError(pause) => {
                    health.answered(now);
                    state.on_answer(choice.index, pause, now);
                }
                CallOutcome::Alive => health.answered(now),
                CallOutcome::Unavailable => health.trouble(now),
                CallOutcome::InvalidResponse => {
                    health.trouble(now);
                    state.on_invalid_response(choice.index, now);
                }
            }
        });
    }

    /// A call to `choice` failed through the host's fault.
    pub(super) fn failed(&self, choice: &SelectedHost, fault: Fault) {
        self.change(|state, now| {
            let health = &mut state.hosts[choice.index].health;
            match fault {
                Fault::Connection => health.connection_failed(now),
                Fault::Trouble => health.trouble(now),
            }
        });
        self.shared.wake[choice.index].notify_one();
    }

    /// A probe has ended; `None` when it failed.
    pub(super) fn probed(&self, index: usize, setup: Option<Duration>) {
        self.change(|state, now| {
            let host = &mut state.hosts[index];
            match setup {
                Some(setup) => {
                    host.nearness.observe(setup);
                    host.health.connected(now);
                }
                None => host.health.connection_failed(now),
            }
        });
        if setup.is_some() {
            self.shared.measured.send_replace(true);
        }
    }

    pub(super) fn url(&self, index: usize) -> Arc<Url> {
        Arc::clone(&self.lock().hosts[index].url)
    }

    pub(super) fn wake(&self, index: usize) -> &Notify {
        &self.shared.wake[index]
    }

    /// When a host that has been left is to be tried again.
    pub(super) fn until(&self, index: usize) -> Option<Instant> {
        let now = Instant::now();
        self.lock().hosts[index].health.until().filter(|until| *until > now)
    }

    /// Applies what was learned, elects anew, and shows and logs what is different. Every answer comes through here, and hardly any is news.
    fn change(&self, learn: impl FnOnce(&mut State, Instant)) {
        let now = Instant::now();
        let news = {
            let mut state = self.lock();
            learn(&mut state, now);
            state.elect(now);
            state.news(now)
        };
        for News { before, after, row } in &news {
            self.shared.metrics.show(row);
            if let Some(before) = before {
                tell(before, after, row);
            }
        }
        self.shared.news.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything can panic.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs what is different.
fn tell(before: &Told, after: &Told, row: &HostStatus) {
    let (region, url) = (&*row.label, shown(&row.url));
    match (before.left, after.left) {
        (false, true) => tracing::warn!(region, url, reason = row.ejection_reason, "region left"),
        (true, false) => tracing::info!(region, url, "region back"),
        (true, true) | (false, false) => {}
    }
    // Before anything was measured, the choice is only the order of the configuration; while all hosts have been left, it is the least bad
    // one, another with every call.
    if after.is_chosen() && !before.is_chosen() && row.rtt.is_some() {
        tracing::info!(region, url, rtt_ms = row.rtt.map(millis), "region selected");
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
    /// Changes the current host when it has been left, or when another one is clearly nearer.
    fn elect(&mut self, now: Instant) {
        let nearest = self
            .usable(now)
            .min_by_key(|index| self.hosts[*index].nearness.estimate().unwrap_or(Duration::MAX));
        let Some(nearest) = nearest else {
            // Nobody is usable: the least bad is picked call by call, and the current one stays first when it comes back.
            return;
        };
        let stays = self.current.filter(|current| {
            let current = &self.hosts[*current];
            current.health.standing(now).is_usable()
                && !self.hosts[nearest].nearness.is_clearly_less_than(&current.nearness)
        });
        self.current = stays.or(Some(nearest));
    }

    fn choice(&self, index: usize) -> SelectedHost {
        let host = &self.hosts[index];
        SelectedHost {
            index,
            base: Arc::clone(&host.url),
            label: Arc::clone(&host.label),
        }
    }

    fn usable(&self, now: Instant) -> impl Iterator<Item = usize> + '_ {
        (0..self.hosts.len()).filter(move |index| self.hosts[*index].health.standing(now).is_usable())
    }

    fn best(&self, now: Instant, tried: &[usize]) -> Option<usize> {
        (0..self.hosts.len())
            .filter(|index| !tried.contains(index))
            .filter(|index| tried.is_empty() || !self.hosts[*index].health.is_resting(now))
            .min_by_key(|index| self.hosts[*index].rank(self.current == Some(*index), now))
    }

    /// The hosts of which something else is to be told than before.
    fn news(&mut self, now: Instant) -> Vec<News> {
        let best = self.best(now, &[]);
        let mut news = Vec::new();
        for (index, host) in self.hosts.iter().enumerate() {
            let healthy = host.health.standing(now).is_usable();
            let was_left = self.told[index].is_some_and(|told| told.left);
            let after = Told {
                healthy,
                left: !healthy || (was_left && !host.health.is_proved(now)),
                rtt: host.nearness.estimate(),
                selected: best == Some(index),
            };
            if self.told[index] != Some(after) {
                news.push(News {
                    before: self.told[index].replace(after),
                    after,
                    row: self.row(index, best, now),
                });
            }
        }
        news
    }

    fn rows(&self, now: Instant) -> Vec<HostStatus> {
        let best = self.best(now, &[]);
        (0..self.hosts.len()).map(|index| self.row(index, best, now)).collect()
    }

    fn row(&self, index: usize, best: Option<usize>, now: Instant) -> HostStatus {
        let host = &self.hosts[index];
        HostStatus {
            name: Arc::clone(&host.name),
            label: Arc::clone(&host.label),
            url: Arc::clone(&host.url),
            healthy: host.health.standing(now).is_usable(),
            ejection_reason: host.health.standing(now).ejection_reason(),
            rtt: host.nearness.estimate(),
            selected: best == Some(index),
        }
    }
}
