//! What is asked of the store.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::clock::{Clock, StoreTime};
use super::codec::Value;
use super::config::{Config, Name};
use super::metrics::Metrics;
use crate::BoxError;
use crate::scan::{Answer, Endpoint, ResponseFault, ResponseKind};
use crate::store::Script;
use crate::task::Tasks;

/// Longer than the client has for connecting and for an answer: it gives up by itself.
const PATIENCE: Duration = Duration::from_mins(1);

/// The store, as long as it answers.
#[derive(Debug)]
pub(super) struct Backend {
    config: Config,
    tasks: Tasks,
    clock: Clock,
    scripts: Scripts,
    metrics: Metrics,
}

#[derive(Debug)]
struct Scripts {
    look: Arc<Script>,
    land: Arc<Script>,
    renew: Arc<Script>,
}

/// What a look showed.
#[derive(Debug)]
pub(super) enum LookupReply {
    /// An answer, fresh when it came.
    Found(Found),
    /// Something that is no answer.
    DecodeError,
    /// Nothing, and the lease is ours.
    Led,
    /// Nothing yet; somebody else has the lease, for so long if it is not renewed.
    Held(Duration),
    /// Nothing, and no lease was wanted.
    Nothing,
    /// The store did not answer: a lease may have been granted.
    FlightDropped,
    /// The store was not asked: it is left alone after a failure.
    LeftAlone,
}

/// An answer from the store, in this process's time.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) answer: Answer,
    pub(super) asked: Instant,
    pub(super) stored: Instant,
    pub(super) ttl: Duration,
}

/// How a look treats what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LookupMode {
    /// An answer is an answer.
    Answers,
    /// What is there has been found unreadable.
    LeasesOnly,
}

/// What is written at the end of a call.
#[derive(Debug)]
pub(super) struct Completion<'a> {
    pub(super) token: &'a str,
    pub(super) message: String,
    /// The bytes, and when their freshness ends.
    pub(super) value: Option<(Vec<u8>, StoreTime)>,
}

impl Backend {
    pub(super) fn new(config: Config, tasks: &Tasks, metrics: Metrics) -> Self {
        let script = |source| Arc::new(Script::new(source));
        Self {
            tasks: tasks.clone(),
            config,
            clock: Clock::default(),
            scripts: Scripts {
                look: script(include_str!("look.lua")),
                land: script(include_str!("land.lua")),
                renew: script(include_str!("renew.lua")),
            },
            metrics,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.config.store.is_well()
    }

    /// The store's time at `moment`, as far as it is known.
    pub(super) fn time(&self, moment: Instant) -> Option<StoreTime> {
        self.clock.at(moment)
    }

    /// Opens the connection and learns the store's time, before anybody needs them.
    pub(super) async fn warm_up(&self) {
        let name = Name::new("greeting");
        // Not asked first whether the store is to be left alone: somebody has just connected to it.
        self.ask_for(Endpoint::HISTORY, &name, "", LookupMode::LeasesOnly, PATIENCE)
            .await;
    }

    /// Looks for an answer to a question to `endpoint`, and takes a lease under `token` if there is none; under no token no lease is taken.
    ///
    /// # Cancel safety
    /// The lease may have been taken.
    pub(super) async fn look(
        &self,
        endpoint: Endpoint,
        name: &Name,
        token: Option<&str>,
        regard: LookupMode,
    ) -> LookupReply {
        if !self.config.store.admits() {
            return LookupReply::LeftAlone;
        }
        self.ask_for(endpoint, name, token.unwrap_or_default(), regard, self.config.look)
            .await
    }

    async fn ask_for(
        &self,
        endpoint: Endpoint,
        name: &Name,
        token: &str,
        regard: LookupMode,
        limit: Duration,
    ) -> LookupReply {
        let asked = Instant::now();
        let lease = self.config.lease.as_millis().to_string();
        let most = Value::LARGEST.to_string();
        let disregard = if regard == LookupMode::LeasesOnly { "1" } else { "" };
        let arguments = [token, &lease, &most, disregard];
        let Some(reply) = self
            .ask(&self.scripts.look, name, &arguments.map(str::as_bytes), limit)
            .await
        else {
            return LookupReply::FlightDropped;
        };
        let heard = Instant::now();
        let mut words = reply.splitn(3, |byte| *byte == b' ');
        let (now, word) = (words.next().and_then(number).map(StoreTime), words.next());
        let (Some(now), Some(word), Some(extra)) = (now, word, words.next()) else {
            return LookupReply::FlightDropped;
        };
        self.clock.set(now, heard);
        match word {
            b"found" => self.open(endpoint, (name, extra), now, (asked, heard)),
            b"led" => LookupReply::Led,
            b"held" => {
                let left = number(extra).map(Duration::from_millis);
                LookupReply::Held(left.unwrap_or(self.config.lease).min(self.config.lease))
            }
            b"none" => LookupReply::Nothing,
            _ => self.unreadable(name, &"it is no answer"),
        }
    }

    fn open(
        &self,
        endpoint: Endpoint,
        (name, bytes): (&Name, &[u8]),
        now: StoreTime,
        (asked, heard): (Instant, Instant),
    ) -> LookupReply {
        let claimed = Value::claimed(bytes).min(Value::LARGEST_OPEN);
        let memory = self.config.memory.as_ref().map(|memory| memory.try_reserve(claimed));
        if matches!(memory, Some(None)) {
            return LookupReply::LeftAlone;
        }
        let mut value = match Value::read(name, bytes, now) {
            Ok(value) => value,
            Err(unreadable) => return self.unreadable(name, &unreadable),
        };
        if let Some(memory) = memory.flatten() {
            value.answer.body = memory.hold(value.answer.body);
        }
        // An older version of the program may have written what is none.
        match ResponseKind::of(endpoint, &value.answer) {
            ResponseKind::Answer => {}
            ResponseKind::Throttled => return self.unreadable(name, &ResponseFault::Unavailable),
            ResponseKind::Fault(fault) => return self.unreadable(name, &fault),
        }
        // The time of the answer's way is counted to its age (RFC 9111 §4.2.3).
        let way = heard - asked;
        let before = |then: StoreTime| heard.checked_sub(now.since(then).unwrap_or_default() + way);
        let (Some(asked), Some(stored)) = (before(value.asked), before(value.stored)) else {
            return self.unreadable(name, &"it is older than this machine");
        };
        LookupReply::Found(Found {
            answer: value.answer,
            asked,
            stored,
            ttl: value.ttl.min(self.config.longest_ttl(endpoint)),
        })
    }

    fn unreadable(&self, name: &Name, reason: &dyn std::fmt::Display) -> LookupReply {
        tracing::debug!(name = name.as_str(), %reason, "what is stored under a question cannot be used");
        self.metrics.not_read();
        LookupReply::DecodeError
    }

    /// Writes an answer, ends a lease and says so. `false` when the store did not do it, as far as is known.
    pub(super) async fn land(&self, name: &Name, landing: &Completion<'_>) -> bool {
        if !self.config.store.admits() {
            return false;
        }
        let channel = self.config.channel();
        let (value, end) = match &landing.value {
            Some((value, end)) => (value.as_slice(), end.0.to_string()),
            None => (&[][..], String::new()),
        };
        let arguments = [
            landing.token.as_bytes(),
            channel.as_bytes(),
            landing.message.as_bytes(),
            value,
            end.as_bytes(),
        ];
        self.ask(&self.scripts.land, name, &arguments, PATIENCE).await.is_some()
    }

    /// Prolongs a lease. `false` when it is certain that it is another's by now.
    pub(super) async fn renew(&self, name: &Name, token: &str) -> bool {
        if !self.config.store.admits() {
            return true;
        }
        let lease = self.config.lease.as_millis().to_string();
        let arguments = [token.as_bytes(), lease.as_bytes()];
        let reply = self.ask(&self.scripts.renew, name, &arguments, PATIENCE).await;
        reply.is_none_or(|word| word != b"lost")
    }

    /// Asks, and waits for at most `limit`. The question itself goes on until the client gives it up: only so can a connection be opened
    /// that takes longer, or one be closed over which nothing comes.
    async fn ask(&self, script: &Arc<Script>, name: &Name, arguments: &[&[u8]], limit: Duration) -> Option<Vec<u8>> {
        let (client, script, keys) = (self.config.store.clone(), Arc::clone(script), self.config.keys(name));
        let arguments: Vec<Vec<u8>> = arguments.iter().map(|argument| argument.to_vec()).collect();
        let asked = self.tasks.spawn("shared answers: asking", async move {
            let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
            client.run(&script, &keys, &arguments).await
        });
        let answer = match timeout(limit, asked).await {
            Ok(Ok(answer)) => answer.map_err(BoxError::from),
            Ok(Err(error)) => Err(error.into()),
            Err(late) => Err(late.into()),
        };
        match answer {
            Ok(answer) => {
                self.metrics.up.set(1);
                Some(answer.unwrap_or_default())
            }
            Err(error) => {
                // That the store is lost is said by the quota, which asks it in any case.
                tracing::debug!(%error, "the store does not answer: answers are not shared for now");
                self.config.store.is_late(limit);
                self.metrics.up.set(0);
                None
            }
        }
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
