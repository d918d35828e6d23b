//! Where the store is.

use std::time::Duration;

use redis::{Client, IntoConnectionInfo as _};

use super::error::Invalid;
use crate::secret::Secret;

/// Where the store is, checked.
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) client: Client,
    pub(super) timeout: Duration,
}

impl Config {
    /// `url` as in `store.url`: `redis://`, `rediss://` (TLS, certificates of the machine's roots) or `redis+unix://`. `timeout` bounds
    /// each answer.
    ///
    /// # Errors
    /// [`Invalid`] when the address cannot be used. The error does not hold the address: it may contain a password.
    pub fn new(url: &Secret, timeout: Duration) -> Result<Self, Invalid> {
        let url = url.expose();
        let scheme = url.split(':').next().unwrap_or_default();
        if !["redis", "rediss", "redis+unix"].contains(&scheme) {
            return Err(Invalid::Scheme(scheme.to_owned()));
        }
        // The crate's own message could hold the address.
        let client = url
            .into_connection_info()
            .and_then(Client::open)
            .map_err(|error| Invalid::Address(error.category().to_owned()))?;
        Ok(Self { client, timeout })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<Config, Invalid> {
        Config::new(&Secret::new(url.into()), Duration::from_millis(1))
    }

    #[test]
    fn single_servers_are_accepted() {
        for url in ["redis://h", "rediss://u:p@h:1/2", "redis+unix:///run/redis.sock"] {
            config(url).unwrap();
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name_and_never_with_the_password() {
        let error = config("redis+sentinel://:hunter2@h/group").unwrap_err();
        assert_eq!(error, Invalid::Scheme("redis+sentinel".into()));
        let error = config("redis://:hunter2@h/no-number").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
