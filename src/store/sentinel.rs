//! Which server is the master.
//!
//! The client library asks one Sentinel after the other and believes the first that answers. Here
//! all are asked at once, so that one that is out of reach costs no time, and more than half must
//! agree: a Sentinel on the wrong side of a broken network would send us to a master that has been
//! replaced, and two masters would grant the quota twice.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::connection::{Server, within};
use super::error::Error;

type Master = (String, u16);

/// The master of `group`. Whether it really is one shows when it is asked: a replica refuses to
/// write.
pub(super) async fn master(sentinels: Vec<Server>, group: &str, timeout: Duration) -> Result<Master, Error> {
    let asked = sentinels.len();
    let mut answers: FuturesUnordered<_> = sentinels
        .into_iter()
        .map(|sentinel| within(timeout * 2, ask(sentinel, group)))
        .collect();
    let mut votes: HashMap<Master, usize> = HashMap::new();
    let mut failure = None;
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(Some(server)) => {
                let named = votes.entry(server.clone()).or_default();
                *named += 1;
                if *named * 2 > asked {
                    return Ok(server);
                }
            }
            Ok(None) => {}
            Err(error) => failure = Some(error),
        }
    }
    let named = votes.into_values().max().unwrap_or(0);
    // With nobody reached, why is more useful than how many.
    match failure {
        Some(error) if named == 0 => Err(error),
        _ => Err(Error::NoMaster { named, asked }),
    }
}

async fn ask(sentinel: Server, group: &str) -> Result<Option<Master>, Error> {
    let mut connection = sentinel.connect(None).await?;
    let mut command = redis::cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(group);
    Ok(connection.query(&command).await?)
}
