//! Remembers what was found out about merging: in a file beside the quota's, and in the store.
//!
//! With a store, one replica at a time may make comparison calls: the one that has the lease. What
//! it finds out, and what contradicts it anywhere, reaches the others within a minute.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use super::context::{BackgroundTasks, SharedContext, Supervised};
use super::settings;
use crate::config::{Merging, Resolved};
use crate::scan::{Endpoint, MergeRecord, UpstreamProfile};
use crate::store;

/// How long a lease lasts. It is renewed in time, or taken anew.
const LEASE: Duration = Duration::from_mins(3);
const RENEWAL: Duration = Duration::from_secs(30);

/// How long the store keeps what nobody changes.
const KEPT: Duration = Duration::from_hours(90 * 24);

/// A longer file is not ours.
const LARGEST: u64 = 64 << 10;

/// The records as they are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Records {
    /// Whose they are: the tenant and the application.
    registration: String,
    /// By operation and version.
    endpoints: BTreeMap<String, MergeRecord>,
}

/// Where records are kept.
struct MergeMemory {
    registration: String,
    upstream_profile: Arc<UpstreamProfile>,
    file: Option<PathBuf>,
    turn: Turn,
    store: Option<SharedMemory>,
    /// How often the store is looked at.
    interval: Duration,
}

/// Whose turn it is to write the file. After a change of configuration the memory before goes on
/// with its last requests, and what they teach may be about another application.
#[derive(Debug)]
struct Turn {
    latest: MergeTurns,
    own: u64,
}

/// How many memories there have been; locked while the file is written.
pub(super) type MergeTurns = Arc<Mutex<u64>>;

impl Turn {
    fn take(latest: &MergeTurns) -> Self {
        let mut number = latest.lock().unwrap_or_else(PoisonError::into_inner);
        *number += 1;
        Self {
            latest: Arc::clone(latest),
            own: *number,
        }
    }

    /// `None` when it is another's turn.
    fn now(&self) -> Option<MutexGuard<'_, u64>> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        (*latest == self.own).then_some(latest)
    }
}

struct SharedMemory {
    client: store::Client,
    records: String,
    lease: String,
    leased_until: Instant,
}

impl SharedContext {
    /// Takes over what was found out earlier, and remembers what will be, for as long as the guard
    /// lives.
    pub(super) fn remember_merging(
        &self,
        config: &Resolved,
        upstream_profile: &Arc<UpstreamProfile>,
    ) -> BackgroundTasks {
        if config.merge.enabled != Merging::Auto {
            return BackgroundTasks::default();
        }
        let registration = registration(config);
        let memory = MergeMemory {
            upstream_profile: Arc::clone(upstream_profile),
            file: file(config),
            turn: Turn::take(&self.merge_turns),
            store: self.store.clone().map(|client| {
                // Beside the ledger's keys, in the same slot of a cluster.
                let (tenant, application) = settings::registration(config);
                let scope = store::scope(&config.store.prefix, tenant, application);
                let key = |what| format!("{{{scope}}}:merge:{what}");
                let (records, lease) = (key("records"), key("lease"));
                // Until the store was asked, another replica may have the lease.
                let leased_until = Instant::now();
                upstream_profile.merge_evidence().lease_until(leased_until);
                SharedMemory {
                    client,
                    records,
                    lease,
                    leased_until,
                }
            }),
            registration,
            interval: self.environment.merge_interval,
        };
        if let Some(found) = memory.file.as_deref().and_then(read) {
            memory.adopt(&found);
        }
        Supervised::make(&self.tasks, |tasks| tasks.spawn_upkeep("merge evidence", memory.keep())).upkeep
    }
}

/// What was found out by the gateway with this configuration, as its file says.
pub fn remembered_merging(config: &Resolved) -> Vec<(Endpoint, MergeRecord)> {
    let found = file(config).as_deref().and_then(read).unwrap_or_default();
    if found.registration != registration(config) {
        return Vec::new();
    }
    found.by_endpoint().collect()
}

/// The file beside the one in which the quota remembers its calls.
fn file(config: &Resolved) -> Option<PathBuf> {
    let mut file = config.quota.state_file.clone()?.into_os_string();
    file.push(".merge");
    Some(file.into())
}

fn registration(config: &Resolved) -> String {
    let (tenant, application) = settings::registration(config);
    [tenant, " ", application].concat()
}

/// What is remembered there. What cannot be read is found out again.
fn read(file: &Path) -> Option<Records> {
    let mut text = Vec::new();
    match File::open(file).and_then(|file| file.take(LARGEST).read_to_end(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "what was found out about merging cannot be read");
            return None;
        }
    }
    serde_json::from_slice(&text).ok()
}

fn write(file: &Path, text: &[u8]) -> io::Result<()> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, text)?;
    fs::rename(&new, file)
}

impl Records {
    fn by_endpoint(&self) -> impl Iterator<Item = (Endpoint, MergeRecord)> {
        Endpoint::all().filter_map(|endpoint| Some((endpoint, *self.endpoints.get(&name(endpoint))?)))
    }
}

fn name(endpoint: Endpoint) -> String {
    [endpoint.name(), "/", endpoint.version.as_str()].concat()
}

impl MergeMemory {
    async fn keep(mut self) {
        let upstream_profile = Arc::clone(&self.upstream_profile);
        let mut written = None;
        loop {
            // Before the records are read, so that no change is missed.
            let changed = upstream_profile.merge_evidence().changed();
            self.share().await;
            self.write_down(&mut written);
            if self.store.is_some() {
                // Whether it changed or not, the next look is due.
                let _ = timeout(self.interval, changed).await;
            } else {
                changed.await;
            }
        }
    }

    /// Writes the records to the file, if they are not what was written last.
    fn write_down(&self, written: &mut Option<Vec<u8>>) {
        if let (Some(file), Some(text)) = (&self.file, self.text())
            && written.as_ref() != Some(&text)
            && let Some(_turn) = self.turn.now()
        {
            if let Err(error) = write(file, &text) {
                tracing::warn!(file = %file.display(), %error, "what was found out about merging is not remembered");
            }
            *written = Some(text);
        }
    }

    /// Exchanges records with the other replicas.
    async fn share(&mut self) {
        let Some(store) = self.store.as_mut().filter(|store| store.client.admits()) else {
            return;
        };
        let lease = store.lease().await;
        let (client, key) = (store.client.clone(), store.records.clone());
        let Ok(shared) = client.get(&key).await else { return };
        if let Some(found) = shared.as_deref().and_then(|text| serde_json::from_slice(text).ok()) {
            self.adopt(&found);
        }
        // Only who knows what the others have found out may go on.
        if let Some(until) = lease {
            self.upstream_profile.merge_evidence().lease_until(until);
        }
        if let Some(text) = self.text()
            && shared.as_ref() != Some(&text)
        {
            // The next change, or the next replica, tries again.
            let _ = client.set(&key, &text, KEPT).await;
        }
    }

    fn adopt(&self, found: &Records) {
        if found.registration == self.registration {
            for (endpoint, record) in found.by_endpoint() {
                self.upstream_profile.adopt_merge_record(endpoint, record);
            }
        }
    }

    /// The records as they are stored; `None` while nothing has been found out.
    fn text(&self) -> Option<Vec<u8>> {
        let findings = self.upstream_profile.merge_evidence().findings();
        let known = findings.iter().filter(|finding| finding.record.revision > 0);
        let records = Records {
            registration: self.registration.clone(),
            endpoints: known.map(|finding| (name(finding.endpoint), finding.record)).collect(),
        };
        // Such a map can always be written.
        (!records.endpoints.is_empty()).then(|| serde_json::to_vec(&records).unwrap_or_default())
    }
}

impl SharedMemory {
    /// Takes or renews the lease, if no other replica has it; returns how long it lasts.
    async fn lease(&mut self) -> Option<Instant> {
        let now = Instant::now();
        // Renewed only well before its end: nobody else can have taken it when that arrives.
        let is_held = if self.leased_until > now + RENEWAL {
            self.client.set(&self.lease, b"1", LEASE).await.is_ok()
        } else {
            self.client.claim(&self.lease, b"1", LEASE).await.unwrap_or(false)
        };
        is_held.then(|| {
            self.leased_until = now + LEASE;
            self.leased_until
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_before_a_change_of_configuration_writes_nothing_over_the_new_ones_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("calls.merge");
        let turns = MergeTurns::default();
        let memory = |registration: &str| MergeMemory {
            registration: registration.into(),
            upstream_profile: Arc::new(UpstreamProfile::new(1000)),
            file: Some(file.clone()),
            turn: Turn::take(&turns),
            store: None,
            interval: Duration::from_mins(1),
        };
        let learn = |memory: &MergeMemory, revision| {
            let record = MergeRecord {
                revision,
                ..MergeRecord::default()
            };
            memory.upstream_profile.adopt_merge_record(Endpoint::HISTORY, record);
            memory.write_down(&mut None);
            read(&file).unwrap().registration
        };
        let before = memory("before");
        assert_eq!(learn(&before, 1), "before");
        let now = memory("now");
        assert_eq!(learn(&now, 1), "now");
        assert_eq!(learn(&before, 2), "now");
    }
}
