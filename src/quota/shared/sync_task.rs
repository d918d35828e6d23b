//! The task that takes a replica's steps.

use std::sync::Arc;

use tokio::time::Instant;

use super::Config;
use super::config::{FORMAT, KEYS};
use super::messages::{self, SyncReply};
use super::replica::Replica;
use crate::BoxError;
use crate::store::{self, Event, Eviction, Script};
use crate::task::Tasks;

/// Starts the steps, and the listening for wakes.
pub(super) fn start(replica: &Arc<Replica>, config: &Config, tasks: &Tasks) {
    tasks.spawn_upkeep("store wakes", listen(Arc::clone(replica), config.clone()));
    let sync_task = SyncTask {
        replica: Arc::clone(replica),
        store: config.store.clone(),
        script: Script::new(messages::SCRIPT),
        keys: config.keys(),
        has_asked: false,
    };
    let stopping = tasks.clone();
    tasks.spawn("store steps", async move { sync_task.run(&stopping).await });
}

/// A rolling upgrade to or from a version that stores something else.
#[derive(Debug, thiserror::Error)]
#[error(
    "gateways of another version share this quota in the format {0}, ours is {FORMAT}: no call leaves until the calls of one side are out \
     of every window"
)]
struct OtherFormat(String);

struct SyncTask {
    replica: Arc<Replica>,
    store: store::Client,
    script: Script,
    keys: [String; KEYS],
    /// Whether this store was asked what it evicts.
    has_asked: bool,
}

impl SyncTask {
    async fn run(mut self, tasks: &Tasks) {
        loop {
            // Not interrupted: the answer to a step that was asked for is awaited.
            let has_answered = self.take_step(false).await;
            if has_answered && !self.has_asked {
                self.ask_eviction().await;
            }
            tokio::select! {
                () = self.replica.is_time() => {}
                () = tasks.stopping() => break,
            }
        }
        // What became of the last calls, and that nobody has to wait for us.
        self.take_step(true).await;
    }

    /// Says whether the store answered.
    async fn take_step(&mut self, leave: bool) -> bool {
        let asked = Instant::now();
        let answer = self.try_step(asked, leave).await;
        match &answer {
            Ok(reply) => self.replica.on_reply(reply, asked),
            Err(error) => self.replica.on_error(error),
        }
        self.has_asked &= answer.is_ok();
        answer.is_ok()
    }

    /// Asked once after the start and after each outage, since another server may answer then.
    async fn ask_eviction(&mut self) {
        let [state, ..] = &self.keys;
        match Eviction::ask(&self.store, state).await {
            Ok(eviction) => self.replica.evicts(eviction),
            // It may be forbidden to us, and nothing depends on it.
            Err(error) => tracing::debug!(
                error = &error as &dyn std::error::Error,
                "cannot ask what the store evicts"
            ),
        }
        self.has_asked = true;
    }

    async fn try_step(&mut self, asked: Instant, leave: bool) -> Result<SyncReply, BoxError> {
        let step = self.replica.step(asked, leave)?;
        let others = self.replica.steps_of_others();
        let text = self.store.step_among(&self.script, &self.keys, &step, others).await?;
        let reply: SyncReply = serde_json::from_str(&text)?;
        match reply.other {
            Some(other) => Err(OtherFormat(other).into()),
            None => Ok(reply),
        }
    }
}

/// Wakes the steps when the store says that this replica's turn is earlier than it was told.
async fn listen(replica: Arc<Replica>, config: Config) {
    let [own, all] = config.channels(replica.name());
    let to_wake = Arc::clone(&replica);
    let on_event = move |event: Event<'_>| match event {
        Event::Message(message) => {
            to_wake.wake(std::str::from_utf8(message).ok().and_then(|text| text.parse().ok()));
        }
        // Something may have been said meanwhile, and another server may know less than the one
        // before. Others have missed it as well.
        Event::Missed => to_wake.wake_all(),
    };
    config.store.subscribe(own, on_event).await;
    config
        .store
        .subscribe(all, move |_: Event<'_>| replica.wake_all())
        .await;
}
