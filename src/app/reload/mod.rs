//! A new configuration for the running gateway: all of it or nothing.
//!
//! ```text
//! file changed, SIGHUP ─► read ─► resolve as a whole ─► make what is new ─► exchange: the next request meets it
//!                            │             │                   │
//!                            └─ mistakes ──┴── no token, … ────┴─► logged; the running configuration stays
//! ```
//!
//! A key that only a restart can change ([`crate::config::Key::reload`]) keeps the value it started
//! with, and that is said. What is only right together with it waits too.
//!
//! Invariant: what runs is always one configuration that was right as a whole, and each request is
//! answered by one.

mod reload_status;
mod watch;

use std::sync::{Arc, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use prometheus_client::registry::Registry;
use tokio::sync::Mutex;

use super::Error;
use super::components::Components;
use super::hot_swap::Swap;
use crate::config::{Disk, Document, Key, Mistakes, Resolved, Settings};
use crate::telemetry::log;
use crate::token;
use reload_status::Refusal;

pub(super) use reload_status::Configuration;
pub use watch::ConfigSource;

/// Changes the configuration of a running gateway. Clones change the same one.
#[derive(Clone)]
pub struct Reloader(Arc<Shared>);

struct Shared {
    /// Locked while a configuration is taken over: one at a time.
    turn: Mutex<()>,
    current: Arc<ArcSwap<Components>>,
    /// Has requests meet other parts. Locked while `current` changes or is first served.
    exchange: std::sync::Mutex<Exchange>,
    configuration: Configuration,
    log: OnceLock<log::Handle>,
}

type Exchange = Box<dyn Fn(&Components) + Send>;

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
}

impl Reloader {
    /// A reloader of what runs as `made`.
    pub(super) fn new(made: Components, registry: &mut Registry) -> Self {
        let hash = made.config.settings.digest();
        Self(Arc::new(Shared {
            turn: Mutex::default(),
            current: Arc::new(ArcSwap::from_pointee(made)),
            exchange: std::sync::Mutex::new(Box::new(|_| ())),
            configuration: Configuration::new(hash, registry),
            log: OnceLock::new(),
        }))
    }

    /// The way in that `build` makes of the parts that run, now and after every change.
    pub(super) fn path<S>(&self, build: impl Fn(&Components) -> S + Send + 'static) -> Swap<S>
    where
        S: Clone + Send + Sync + 'static,
    {
        let mut exchange = self.0.exchange.lock().unwrap_or_else(PoisonError::into_inner);
        let made = self.0.current.load();
        let path = Swap::new(build(&made), made.upkeep());
        let exchanged = path.clone();
        *exchange = Box::new(move |made| exchanged.exchange(build(made), made.upkeep()));
        path
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
        let (resolved, applied) = difference(running, source, document)?;
        let Some(resolved) = resolved.filter(|_| !applied.changed.is_empty()) else {
            self.0.configuration.runs(running.digest(), &applied.pending);
            return Ok(applied);
        };
        self.0.configuration.awaits_restart(&applied.pending);
        let next = made.next(&resolved).await?;
        self.exchange(&made.config, next, &applied.pending);
        Ok(applied)
    }

    /// From here on nothing can fail, and there is no await: all of it, or nothing.
    fn exchange(&self, old: &Resolved, components: Components, pending: &[&'static Key]) {
        let exchange = self.0.exchange.lock().unwrap_or_else(PoisonError::into_inner);
        components.take_over(old);
        self.set_filter(old, &components.config);
        exchange(&components);
        self.0.configuration.runs(components.config.settings.digest(), pending);
        self.0.current.store(Arc::new(components));
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
        };
        tracing::error!(error, "the new configuration is not taken over; the running one stays");
        let is_fatal = !matches!(refused, ReloadError::Credentials(_));
        self.0.configuration.failed(Refusal { error, is_fatal });
    }
}

/// What `document` says now, with the files that it names: what would run, with the pending keys as
/// they are, or `None` when everything waits; and what that would change. Blocks for as long as the
/// disk does.
fn difference(
    running: &Settings,
    source: &ConfigSource,
    document: &Document,
) -> Result<(Option<Resolved>, Applied), Mistakes> {
    let written = source.resolve(document)?;
    let differing = running.changed(&written.resolved.settings);
    // An application and its secret belong together.
    let waits_sign_in = differing.iter().any(|key| is_of_sign_in(key) && running.is_fixed(key));
    let waits = |key: &&'static Key| running.is_fixed(key) || waits_sign_in && is_of_sign_in(key);
    let (pending, changed): (Vec<_>, Vec<_>) = differing.iter().copied().partition(waits);
    let resolved = if pending.is_empty() {
        Some(written.resolved)
    } else {
        // What is written is right as a whole: where a part of it is not, all of it waits.
        let held = document.resolve_holding(&pending, running, &source.env, &Disk);
        held.ok().map(|held| held.resolved)
    };
    let (pending, changed) = if resolved.is_some() {
        (pending, changed)
    } else {
        (differing, Vec::new())
    };
    let applied = Applied {
        changed,
        pending,
        notes: written.notes,
    };
    Ok((resolved, applied))
}

/// Whether the key says who signs in, how or where.
fn is_of_sign_in(key: &Key) -> bool {
    key.section == "credentials" || key.path() == "defender.cloud"
}

fn paths(keys: &[&'static Key]) -> String {
    let paths: Vec<_> = keys.iter().map(|key| key.path()).collect();
    paths.join(", ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Environment;

    const APPLICATION: &str = "11111111-2222-3333-4444-555555555555";
    const OTHER: &str = "21111111-2222-3333-4444-555555555555";

    fn document(file: &Path, kind: &str, client: &str, rest: &str) -> Document {
        let text = format!(
            "[store]\nurl = \"redis://127.0.0.1:9\"\n[credentials]\ntenant_id = \"contoso.example\"\n\
             kind = {kind:?}\n{kind}_file = {file:?}\nclient_id = {client:?}\n{rest}"
        );
        let text = text.replace("workload_identity_file", "federated_token_file");
        Document::new(Path::new("gateway.toml"), text)
    }

    /// The keys that change and those that wait, when the last document is written in place of the
    /// first.
    fn judged([before, after]: [&Document; 2], meanwhile: impl FnOnce()) -> [Vec<String>; 2] {
        let source = ConfigSource::new(None, Environment::default());
        let running = source.resolve(before).unwrap().resolved.settings;
        meanwhile();
        let (_, applied) = difference(&running, &source, after).unwrap();
        [applied.changed, applied.pending].map(|keys| keys.iter().map(|key| key.path()).collect())
    }

    #[test]
    fn credentials_of_another_identity_wait_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let [secret, other] = ["secret", "other"].map(|name| folder.path().join(name));
        std::fs::write(&secret, "hunter2hunter2").unwrap();
        std::fs::write(&other, "hunter3hunter3").unwrap();
        let before = document(&secret, "client_secret", APPLICATION, "");
        let ttl = "[cache]\nttl = \"20s\"\n";
        let after = document(&other, "client_secret", OTHER, ttl);
        let [changed, pending] = judged([&before, &after], || ());
        assert_eq!(changed, ["cache.ttl"]);
        assert_eq!(pending, ["credentials.client_id", "credentials.client_secret_file"]);

        // Another secret of the same application is no other identity.
        let after = document(&other, "client_secret", APPLICATION, "");
        let [changed, pending] = judged([&before, &after], || ());
        assert_eq!(changed, ["credentials.client_secret_file"]);
        assert_eq!(pending, [""; 0]);

        // Another kind needs other files.
        let after = document(&other, "workload_identity", APPLICATION, ttl);
        let [changed, pending] = judged([&before, &after], || ());
        assert_eq!(changed, ["cache.ttl"]);
        let all = ["kind", "client_secret_file", "federated_token_file"].map(|name| format!("credentials.{name}"));
        assert_eq!(pending, all);
    }

    /// The file of the credentials before is gone, so they cannot be judged together with the rest.
    #[test]
    fn what_is_only_right_after_a_restart_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let [secret, other] = ["secret", "other"].map(|name| folder.path().join(name));
        std::fs::write(&secret, "hunter2hunter2").unwrap();
        std::fs::write(&other, "hunter3hunter3").unwrap();
        let before = document(&secret, "client_secret", APPLICATION, "");
        let after = document(&other, "client_secret", OTHER, "[cache]\nttl = \"20s\"\n");
        let [changed, pending] = judged([&before, &after], || std::fs::remove_file(&secret).unwrap());
        assert_eq!(changed, [""; 0]);
        assert_eq!(
            pending,
            ["credentials.client_id", "credentials.client_secret_file", "cache.ttl"]
        );
    }
}
