//! The queue shared: waiting for a turn, and the clock that hands slots out.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::config::Config;
use super::metrics::Metrics;
use super::refused::{Reason, Refused};
use super::state::State;
use crate::attempt::Try;
use crate::caller::Name;
use crate::task::Tasks;

/// Where slots come from.
pub trait Slots: fmt::Debug + Send + Sync + 'static {
    /// A slot. Dropped unused, it goes back, and [`Slots::changed`] tells.
    type Permit: fmt::Debug + Send + 'static;

    /// Takes the slot that is free now.
    ///
    /// # Errors
    /// When there is none: the moment to ask again, or `None` when only [`Slots::changed`] can tell.
    fn take(&self, now: Instant) -> Result<Self::Permit, Option<Instant>>;

    /// Appends the starts of the next `count` slots, ascending.
    fn forecast(&self, now: Instant, count: usize, slots: &mut VecDeque<Instant>);

    /// Changes when an earlier forecast may no longer hold.
    fn version(&self) -> u64;

    /// Resolves when a slot may be free earlier than last said; a change while nobody waits is not lost.
    fn changed(&self) -> impl Future<Output = ()> + Send;

    /// Says how many requests wait, and of how many callers, whenever that may have changed.
    fn demand(&self, waiting: usize, callers: usize) {
        let _ = (waiting, callers);
    }

    /// When nobody can tell whether there are slots: how long callers should stay away.
    fn lost(&self) -> Option<Duration> {
        None
    }

    /// When a slot may come free by itself, besides what [`Slots::take`] said.
    fn next_timeout(&self) -> Option<Instant>;
}

/// A fair, bounded queue in front of `S`. Clones share it.
#[derive(Debug)]
pub struct Queue<S: Slots>(Arc<Shared<S>>);

impl<S: Slots> Clone for Queue<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Shared<S: Slots> {
    state: Mutex<State<S::Permit>>,
    slots: S,
    /// Tells the clock task that a slot is wanted earlier than it knows.
    kick: Notify,
    metrics: Metrics,
}

/// What `/status` shows.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Requests that wait.
    pub waiting: usize,
    /// Callers who have a request waiting.
    pub callers: usize,
    /// How long a caller who is new here would wait.
    pub predicted_wait: Duration,
    /// The callers seen lately, those with the most waiting requests first, then the most served.
    pub shares: Vec<CallerShare>,
}

/// One caller's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerShare {
    /// The caller.
    pub name: Name,
    /// Its requests that wait.
    pub waiting: usize,
    /// Slots it has had since it was first seen.
    pub served: u64,
}

/// A slot that comes this much after the deadline is still used: timers are not more exact than that.
const GRACE: Duration = Duration::from_millis(50);

impl<S: Slots> Queue<S> {
    /// An empty queue, with the task that hands slots out when they come.
    #[must_use]
    pub fn start(config: Config, slots: S, tasks: &Tasks, metrics: Metrics) -> Self {
        let state = Mutex::new(State::new(config));
        let queue = Self(Arc::new(Shared {
            state,
            slots,
            kick: Notify::new(),
            metrics,
        }));
        tasks.spawn_upkeep("queue clock", queue.clone().run_clock());
        queue
    }

    /// Waits for a slot, at most until the caller's deadline.
    ///
    /// # Errors
    /// [`Refused`] at once when the turn cannot come in time; later only when the upstream ordered a pause meanwhile.
    ///
    /// # Cancel safety
    /// Safe: a caller that leaves gives its place up at once, and a slot just handed to it passes on.
    pub async fn turn(&self, attempt: &Try) -> Result<S::Permit, Refused> {
        let entered = Instant::now();
        let turn = self.enter(entered, attempt).map_err(|refused| self.0.honest(refused));
        let (ticket, waiting) = turn.inspect_err(|refused| self.0.metrics.refused(refused.reason))?;
        let deadline = tokio::time::sleep_until(attempt.caller.deadline.max(entered) + GRACE);
        let turn = tokio::select! {
            biased;
            turn = waiting => turn.unwrap_or(Err(Refused { reason: Reason::Late, retry_after: Duration::ZERO })),
            () = deadline => Err(Refused { reason: Reason::Overtaken, retry_after: ticket.predicted_wait() }),
        };
        let turn = turn.map_err(|refused| self.0.honest(refused));
        match &turn {
            Ok(_) => self.0.metrics.waited(entered.elapsed()),
            Err(refused) => self.0.metrics.refused(refused.reason),
        }
        turn
    }

    /// The gateway stops at `closes`: whoever would be served later is refused now, and so is who comes from now on.
    pub fn close(&self, closes: Instant) {
        self.0.lock().close(Instant::now(), closes, &self.0.slots);
    }

    /// Spreads the cost of the slot that `attempt` was granted over all who benefit from its call.
    pub fn spread(&self, attempt: &Try) {
        let beneficiaries = attempt.load.beneficiaries();
        if beneficiaries.len() > 1 {
            self.0
                .lock()
                .spread(attempt.caller.urgency, &attempt.caller.name, &beneficiaries);
        }
    }

    /// The state for people; at most the 50 busiest callers.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        let mut state = self.0.lock();
        let predicted_wait = state.predicted_wait(now, &self.0.slots);
        let waiting = state.order.waiting_by_caller();
        let callers = waiting.len();
        let share = |(name, seen): (&Name, &super::state::Seen)| CallerShare {
            name: name.clone(),
            waiting: waiting.get(name).copied().unwrap_or(0),
            served: seen.served,
        };
        let mut shares: Vec<_> = state.callers.iter().map(share).collect();
        shares.sort_by(|a, b| (b.waiting, b.served, &a.name).cmp(&(a.waiting, a.served, &b.name)));
        shares.truncate(50);
        Snapshot {
            waiting: state.order.len(),
            callers,
            predicted_wait,
            shares,
        }
    }

    fn enter(&self, now: Instant, attempt: &Try) -> Result<(Held<S>, Waiting<S>), Refused> {
        let mut state = self.0.lock();
        let (id, waiting) = state.enter(now, attempt, &self.0.slots)?;
        let next = state.hand_out(now, &self.0.slots);
        self.0.tell(&state);
        if !state.order.is_empty() && next != state.armed {
            state.armed = next;
            self.0.kick.notify_one();
        }
        drop(state);
        Ok((
            Held {
                queue: self.clone(),
                id,
            },
            waiting,
        ))
    }

    /// Hands slots out when they come.
    async fn run_clock(self) {
        loop {
            let next = {
                let mut state = self.0.lock();
                let next = state.hand_out(Instant::now(), &self.0.slots);
                state.armed = next;
                self.0.tell(&state);
                next
            };
            let timer = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = timer => {}
                () = self.0.slots.changed() => {}
                () = self.0.kick.notified() => {}
            }
        }
    }
}

type Waiting<S> = tokio::sync::oneshot::Receiver<super::state::Turn<<S as Slots>::Permit>>;

impl<S: Slots> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, State<S::Permit>> {
        // A panic inside may lose a ticket; its caller then waits until its deadline, and no longer.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how many wait. With the state locked, so that what is told last is right.
    fn tell(&self, state: &State<S::Permit>) {
        let waiting = state.order.len();
        self.metrics.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.slots.demand(waiting, state.order.callers());
    }

    /// A refusal for want of slots, when it is not known whether there are any.
    fn honest(&self, refused: Refused) -> Refused {
        let is_want = matches!(refused.reason, Reason::Late | Reason::Promised | Reason::Overtaken);
        match self.slots.lost().filter(|_| is_want) {
            Some(retry_after) => Refused {
                reason: Reason::StoreLost,
                retry_after,
            },
            None => refused,
        }
    }
}

/// A ticket in the queue; leaves it on drop.
struct Held<S: Slots> {
    queue: Queue<S>,
    id: u64,
}

impl<S: Slots> Held<S> {
    fn predicted_wait(&self) -> Duration {
        let shared = &self.queue.0;
        shared.lock().predicted_wait(Instant::now(), &shared.slots)
    }
}

impl<S: Slots> Drop for Held<S> {
    fn drop(&mut self) {
        let mut state = self.queue.0.lock();
        state.leave(self.id);
        self.queue.0.tell(&state);
    }
}
