//! A queue and a quota for each token: the gateway's own, and those that callers brought along.
//!
//! The upstream counts by tenant and application. Whose a caller's token is cannot be known without
//! trusting it, so each has a limiter of its own, with the same limits; what it would share with
//! another token of the same application, the upstream's 429s teach.
//!
//! Invariants: there are never more than [`TokenLimiters::MAX`] limiters besides the gateway's own;
//! a limiter is forgotten only when nothing that it counted counts any more, so that forgetting
//! gives no call away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::attempt::{Admitted, Attempt, Delivery, Failure, RetryHint};
use crate::clock::Wall;
use crate::middleware::{Middleware, Next};
use crate::queue::{self, Reason, Refused};
use crate::quota;
use crate::scan::{Operation, Payer, TokenId, UpstreamResponse};
use crate::task::Tasks;

/// The settings of every limiter.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) quota: quota::Config,
    pub(super) queue: queue::Config,
}

/// All limiters. Clones share them.
#[derive(Clone, Debug)]
pub struct TokenLimiters(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// One for all operations, or one for each.
    own: Vec<Arc<Limiter>>,
    caller_token: Mutex<CallerToken>,
    /// Where all queues report: what waits and what was refused is summed up.
    metrics: queue::Metrics,
    wall: Wall,
    tasks: Tasks,
}

#[derive(Debug)]
struct CallerToken {
    /// What a new limiter is made with.
    config: Config,
    token_limiters: HashMap<(TokenId, usize), Arc<Limiter>>,
    /// The calls of limiters that have been forgotten.
    forgotten_calls: u64,
    closes: Option<Instant>,
}

/// Where calls with one token queue and are counted. Whoever is on it holds it.
#[derive(Debug)]
pub(super) struct Limiter {
    pub(super) queue: queue::Queue<quota::Quota>,
    pub(super) quota: quota::Quota,
    /// Ends the queue's clock with the limiter.
    _clock: DropGuard,
}

impl Limiter {
    /// `others` report to the same metrics.
    fn new(
        queue: queue::Config,
        quota: quota::Quota,
        metrics: queue::Metrics,
        others: usize,
        tasks: &Tasks,
    ) -> Arc<Self> {
        let queue = queue::Queue::new(queue, quota.clone(), metrics, others);
        let ended = CancellationToken::new();
        let clock = ended.clone().run_until_cancelled_owned(queue.clone().run_clock());
        tasks.spawn_upkeep("queue clock", async move {
            clock.await;
        });
        Arc::new(Self {
            queue,
            quota,
            _clock: ended.drop_guard(),
        })
    }
}

impl TokenLimiters {
    /// Most tokens of callers that calls are counted for at a time. A user's token lasts about an
    /// hour, and its limiter an hour longer; with the documented limits each takes some 100 kB at
    /// most, of which half are for the callers that its queue remembers.
    pub const MAX: usize = 64;

    /// Opens the gateway's own limiters, over its `quotas`: one for all operations, or one for
    /// each.
    pub(super) fn open(
        config: Config,
        quotas: Vec<quota::Quota>,
        wall: Wall,
        tasks: &Tasks,
        metrics: queue::Metrics,
    ) -> Self {
        debug_assert!(
            [1, Operation::ALL.len()].contains(&quotas.len()),
            "one, or one for each operation"
        );
        let others = quotas.len() - 1;
        let own = quotas
            .into_iter()
            .map(|quota| Limiter::new(config.queue.clone(), quota, metrics.clone(), others, tasks));
        Self(Arc::new(Shared {
            own: own.collect(),
            caller_token: Mutex::new(CallerToken {
                config,
                token_limiters: HashMap::new(),
                forgotten_calls: 0,
                closes: None,
            }),
            metrics,
            wall,
            tasks: tasks.clone(),
        }))
    }

    /// All limiters go on with other settings. Nothing that was counted is forgotten, and nobody
    /// who waits loses the place.
    pub(super) fn reconfigure(&self, config: Config) {
        let mut caller_token = self.caller_token();
        for limiter in caller_token.token_limiters.values().chain(&self.0.own) {
            limiter.quota.reconfigure(&config.quota);
            limiter.queue.reconfigure(config.queue.clone());
        }
        caller_token.config = config;
    }

    /// The gateway's own calls go on as another app registration, of this number.
    pub(super) fn forget_refusals(&self, registration: u64) {
        self.quotas().for_each(|quota| quota.forget_refusals(registration));
    }

    /// The gateway's own quotas: one for all operations, or one for each in their order.
    pub fn quotas(&self) -> impl ExactSizeIterator<Item = &quota::Quota> {
        self.0.own.iter().map(|limiter| &limiter.quota)
    }

    /// The queues for the gateway's own token, likewise.
    pub fn queues(&self) -> impl DoubleEndedIterator<Item = &queue::Queue<quota::Quota>> {
        self.0.own.iter().map(|limiter| &limiter.queue)
    }

    /// How many requests wait in the queues for callers' tokens.
    pub fn waiting_with_callers_tokens(&self) -> usize {
        let caller_token = self.caller_token();
        let limiters = caller_token.token_limiters.values();
        limiters.map(|limiter| limiter.queue.waiting()).sum()
    }

    /// How many calls have been let leave, with callers' tokens too.
    pub fn calls(&self) -> u64 {
        let caller_token = self.caller_token();
        let limiters = caller_token.token_limiters.values().chain(&self.0.own);
        caller_token.forgotten_calls + limiters.map(|limiter| limiter.quota.snapshot().calls).sum::<u64>()
    }

    /// Whether calls that nobody waits for may be made at that cost.
    pub fn has_surplus(&self, payer: Payer) -> bool {
        self.of(payer, |limiter| limiter.quota.has_surplus())
    }

    /// How long a caller who is new on the limiter of `payer` would wait for its slot.
    pub fn predicted_wait(&self, payer: Payer) -> Duration {
        self.of(payer, |limiter| limiter.queue.predicted_wait())
    }

    /// What `look` says of the limiter of `payer`, or the default if there is none.
    pub(super) fn of<T: Default>(&self, payer: Payer, look: impl FnOnce(&Limiter) -> T) -> T {
        self.limiter(payer).as_deref().map(look).unwrap_or_default()
    }

    /// The gateway stops at `closes`: see [`queue::Queue::close`].
    pub fn close(&self, closes: Instant) {
        self.queues().for_each(|queue| queue.close(closes));
        let mut caller_token = self.caller_token();
        caller_token.closes = Some(closes);
        for limiter in caller_token.token_limiters.values() {
            limiter.queue.close(closes);
        }
    }

    /// How many limiters there are besides the gateway's own.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.caller_token().token_limiters.len()
    }

    /// The limiter for calls that are paid for so, opened if need be.
    ///
    /// # Errors
    /// There are as many as may be, and none that may be forgotten.
    fn enter(&self, payer: Payer) -> Result<Arc<Limiter>, Refused> {
        let ledger = self.ledger(payer);
        let Some(token_id) = payer.token_id.map(|token_id| (token_id, ledger)) else {
            return Ok(Arc::clone(&self.0.own[ledger]));
        };
        let now = Instant::now();
        let mut caller_token = self.caller_token();
        if let Some(limiter) = caller_token.token_limiters.get(&token_id) {
            return Ok(Arc::clone(limiter));
        }
        caller_token.forget(now);
        if caller_token.token_limiters.len() >= Self::MAX {
            self.0.metrics.refused(Reason::Tokens);
            let retry_after = caller_token.next_end(now).saturating_duration_since(now);
            return Err(Refused::new(Reason::Tokens, retry_after));
        }
        let config = &caller_token.config;
        let quota = quota::Quota::of_caller(&config.quota, self.0.wall.clone(), token_id.0);
        let (metrics, others) = (self.0.metrics.clone(), Self::MAX - 1);
        let limiter = Limiter::new(config.queue.clone(), quota, metrics, others, &self.0.tasks);
        if let Some(closes) = caller_token.closes {
            limiter.queue.close(closes);
        }
        caller_token.token_limiters.insert(token_id, Arc::clone(&limiter));
        tracing::debug!(holder = ?token_id.0, limiters = caller_token.token_limiters.len(), "a token that is new here");
        Ok(limiter)
    }

    /// The limiter of `payer`, if there is one.
    fn limiter(&self, payer: Payer) -> Option<Arc<Limiter>> {
        let ledger = self.ledger(payer);
        match payer.token_id {
            None => Some(Arc::clone(&self.0.own[ledger])),
            Some(token_id) => self.caller_token().token_limiters.get(&(token_id, ledger)).cloned(),
        }
    }

    /// Which of a token's ledgers counts the calls of an operation.
    fn ledger(&self, payer: Payer) -> usize {
        payer.operation as usize % self.0.own.len()
    }

    fn caller_token(&self) -> MutexGuard<'_, CallerToken> {
        // Nothing in here panics halfway through a change.
        self.0.caller_token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt waits for its slot in the queue of the token that the call will be made with.
impl Middleware<Attempt, Next<Admitted<quota::Permit>>> for TokenLimiters {
    async fn call(&self, attempt: Attempt, next: &Next<Admitted<quota::Permit>>) -> Result<UpstreamResponse, Failure> {
        // Held until the answer is there: a limiter that somebody is on is not forgotten.
        let limiter = self.enter(attempt.request.payer()).map_err(|refused| Failure {
            delivery: Delivery::NoSlot,
            again: RetryHint::Never,
            answer: None,
            source: refused.into(),
        })?;
        limiter.queue.call(attempt, next).await
    }
}

impl CallerToken {
    /// Forgets the limiters that nobody is on and whose calls count no more.
    fn forget(&mut self, now: Instant) {
        self.token_limiters.retain(|_, limiter| {
            let stays = Arc::strong_count(limiter) > 1 || limiter.quota.empty_at(now) > now;
            if !stays {
                self.forgotten_calls += limiter.quota.snapshot().calls;
            }
            stays
        });
    }

    /// When a limiter may first be forgotten, if nobody asks with its token any more.
    fn next_end(&self, now: Instant) -> Instant {
        let ends = self.token_limiters.values().map(|limiter| limiter.quota.empty_at(now));
        ends.min().unwrap_or(now)
    }
}

#[cfg(test)]
mod tests;
