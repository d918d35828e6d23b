//! How replicas share.

use std::time::Duration;

use crate::store;

/// How replicas share.
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) store: store::Client,
    /// What all keys begin with.
    pub(super) key: String,
    pub(super) timing: Timing,
}

/// The version of what is stored and said. Fields may be added without a new one, because nobody
/// minds those it does not know. While replicas with another one have calls in a window, nothing is
/// granted to those with this one.
pub(super) const FORMAT: &str = "v2";

/// The one before it, whose ledger is taken over.
pub(super) const BEFORE: &str = "v1";

/// How many keys the script works on.
pub(super) const KEYS: usize = 20;

impl Config {
    /// `prefix` as configured; the quota counts per tenant and application, so their names are part
    /// of the keys.
    pub fn new(store: impl Into<store::Client>, timing: Timing, prefix: &str, tenant: &str, application: &str) -> Self {
        // The braces put all keys into one slot of a cluster, where one script may touch them.
        let key = format!("{{{}}}", store::scope(prefix, tenant, application));
        Self {
            store: store.into(),
            key,
            timing,
        }
    }

    /// The name of one key of the ledger; all are on the same server.
    pub fn ledger_key(&self) -> String {
        let [state, ..] = self.keys();
        state
    }

    /// The keys, in the order in which the script expects them.
    pub(super) fn keys(&self) -> [String; KEYS] {
        let now = |part: &str| format!("{}:{FORMAT}:{part}", self.key);
        let before = |part: &str| format!("{}:{BEFORE}:{part}", self.key);
        [
            now("state"),
            now("past"),
            now("flying"),
            now("log"),
            // The one that all versions look at.
            format!("{}:format", self.key),
            now("members"),
            now("leases"),
            now("seen"),
            now("joined"),
            now("gone"),
            now("awaited"),
            now("waits"),
            now("flows"),
            now("infos"),
            now("idle"),
            now("offers"),
            before("state"),
            before("past"),
            before("flying"),
            before("log"),
        ]
    }

    /// The channels on which a replica of this name is woken: its own, and that of all.
    pub(super) fn channels(&self, name: &str) -> [String; 2] {
        let [state, ..] = self.keys();
        [format!("{state}:{name}"), format!("{state}:*")]
    }
}

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The longest time between two steps of a replica where nobody waits.
    pub idle: Duration,
    /// The same of one where somebody waits, among few replicas; among many it is up to
    /// [`Timing::idle`].
    pub heartbeat: Duration,
    /// A replica not heard of for so long is gone.
    pub lease: Duration,
    /// How long replicas have to merge their copies.
    pub merge: Duration,
    /// How long a slot is kept for the replica whose turn it is.
    pub claim: Duration,
}

impl Timing {
    /// Times that fit a store which answers within `timeout`.
    pub fn new(timeout: Duration) -> Self {
        let (idle, heartbeat) = (Duration::from_secs(4), Duration::from_millis(500));
        // A replica that hears no call listens again and looks, may lose one answer, and has to
        // connect.
        let merge = heartbeat * 2 + timeout * 2;
        Self {
            idle,
            heartbeat,
            merge,
            // Its heartbeat may be lost, too; then it tries again at once.
            lease: idle + merge,
            claim: Duration::from_millis(150),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Address;

    #[test]
    fn keys_are_of_one_tenant_and_application_and_in_one_slot() {
        let store = store::Config::new(Address::parse("redis://h").unwrap(), Duration::from_millis(250));
        let config = |application| Config::new(store.clone(), Timing::new(Duration::ZERO), "p", "T-1", application);
        assert_eq!(config("A}x").keys()[0], "{p:t-1:a_x}:v2:state");
        assert_ne!(config("a").keys(), config("b").keys());
    }
}
