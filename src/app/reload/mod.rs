//! A new configuration for the running gateway: all of it or nothing.
//!
//! ```text
//! file changed, SIGHUP ─► read ─► resolve as a whole ─► make what is new ─► exchange: the next request meets it
//!                            │             │                   │
//!                            └─ mistakes ──┴── no token, … ────┴─► logged; the running configuration stays
//! ```
//!
//! A key that only a restart can change ([`crate::config::Key::reload`]) keeps the value it started
//! with, and that is said.
//!
//! Invariant: what runs is always one configuration that was right as a whole, and each request is
//! answered by one.

mod reload_status;
mod watch;

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use prometheus_client::registry::Registry;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::Error;
use super::components::Components;
use crate::config::{Document, Key, Mistakes, Resolved, Settings};
use crate::telemetry::log;
use crate::token;
use reload_status::Refusal;

pub(super) use reload_status::Configuration;
pub use watch::ConfigSource;

/// The parts of a new configuration, on their way to whoever serves.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) components: Arc<Components>,
    /// Told when requests meet it.
    pub(super) done: oneshot::Sender<()>,
}

/// Changes the configuration of a running gateway. Clones change the same one.
#[derive(Clone, Debug)]
pub struct Reloader(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Locked while a configuration is taken over: one at a time.
    turn: Mutex<()>,
    path: mpsc::Sender<Next>,
    current: Arc<ArcSwap<Components>>,
    configuration: Configuration,
    log: OnceLock<log::Handle>,
}

/// What a new configuration has changed.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// Keys that have other values from now on.
    pub changed: Vec<&'static Key>,
    /// Keys whose written values wait for a restart.
    pub pending: Vec<&'static Key>,
    /// What is no mistake, but probably not meant.
    pub notes: Vec<String>,
}

/// What a document says, beside what runs.
struct Difference {
    /// What would run, with the pending keys as they are.
    resolved: Resolved,
    /// What that would change.
    applied: Applied,
}

/// Why the running configuration stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The operator's mistakes.
    #[error("{0}")]
    Mistakes(#[from] Mistakes),
    /// A part could not be made, as a file that cannot be used.
    #[error("{}", _0.part)]
    Part(#[from] Error),
    /// The new credentials bring no token.
    #[error("the new credentials")]
    Credentials(#[from] token::Error),
    /// The gateway has ended.
    #[error("the gateway has ended")]
    Ended,
}

impl Reloader {
    /// A reloader of what runs as `components`, and where the request paths come out that it makes.
    pub(super) fn new(made: Components, registry: &mut Registry) -> (Self, mpsc::Receiver<Next>) {
        let (path, next) = mpsc::channel(1);
        let hash = made.config.settings.digest();
        let shared = Shared {
            current: Arc::new(ArcSwap::from_pointee(made)),
            configuration: Configuration::new(hash, registry),
            turn: Mutex::default(),
            path,
            log: OnceLock::new(),
        };
        (Self(Arc::new(shared)), next)
    }

    /// `telemetry.log` changes this filter from now on. Of several the first counts.
    pub fn set_log(&self, log: log::Handle) {
        // The process has one log.
        let _ = self.0.log.set(log);
    }

    /// Takes over what `document` says, and logs what that changes or why it does not.
    ///
    /// # Errors
    /// [`ReloadError`]; nothing has changed then.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the old configuration or the new one, never a part of each.
    pub async fn reload(&self, source: &ConfigSource, document: &Document) -> Result<Applied, ReloadError> {
        let result = self.take_over(source, document).await;
        match &result {
            Ok(applied) => self.tell(applied),
            Err(refused) => self.fail(refused),
        }
        result
    }

    /// The file cannot be read.
    fn unreadable(&self, mistakes: Mistakes) -> ReloadError {
        let refused = ReloadError::Mistakes(mistakes);
        self.fail(&refused);
        refused
    }

    pub(super) fn current(&self) -> Arc<ArcSwap<Components>> {
        Arc::clone(&self.0.current)
    }

    pub(super) fn configuration(&self) -> Configuration {
        self.0.configuration.clone()
    }

    /// What the running configuration says.
    fn settings(&self) -> Settings {
        self.0.current.load().config.settings.clone()
    }

    async fn take_over(&self, source: &ConfigSource, document: &Document) -> Result<Applied, ReloadError> {
        let _turn = self.0.turn.lock().await;
        let made = self.0.current.load_full();
        let running = &made.config.settings;
        let Difference { resolved, applied } = difference(running, source, document)?;
        if applied.changed.is_empty() {
            self.0.configuration.runs(running.digest(), &applied.pending);
        } else {
            let next = made.next(&resolved).await?;
            self.exchange(&made.config, Arc::new(next), &applied.pending).await?;
        }
        Ok(applied)
    }

    /// From here on nothing can fail but the end of the gateway.
    async fn exchange(
        &self,
        old: &Resolved,
        components: Arc<Components>,
        pending: &[&'static Key],
    ) -> Result<(), ReloadError> {
        let (done, exchanged) = oneshot::channel();
        let room = self.0.path.reserve().await.map_err(|_| ReloadError::Ended)?;
        // Without an await until the path is under way: all of it, or nothing.
        components.take_over(old);
        self.set_filter(old, &components.config);
        self.0.current.store(Arc::clone(&components));
        self.0.configuration.runs(components.config.settings.digest(), pending);
        room.send(Next { components, done });
        exchanged.await.map_err(|_| ReloadError::Ended)
    }

    fn set_filter(&self, old: &Resolved, new: &Resolved) {
        let filter = &new.telemetry.log;
        if *filter == old.telemetry.log {
            return;
        }
        if let Some(Err(error)) = self.0.log.get().map(|log| log.set_filter(filter)) {
            tracing::warn!(%error, "the log filter could not be changed");
        }
    }

    fn tell(&self, applied: &Applied) {
        self.0.configuration.reloaded();
        for note in &applied.notes {
            tracing::warn!("{note}");
        }
        let (changed, restart) = (paths(&applied.changed), paths(&applied.pending));
        match (applied.changed.is_empty(), applied.pending.is_empty()) {
            (true, true) => tracing::info!("the configuration was read again: nothing has changed"),
            (false, true) => tracing::info!(changed, "the configuration has changed"),
            (_, false) => tracing::warn!(
                changed,
                restart,
                "the configuration has changed; some of it needs a restart"
            ),
        }
    }

    fn fail(&self, refused: &ReloadError) {
        let error = match refused {
            ReloadError::Credentials(error) => format!("{refused}: {}", log::chain(error)),
            ReloadError::Mistakes(mistakes) => {
                for mistake in mistakes.to_string().lines() {
                    tracing::error!(mistake, "a mistake in the configuration");
                }
                mistakes.to_string()
            }
            ReloadError::Part(error) => format!("{}: {}", error.part, log::chain(&*error.source)),
            ReloadError::Ended => refused.to_string(),
        };
        tracing::error!(error, "the new configuration is not taken over; the running one stays");
        let is_fatal = !matches!(refused, ReloadError::Credentials(_));
        self.0.configuration.failed(Refusal { error, is_fatal });
    }
}

/// What `document` says now, with the files that it names. Blocks for as long as the disk does.
fn difference(running: &Settings, source: &ConfigSource, document: &Document) -> Result<Difference, Mistakes> {
    let written = source.resolve(document)?;
    let differing = running.changed(&written.resolved.settings);
    let is_fixed = |key: &&'static Key| running.is_fixed(key);
    let (pending, changed): (Vec<_>, Vec<_>) = differing.into_iter().partition(is_fixed);
    let resolved = if pending.is_empty() {
        written.resolved
    } else {
        source.resolve_holding(document, &pending, running)?.resolved
    };
    let applied = Applied {
        changed,
        pending,
        notes: written.notes,
    };
    Ok(Difference { resolved, applied })
}

fn paths(keys: &[&'static Key]) -> String {
    let paths: Vec<_> = keys.iter().map(|key| key.path()).collect();
    paths.join(", ")
}
