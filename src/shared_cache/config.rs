//! The settings of the shared cache.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::memory::AnswerMemory;
use crate::operation::Lifetime;
use crate::scan::{Endpoint, Key, Namespace, hex};
use crate::store;

/// The settings of the shared cache.
#[derive(Clone, Debug)]
pub struct Config {
    /// The store.
    pub(super) store: store::Client,
    /// The prefix of all keys.
    pub(super) prefix: Arc<str>,
    pub(super) namespace: Namespace,
    /// The longest that a request waits for the store's reply.
    pub look: Duration,
    /// How long an answer counts as fresh here, at most, whatever its writer said. Zero switches
    /// sharing off.
    pub ttl: Duration,
    /// The same for the history of sessions, which does not change once they are finished, if that is
    /// longer.
    pub finished_ttl: Duration,
    /// How long a lease lasts without renewal, and so how long a dead leader delays its followers.
    pub lease: Duration,
    /// How long a call takes at most, and so how long a request whose time is over waits for another
    /// replica's.
    pub attempt: Duration,
    /// The memory for answers from the store, of which one without memory is not read; `None` when
    /// they are not counted.
    pub memory: Option<AnswerMemory>,
    /// When this replica stops, after which nobody waits for another one; `None` in it while that is
    /// not known.
    pub closing: Option<watch::Receiver<Option<Instant>>>,
}

impl Config {
    /// The default of [`Config::lease`]: short against the 30 s that callers wait, long against a
    /// pause of a process.
    pub const LEASE: Duration = Duration::from_secs(3);

    /// The default of [`Config::attempt`].
    pub const ATTEMPT: Duration = Duration::from_mins(1);

    /// Answers are kept apart by `prefix`, tenant and application, as the quota is. Background work
    /// waits for the store as long as `store` says; `look` and `ttl` are described at the fields.
    pub fn new(
        store: impl Into<store::Client>,
        prefix: &str,
        (tenant, application): (&str, &str),
        look: Duration,
        ttl: Duration,
    ) -> Self {
        Self {
            store: store.into(),
            prefix: store::scope(prefix, tenant, application).into(),
            // The case of these names does not matter, as in the quota.
            namespace: Namespace::new(&tenant.to_ascii_lowercase(), &application.to_ascii_lowercase()),
            look,
            ttl,
            finished_ttl: ttl,
            lease: Self::LEASE,
            attempt: Self::ATTEMPT,
            memory: None,
            closing: None,
        }
    }

    /// Resolves at the closing moment, if there will be one.
    pub(super) async fn closed(&self) {
        if let Some(mut closing) = self.closing.clone()
            && let Ok(Some(closes)) = closing.wait_for(Option::is_some).await.map(|closes| *closes)
        {
            return sleep_until(closes).await;
        }
        std::future::pending::<()>().await;
    }

    /// How long an answer of `endpoint` counts as fresh, at most.
    pub(super) fn longest_ttl(&self, endpoint: Endpoint) -> Duration {
        match endpoint.operation.declaration().lifetime {
            _ if self.ttl.is_zero() => Duration::ZERO,
            Lifetime::Ttl => self.ttl,
            Lifetime::Finished => self.ttl.max(self.finished_ttl),
        }
    }

    pub(super) fn name(&self, key: &Key) -> Name {
        Name(hex(&key.digest(&self.namespace)).into())
    }

    /// The keys of an answer and its lease. The braces put both into one slot of a cluster, and
    /// different requests into different slots.
    pub(super) fn keys(&self, name: &Name) -> [String; 2] {
        ["answer", "lease"].map(|what| format!("{}:{VERSION}:{{{}}}:{what}", self.prefix, name.0))
    }

    /// The channel on which the ends of leases are published.
    pub(super) fn channel(&self) -> String {
        format!("{}:{VERSION}:landed", self.prefix)
    }
}

/// The version of keys, values and messages.
const VERSION: &str = "answers-v1";

/// A request's name in the store: SHA-256 in hexadecimal digits, so that keys do not show ids of
/// scan definitions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// A name from a message.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Endpoint, Request};

    fn config(prefix: &str, tenant: &str, app: &str) -> Config {
        let second = Duration::from_secs(1);
        let store = store::Config::new(store::Address::parse("redis://h").unwrap(), second);
        Config::new(store, prefix, (tenant, app), second, second)
    }

    #[test]
    fn gateways_for_one_app_share_names_and_others_do_not() {
        let key = Request::plain(Endpoint::HISTORY, ["a"]).unwrap().key().clone();
        let keys = |config: Config| config.keys(&config.name(&key));
        let one = keys(config("p", "T", "App"));
        assert_eq!(one, keys(config("p", "t", "app")));
        for other in [
            config("q", "T", "App"),
            config("p", "U", "App"),
            config("p", "T", "Bpp"),
        ] {
            assert_ne!(one, keys(other));
        }
        // Names that `scope` maps to the same text are still told apart by the digest.
        assert_ne!(keys(config("p", "a/b", "c")), keys(config("p", "a?b", "c")));
    }

    #[test]
    fn both_keys_of_a_request_lie_in_one_slot_of_a_cluster() {
        let config = config("p", "t}", "{a");
        let key = Request::plain(Endpoint::HISTORY, ["a"]).unwrap().key().clone();
        let tags = config.keys(&config.name(&key)).map(|key| {
            let (_, rest) = key.split_once('{').unwrap();
            rest.split_once('}').unwrap().0.to_owned()
        });
        assert_eq!(tags[0], tags[1]);
        assert_eq!(tags[0].len(), 64);
    }
}
