//! Scripts that run in the store, and one that asks what it does when its memory is full.

use std::fmt::Write as _;

use redis::{ErrorKind, FromRedisValue, ServerErrorKind, cmd};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::store::Error;
use crate::store::address::Config;
use crate::store::client::Client;
use crate::store::connection::Connection;

/// A script that runs in the store as one atomic step. Sent whole to a server that does not know
/// it, and by its digest afterwards.
#[derive(Debug)]
pub struct Script {
    source: String,
    /// The store's own name for it, which is not a matter of security.
    digest: String,
}

impl Script {
    /// The script's Lua source.
    pub fn new(source: &str) -> Self {
        let sum = digest(&SHA1_FOR_LEGACY_USE_ONLY, source.as_bytes());
        let digest = sum.as_ref().iter().fold(String::with_capacity(40), |mut text, byte| {
            // Writing into a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        });
        Self {
            source: source.to_owned(),
            digest,
        }
    }

    /// Runs it. In a cluster all `keys` must have one hash tag.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        connection: &mut Connection,
        keys: &[String],
        arguments: &[&[u8]],
    ) -> Result<T, Error> {
        let command = |name: &str, script: &str| {
            let mut command = cmd(name);
            command.arg(script).arg(keys.len()).arg(keys).arg(arguments);
            command
        };
        match connection.query(&command("EVALSHA", &self.digest)).await {
            // It was not run. `EVAL` goes to the one server that needs it, and an ACL need not
            // allow `SCRIPT`.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                Ok(connection.query(&command("EVAL", &self.source)).await?)
            }
            answer => Ok(answer?),
        }
    }
}

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
            policy: super::shown(policy.unwrap_or("unknown").trim()),
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
        // Whoever answers in the store's place steers no terminal by it.
        assert_eq!(
            Eviction::read("maxmemory_policy:allkeys-\u{1b}[2J\u{202e}").policy,
            "allkeys-[2J"
        );
    }
}
