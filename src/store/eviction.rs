//! What the store does when its memory is full.

use super::client::Client;
use super::config::Config;
use super::error::Error;
use super::script::Script;

/// Asked by a script, because in a cluster it has to be asked where the keys are.
const SCRIPT: &str = "return redis.call('INFO', 'memory')";

/// What the store does when its memory is full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// `maxmemory-policy`, as the store calls it.
    pub policy: String,
}

impl Eviction {
    /// Asks the server that holds `key`.
    ///
    /// # Errors
    /// [`Error`] when no answer came in time, or the store does not let us ask.
    pub async fn of(config: &Config, key: &str) -> Result<Self, Error> {
        Self::ask(&Client::new(config), key).await
    }

    /// The same over a connection that is there.
    ///
    /// # Errors
    /// As [`Eviction::of`].
    pub async fn ask(client: &Client, key: &str) -> Result<Self, Error> {
        let text = client.step(&Script::new(SCRIPT), &[key.to_owned()], "").await?;
        Ok(Self::read(&text))
    }

    fn read(info: &str) -> Self {
        let policy = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"));
        Self {
            policy: policy.unwrap_or("unknown").trim().to_owned(),
        }
    }

    /// Whether it may remove a key that has no lifetime.
    pub fn takes_any_key(&self) -> bool {
        self.policy.starts_with("allkeys-")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_policies_for_all_keys_take_keys_without_a_lifetime() {
        let takes = |policy: &str| {
            Eviction::read(&format!("# Memory\r\nmaxmemory:0\r\nmaxmemory_policy:{policy}\r\n")).takes_any_key()
        };
        assert!(takes("allkeys-lru") && takes("allkeys-lfu") && takes("allkeys-random"));
        assert!(!takes("noeviction") && !takes("volatile-lru") && !takes("volatile-ttl"));
        assert_eq!(Eviction::read("").policy, "unknown");
    }
}
