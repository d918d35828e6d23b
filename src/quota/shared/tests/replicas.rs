//! Replicas of one quota in virtual time, with the real script and callers who never rest.

use std::collections::{HashSet, VecDeque};
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use super::store::Store;
use crate::attempt::FlowDemand;
use crate::caller::{Name, Urgency};
use crate::quota::shared::protocol::Protocol;
use crate::quota::shared::{Config, Timing};
use crate::quota::{self, Limit, Pacing, UnknownPast};
use crate::store::Address;

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);

/// How long a call takes.
const TOOK: Duration = Duration::from_millis(350);

/// One caller at one replica, with so many requests that wait there.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    pub(super) replica: usize,
    pub(super) urgency: u8,
    pub(super) name: &'static str,
    pub(super) weight: u32,
    pub(super) waiting: usize,
    /// How long each of its requests can wait, which decides between those of one caller.
    pub(super) patience: Duration,
    /// Whether each request that is answered is followed by another.
    pub(super) goes_on: bool,
}

impl Asking {
    pub(super) fn at(replica: usize, name: &'static str) -> Self {
        Self {
            replica,
            urgency: 3,
            name,
            weight: 1,
            waiting: 1,
            patience: SECOND * 30,
            goes_on: true,
        }
    }
}

struct Replica {
    state: Protocol,
    pending_calls: VecDeque<(Instant, String)>,
    /// So many of its next calls are refused.
    refusals: usize,
    /// The step that a frozen store has not answered: when it was asked for, and the text.
    unanswered: Option<(Instant, String)>,
}

/// How long a replica waits for the answer to a step. A real one waits for less while its store was
/// fast before.
const PATIENCE: Duration = SECOND;

pub(super) struct Replicas {
    pub(super) store: Store,
    all: Vec<Replica>,
    pub(super) callers: Vec<Asking>,
    /// Calls made for each caller.
    pub(super) served: Vec<usize>,
    /// Those that are killed: they take no step.
    pub(super) dead: HashSet<usize>,
    pub(super) made: Vec<Duration>,
    pub(super) steps: usize,
    /// How far the store's clock is ahead.
    pub(super) ahead: Duration,
    /// Steps that a frozen store has not taken yet, in their order, and by whom; `None` while it
    /// answers.
    frozen: Option<Vec<(usize, String)>>,
    /// Of those that come.
    pub(super) config: quota::Config,
    sharing: Config,
    start: Instant,
    now: Instant,
}

/// The first window is the burst; no more is remembered than these limits need.
pub(super) fn config(limits: &[(u32, Duration)], pacing: Pacing) -> quota::Config {
    let limit = |&(calls, window): &(u32, Duration)| Limit::try_new(NonZeroU32::new(calls).unwrap(), window).unwrap();
    let burst = NonZeroU32::new(limits[0].0).unwrap();
    let config = quota::Config::try_new(limits.iter().map(limit).collect(), burst, SECOND * 10).unwrap();
    config.pacing(pacing).remembering(0, Duration::ZERO)
}

impl Replicas {
    /// Replicas that know each other, and an unused quota.
    pub(super) fn new(count: usize, limits: &[(u32, Duration)]) -> Self {
        Self::paced(count, limits, Pacing::Spread)
    }

    /// The same, with the longest window spread out or not.
    pub(super) fn paced(count: usize, limits: &[(u32, Duration)], pacing: Pacing) -> Self {
        Self::over(count, config(limits, pacing), None)
    }

    /// The same without pacing, but for as long as calls before their start may count.
    pub(super) fn slow_at_first(count: usize, limits: &[(u32, Duration)]) -> Self {
        let config = config(limits, Pacing::None).unknown_past(UnknownPast::Paced);
        Self::over(count, config, None)
    }

    /// Replicas each of whose steps is compared with one that does not end early.
    pub(super) fn counting_early_ends(count: usize, limits: &[(u32, Duration)], pacing: Pacing) -> Self {
        let counted = (
            "me.call = step.call\n",
            "me.call = step.call redis.call('INCR', 'early')\n",
        );
        let mut replicas = Self::over(count, config(limits, pacing), Some(counted));
        replicas.store.compare_with_whole_steps();
        replicas
    }

    /// How many steps ended early.
    pub(super) fn early_ends(&mut self) -> usize {
        self.store.ask::<Option<usize>>(&["GET", "early"]).unwrap_or(0)
    }

    /// The same, with one part of the script changed.
    pub(super) fn over(count: usize, config: quota::Config, change: Option<(&str, &str)>) -> Self {
        let address = crate::store::Config::new(Address::parse("redis://h").unwrap(), SECOND);
        let sharing = Config::new(address, Timing::new(SECOND / 4), "test", "t", "a");
        let start = Instant::now() + SECOND * 7200;
        let mut replicas = Self {
            store: Store::start(sharing.keys(), change),
            all: Vec::new(),
            callers: Vec::new(),
            served: Vec::new(),
            dead: HashSet::new(),
            made: Vec::new(),
            steps: 0,
            ahead: Duration::ZERO,
            frozen: None,
            config,
            sharing,
            start,
            now: start,
        };
        (0..count).for_each(|_| replicas.join());
        replicas.pass(SECOND * 5);
        replicas
    }

    /// A replica comes that knows nothing.
    pub(super) fn join(&mut self) {
        let name = format!("r{}", self.all.len());
        self.all.push(Replica {
            state: Protocol::new(name, &self.config, &self.sharing, self.now),
            pending_calls: VecDeque::new(),
            refusals: 0,
            unanswered: None,
        });
    }

    /// A replica is gone, and its callers with it.
    pub(super) fn kill(&mut self, n: usize) {
        self.dead.insert(n);
        let here = self.callers.iter_mut().filter(|caller| caller.replica == n);
        here.for_each(|caller| caller.waiting = 0);
    }

    /// The next calls of this replica are refused: the longest window is full.
    pub(super) fn refuse(&mut self, n: usize, calls: usize) {
        self.all[n].refusals = calls;
    }

    /// What the replicas are told of others.
    pub(super) fn estimate(&self) -> u64 {
        self.all[0].state.foreign
    }

    /// The store takes no step until it is told to [`Replicas::thaw`].
    pub(super) fn freeze(&mut self) {
        self.frozen = Some(Vec::new());
    }

    /// The store takes the steps that it was asked for meanwhile, whether or not somebody still
    /// waits for the answer.
    pub(super) fn thaw(&mut self) {
        self.store.set(self.now - self.start + self.ahead, 1);
        for (n, step) in self.frozen.take().unwrap_or_default() {
            let reply = self.store.run(&step);
            let replica = &mut self.all[n];
            if let Some((asked, _)) = replica.unanswered.take_if(|(_, text)| *text == step) {
                replica.state.on_reply(&reply, asked, self.now);
                self.use_slots(n);
            }
            self.pass_wakes_on();
        }
    }

    /// How long from now on until the next call leaves.
    pub(super) fn until_next_call(&mut self) -> Duration {
        let before = self.made.len();
        let from = self.now;
        while self.made.len() == before && self.now - from < SECOND * 60 {
            self.pass(MS * 10);
        }
        self.now - from
    }

    /// A caller comes.
    pub(super) fn ask(&mut self, caller: Asking) {
        let n = caller.replica;
        self.callers.push(caller);
        self.served.push(0);
        self.tell(n);
        self.settle_down();
    }

    /// Time passes.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle_down();
            let living = (0..self.all.len()).filter(|n| !self.dead.contains(n));
            let next = living.map(|n| self.all[n].next(self.now)).min().unwrap();
            let next = next.max(self.now + MS);
            if next > end {
                break;
            }
            self.now = next;
        }
        self.now = end;
        self.settle_down();
    }

    /// Everything that is due now.
    fn settle_down(&mut self) {
        for _ in 0..1000 {
            let mut is_quiet = true;
            for n in 0..self.all.len() {
                if self.dead.contains(&n) {
                    continue;
                }
                self.all[n].answers(self.now);
                let is_late = |(asked, _): &mut (Instant, String)| *asked + PATIENCE <= self.now;
                if self.all[n].unanswered.take_if(is_late).is_some() {
                    self.all[n].state.on_error(self.now);
                }
                if self.all[n].next_step(self.now) <= self.now {
                    is_quiet = false;
                    self.step(n);
                }
            }
            if is_quiet {
                return;
            }
        }
        panic!("the replicas take steps without an end");
    }

    fn step(&mut self, n: usize) {
        self.steps += 1;
        self.store.set(self.now - self.start + self.ahead, 1);
        let now = self.now;
        let nonce = format!("{n} {:?} {}", now - self.start, self.steps);
        let step = self.all[n].state.step(nonce, false, now).unwrap();
        if let Some(frozen) = &mut self.frozen {
            frozen.push((n, step.clone()));
            self.all[n].unanswered = Some((now, step));
            return;
        }
        let reply = self.store.run(&step);
        self.all[n].state.on_reply(&reply, now, now);
        self.use_slots(n);
        self.pass_wakes_on();
    }

    fn pass_wakes_on(&mut self) {
        let now = self.now;
        for (name, at) in self.store.wakes() {
            for (n, replica) in self.all.iter_mut().enumerate() {
                if name == "*" {
                    replica.state.wake_all(now);
                } else if name == format!("r{n}") {
                    replica.state.wake(at, now);
                }
            }
        }
    }

    fn use_slots(&mut self, n: usize) {
        let mut is_used = false;
        while let Some(slot) = self.all[n].state.take(self.now) {
            let (urgency, name) = slot.flow.as_ref().expect("the store says for whom it is");
            let caller = self.callers.iter().position(|caller| {
                caller.replica == n
                    && caller.urgency == urgency.level()
                    && caller.name == name.as_str()
                    && caller.waiting > 0
            });
            let Some(caller) = caller else {
                self.all[n].state.refund(slot, self.now);
                continue;
            };
            is_used = true;
            self.served[caller] += 1;
            self.callers[caller].waiting -= usize::from(!self.callers[caller].goes_on);
            self.made.push(self.now - self.start);
            self.all[n].pending_calls.push_back((self.now + TOOK, slot.id));
        }
        if is_used {
            self.tell(n);
        }
    }

    fn tell(&mut self, n: usize) {
        let here = self
            .callers
            .iter()
            .filter(|caller| caller.replica == n && caller.waiting > 0);
        let flows: Vec<_> = here
            .map(|caller| FlowDemand {
                urgency: Urgency::new(caller.urgency).unwrap(),
                caller: Name::new(caller.name),
                weight: caller.weight,
                waiting: caller.waiting,
                deadlines: vec![self.now + caller.patience; caller.waiting.min(16)],
                returning: 0,
                kept: 0,
                dues: VecDeque::new(),
                asks_again: true,
                position: None,
            })
            .collect();
        self.all[n].state.demand(&flows, self.now);
    }

    pub(super) fn total(&self) -> usize {
        self.served.iter().sum()
    }

    pub(super) fn of(&self, name: &str) -> usize {
        let of = self
            .callers
            .iter()
            .zip(&self.served)
            .filter(|(caller, _)| caller.name == name);
        of.map(|(_, served)| served).sum()
    }

    /// What a replica believes that others want.
    pub(super) fn others(&self, n: usize) -> Vec<FlowDemand> {
        self.all[n].state.order.others.clone()
    }

    pub(super) fn assert_never_over(&self, limits: &[(u32, Duration)]) {
        for (calls, window) in limits {
            for pair in self.made.windows(*calls as usize + 1) {
                assert!(
                    pair[*calls as usize].saturating_sub(pair[0]) >= *window,
                    "over at {:?}",
                    pair[0]
                );
            }
        }
    }
}

impl Replica {
    fn answers(&mut self, now: Instant) {
        while let Some((_, id)) = self.pending_calls.pop_front_if(|(at, _)| *at <= now) {
            if let Some(left) = self.refusals.checked_sub(1) {
                self.refusals = left;
                let hint = quota::ThrottleHint {
                    window: Some(SECOND * 60),
                    wait: Some(SECOND * 30),
                };
                self.state.throttle(id, hint, now);
            } else {
                self.state.settle(id, now);
            }
        }
    }

    fn next(&self, now: Instant) -> Instant {
        let answer = self.pending_calls.front().map(|(at, _)| *at);
        let late = self.unanswered.as_ref().map(|(asked, _)| *asked + PATIENCE);
        let next = self.next_step(now);
        answer.into_iter().chain(late).chain([next]).min().unwrap()
    }

    /// When its next step is to be taken: not before the present one is answered, or given up.
    fn next_step(&self, now: Instant) -> Instant {
        if self.unanswered.is_some() {
            return now + SECOND * 3600;
        }
        self.state.next_look(now)
    }
}
