//! The commands of the shared cache, as scripts that the store runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::codec::{Clock, StoreTime, StoredResponse};
use super::config::{Config, Name};
use super::lease::LeaseEvent;
use super::metrics::Metrics;
use crate::BoxError;
use crate::scan::{Endpoint, ResponseFault, ResponseKind, UpstreamResponse};
use crate::store::Script;
use crate::task::Tasks;

/// Longer than the client may take to connect and to get a reply, so that the client gives up
/// first.
const COMMAND_TIMEOUT: Duration = Duration::from_mins(1);

/// The store, guarded by its circuit breaker.
#[derive(Debug)]
pub(super) struct Backend {
    config: Config,
    tasks: Tasks,
    clock: Clock,
    metrics: Metrics,
    get_or_lease: Arc<Script>,
    complete: Arc<Script>,
    renew: Arc<Script>,
}

/// The reply to a lookup.
#[derive(Debug)]
pub(super) enum LookupReply {
    /// An answer that was fresh when it arrived.
    Found(Found),
    /// A value that cannot be decoded.
    Undecodable,
    /// There is no answer, and this replica has the lease.
    Led,
    /// There is no answer yet, and another replica has the lease, which ends after the time `left`
    /// unless it is renewed.
    Held {
        left: Duration,
        /// Whether its call is under way.
        has_left: bool,
    },
    /// There is no answer, and no lease was requested.
    Nothing,
    /// The store did not reply. The lease may have been granted.
    NoReply,
    /// The store was not asked, because its circuit breaker is open or memory is short.
    Unavailable,
}

/// An answer from the store, with times of this process's clock.
#[derive(Clone, Debug)]
pub struct Found {
    /// The answer.
    pub answer: UpstreamResponse,
    /// When its call left.
    pub asked: Instant,
    /// When it came.
    pub stored: Instant,
    /// How long it is fresh from `stored` on.
    pub ttl: Duration,
}

/// How a lookup treats a stored value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LookupMode {
    /// A stored value is returned.
    Answers,
    /// A stored value is ignored, because it could not be used.
    LeasesOnly,
}

impl Backend {
    pub(super) fn new(config: Config, tasks: &Tasks, metrics: Metrics) -> Self {
        let script = |source| Arc::new(Script::new(source));
        Self {
            tasks: tasks.clone(),
            config,
            clock: Clock::default(),
            metrics,
            get_or_lease: script(include_str!("get_or_lease.lua")),
            complete: script(include_str!("complete.lua")),
            renew: script(include_str!("renew.lua")),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.config.store.is_well()
    }

    /// The store's time at `moment`, if it is known.
    pub(super) fn time(&self, moment: Instant) -> Option<StoreTime> {
        self.clock.at(moment)
    }

    /// Opens the connection and learns the store's time before the first request needs them.
    pub(super) async fn warm_up(&self) {
        let name = Name::new("greeting");
        // The circuit breaker is not asked, because the store's subscription has just connected.
        self.run_lookup(Endpoint::HISTORY, &name, "", LookupMode::LeasesOnly, COMMAND_TIMEOUT)
            .await;
    }

    /// Looks up the answer to a request to `endpoint`. If there is none and `token` is given, takes
    /// a lease under that token.
    ///
    /// # Cancel safety
    ///
    /// The lease may have been taken.
    pub(super) async fn get_or_lease(
        &self,
        endpoint: Endpoint,
        name: &Name,
        token: Option<&str>,
        mode: LookupMode,
    ) -> LookupReply {
        if !self.config.store.admits() {
            return LookupReply::Unavailable;
        }
        self.run_lookup(endpoint, name, token.unwrap_or_default(), mode, self.config.look)
            .await
    }

    async fn run_lookup(
        &self,
        endpoint: Endpoint,
        name: &Name,
        token: &str,
        mode: LookupMode,
        limit: Duration,
    ) -> LookupReply {
        let asked = Instant::now();
        let lease = self.config.lease.as_millis().to_string();
        let most = StoredResponse::LARGEST.to_string();
        let ignore_answer = if mode == LookupMode::LeasesOnly { "1" } else { "" };
        let arguments = [token, &lease, &most, ignore_answer];
        let Some(reply) = self
            .run(&self.get_or_lease, name, &arguments.map(str::as_bytes), limit)
            .await
        else {
            return LookupReply::NoReply;
        };
        let heard = Instant::now();
        let mut words = reply.splitn(3, |byte| *byte == b' ');
        let (now, word) = (words.next().and_then(number).map(StoreTime), words.next());
        let (Some(now), Some(word), Some(extra)) = (now, word, words.next()) else {
            return LookupReply::NoReply;
        };
        self.clock.set(now, heard);
        match word {
            b"found" => self.open(endpoint, (name, extra), now, (asked, heard)),
            b"led" => LookupReply::Led,
            b"held" | b"left" => {
                let left = number(extra).map(Duration::from_millis);
                LookupReply::Held {
                    left: left.unwrap_or(self.config.lease).min(self.config.lease),
                    has_left: word == b"left",
                }
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
        let claimed = StoredResponse::claimed(bytes).min(StoredResponse::LARGEST_OPEN);
        let memory = self.config.memory.as_ref();
        let memory = memory.map(|memory| memory.of(claimed).try_reserve(claimed));
        if matches!(memory, Some(None)) {
            return LookupReply::Unavailable;
        }
        let mut value = match StoredResponse::read(name, bytes, now) {
            Ok(value) => value,
            Err(unreadable) => return self.unreadable(name, &unreadable),
        };
        if let Some(memory) = memory.flatten() {
            value.answer.body = memory.hold(value.answer.body);
        }
        // An older version of the program may have stored a response that is no answer.
        match ResponseKind::of(endpoint, &value.answer) {
            ResponseKind::Answer => {}
            ResponseKind::Throttled => return self.unreadable(name, &ResponseFault::Unavailable),
            ResponseKind::Fault(fault) => return self.unreadable(name, &fault),
        }
        // The time of the exchange counts towards the age (RFC 9111 §4.2.3).
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
        tracing::debug!(name = name.as_str(), %reason, "what is stored under a request cannot be used");
        self.metrics.unreadable.inc();
        LookupReply::Undecodable
    }

    /// Ends the lease that was taken under `token` and publishes that; with `answer`, stores it
    /// until its freshness ends. `false` when the store is not known to have done it.
    pub(super) async fn complete(
        &self,
        name: &Name,
        token: &str,
        event: LeaseEvent,
        answer: Option<(&[u8], StoreTime)>,
    ) -> bool {
        if !self.config.store.admits() {
            return false;
        }
        let channel = self.config.channel();
        let (value, end) = answer.map_or_else(Default::default, |(value, end)| (value, end.0.to_string()));
        let message = event.message(name);
        let arguments = [
            token.as_bytes(),
            channel.as_bytes(),
            message.as_bytes(),
            value,
            end.as_bytes(),
        ];
        let reply = self.run(&self.complete, name, &arguments, COMMAND_TIMEOUT).await;
        let refused = reply.as_ref().filter(|reason| !reason.is_empty());
        if let Some(reason) = refused {
            let reason = String::from_utf8_lossy(reason);
            tracing::debug!(%reason, "the store takes no answer: answers are not shared for now");
            self.config.store.is_late(COMMAND_TIMEOUT);
        }
        reply.is_some() && refused.is_none()
    }

    /// Renews a lease, whose holder goes by `token` from now on, and publishes what is new of it.
    /// `false` when it is certain that the lease was lost.
    pub(super) async fn renew(&self, name: &Name, token: &str, news: Option<LeaseEvent>) -> bool {
        if !self.config.store.admits() {
            return true;
        }
        let (lease, channel) = (self.config.lease.as_millis().to_string(), self.config.channel());
        let message = news.map_or_else(String::new, |event| event.message(name));
        let arguments = [token, &lease, &channel, &message].map(str::as_bytes);
        let reply = self.run(&self.renew, name, &arguments, COMMAND_TIMEOUT).await;
        reply.is_none_or(|word| word != b"lost")
    }

    /// Runs a script and waits for its reply for at most `limit`. The command itself goes on until
    /// the client gives it up, because only then can a connection be opened that takes longer than
    /// `limit`, or a dead one be closed.
    async fn run(&self, script: &Arc<Script>, name: &Name, arguments: &[&[u8]], limit: Duration) -> Option<Vec<u8>> {
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
            Ok(answer) => Some(answer.unwrap_or_default()),
            Err(error) => {
                // The loss of the store is logged by the quota, which uses the store in any case.
                tracing::debug!(
                    error = &*error,
                    "the store does not answer: answers are not shared for now"
                );
                self.config.store.is_late(limit);
                None
            }
        }
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{AnswerMemory, MemoryBudget};
    use crate::scan::Headers;
    use crate::store;
    use futures_util::FutureExt as _;
    use http::header::CONTENT_TYPE;
    use http::{HeaderValue, StatusCode};

    #[tokio::test(start_paused = true)]
    async fn a_small_answer_is_read_while_a_large_one_waits_for_memory() {
        let memory = AnswerMemory {
            small: MemoryBudget::new(1 << 20),
            large: MemoryBudget::new(1 << 20),
        };
        let held = memory.large.try_reserve(1).unwrap();
        let mut waiting = Box::pin(memory.large.reserve(1 << 20));
        assert!((&mut waiting).now_or_never().is_none());
        let second = Duration::from_secs(1);
        let store = store::Config::new(store::Address::parse("redis://h").unwrap(), second);
        let config = Config {
            memory: Some(memory.clone()),
            ..Config::new(store, "p", ("tenant", "app"), second, second)
        };
        let backend = Backend::new(config, &Tasks::new(), Metrics::default());
        let open = |bytes: usize| {
            let now = StoreTime(1_700_000_000_000);
            let json = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
            let value = StoredResponse {
                answer: UpstreamResponse {
                    status: StatusCode::OK,
                    headers: [json].into_iter().collect::<Headers>(),
                    body: format!(r#"{{"value":["{}"]}}"#, "x".repeat(bytes)).into(),
                },
                asked: now,
                stored: now,
                ttl: second,
            };
            let name = Name::new("n");
            let bytes = value.write(&name).unwrap();
            backend.open(
                Endpoint::HISTORY,
                (&name, &bytes),
                now,
                (Instant::now(), Instant::now()),
            )
        };
        let small = open(300);
        assert!(matches!(small, LookupReply::Found(_)), "{small:?}");
        let large = open(100_000);
        assert!(matches!(large, LookupReply::Unavailable), "{large:?}");
        drop((waiting, held));
        let large = open(100_000);
        assert!(matches!(large, LookupReply::Found(_)), "{large:?}");
    }
}
