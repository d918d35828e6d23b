//! Scripts that run in the store.

use std::fmt::Write as _;

use redis::{ErrorKind, FromRedisValue, ServerErrorKind, cmd};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::connection::Connection;
use super::error::Error;

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
