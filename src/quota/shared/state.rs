//! What a replica knows and has yet to say, between two steps.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::clock::Clock;
use super::copy::Copy;
use super::outlook::{self, Coming};
use super::rivals::{Own, Promise, Rivals};
use super::step::{self, Reply, Step, Terms};
use super::unsaid::Unsaid;
use super::{Config, Timing};
use crate::attempt::Demand;
use crate::quota::{self, Account};
use crate::store::{Eviction, Outage};

/// Most slots that one step may ask for.
const MOST_PER_STEP: usize = 256;

/// A slot that was granted is used at once or given back: so long may it take to reach its caller.
const IN_HAND: Duration = Duration::from_millis(250);

/// What has become of calls is collected for so long before it is said.
const COLLECT: Duration = Duration::from_millis(5);

/// A first retry comes after this, each further one after twice the time, up to the heartbeat.
const FIRST_RETRY: Duration = Duration::from_millis(25);

/// No timer for a turn is shorter: what the store says is rounded.
const SHORTEST: Duration = Duration::from_millis(1);

/// A replica's side of the protocol. It has no I/O: [`State::step`] writes what to say, [`State::heard`] and [`State::failed`] take in
/// what came of it.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct State {
    terms: Arc<Terms>,
    timing: Timing,
    pub(super) copy: Copy,
    epoch: String,
    call: u64,
    next: u64,
    seq: u64,
    r#gen: u64,
    /// Our copy has yet to be brought into this epoch.
    owes_copy: bool,
    /// Granted, and not yet given to anybody: the charge, and when it must be given back.
    hand: VecDeque<(String, Instant)>,
    unsaid: Unsaid,
    /// How many slots the step under way asks for.
    asked: usize,
    want: usize,
    weight: usize,
    /// What the store believes that we still want.
    told: usize,
    /// When our turn comes, as the store said.
    due: Option<Instant>,
    /// Look at once.
    pub(super) woken: bool,
    collecting: Option<Instant>,
    pub(super) outage: Outage,
    /// Since when the store has not answered, and how often.
    lost: Option<(Instant, u32)>,
    merging: bool,
    last: Option<Instant>,
    own: Own,
    rivals: Rivals,
    /// What earlier forecasts were made with.
    foreseen: Rivals,
    pub(super) foreign: u64,
    pub(super) calls: u64,
    /// What the store does when its memory is full; `None` while it has not said.
    pub(super) eviction: Option<Eviction>,
    clock: Clock,
    doubt: Option<String>,
}

/// What a step changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Slots are in hand, or may come earlier.
    pub slots: bool,
    /// Earlier forecasts are wrong.
    pub forecast: bool,
    /// The store had lost what it knew.
    pub epoch: bool,
    /// Calls of others that a 429 revealed.
    pub foreign: u64,
}

impl State {
    /// A replica that has not heard from the store yet. `me` tells it from the others.
    #[must_use]
    pub fn new(me: String, config: &quota::Config, sharing: &Config, now: Instant) -> Self {
        let kept = config.attempt + Account::LANDING + IN_HAND;
        Self {
            terms: Arc::new(Terms::new(me, config, sharing.timing, kept)),
            timing: sharing.timing,
            copy: Copy::new(config.clone(), kept, now),
            epoch: String::new(),
            call: 0,
            next: 0,
            seq: 0,
            r#gen: 0,
            owes_copy: false,
            hand: VecDeque::new(),
            unsaid: Unsaid::default(),
            asked: 0,
            want: 0,
            weight: 1,
            told: 0,
            due: None,
            woken: true,
            collecting: None,
            outage: Outage::default(),
            lost: None,
            merging: false,
            last: None,
            own: Own::default(),
            rivals: Rivals::default(),
            foreseen: Rivals::default(),
            foreign: 0,
            calls: 0,
            eviction: None,
            clock: Clock::default(),
            doubt: None,
        }
    }

    /// The slot in hand: the name of its charge.
    pub fn take(&mut self, now: Instant) -> Option<String> {
        self.drop_old(now);
        let (id, _) = self.hand.pop_front()?;
        self.calls += 1;
        Promise::redeem(&mut self.own.promised);
        Some(id)
    }

    /// What is wanted now.
    pub fn demand(&mut self, demand: Demand<'_>, now: Instant) {
        if demand.waiting > self.want && self.told > 0 {
            // The others are told soon, before they promise the same slots.
            self.collect(now);
        }
        self.want = demand.waiting;
        self.weight = demand.callers.clamp(1, 1000);
        self.own = Own {
            promised: Promise::outline(demand.promised),
            turns_away: demand.turns_away,
        };
        if demand.waiting == 0 {
            while let Some((id, _)) = self.hand.pop_front() {
                self.refund(id, now);
            }
        }
    }

    /// The call of this charge counts as made now.
    pub fn settle(&mut self, id: String, now: Instant) {
        self.copy.settle(&id, now);
        self.unsaid.settle(id, now);
        self.collect(now);
    }

    /// The call of this charge was not made.
    pub fn refund(&mut self, id: String, now: Instant) {
        self.copy.refund(&id);
        self.unsaid.refund([id]);
        self.collect(now);
    }

    /// The call of this charge was refused with 429.
    pub fn throttle(&mut self, id: String, answer: quota::Throttled, now: Instant) {
        self.copy.settle(&id, now);
        self.unsaid.throttle(id, answer, now);
        self.woken = true;
    }

    /// Appends when the next `count` slots of this replica come.
    pub fn forecast(&self, now: Instant, count: usize, slots: &mut VecDeque<Instant>) {
        let mut coming = Coming::of(&self.copy.account(now), now);
        let (mut promised, in_hand) = (self.own.promised.clone(), self.hand.len().min(count));
        for _ in 0..in_hand {
            Promise::redeem(&mut promised);
            slots.push_back(now);
        }
        let own = (&*promised, self.weight as f64);
        outlook::share(&mut coming, own, &self.rivals, count - in_hand, slots);
    }

    /// Whether the store has never answered.
    pub(super) fn is_new(&self) -> bool {
        self.last.is_none()
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_some() || self.last.is_none()
    }

    /// The quota as this replica knows it.
    #[must_use]
    pub fn account(&self, now: Instant) -> Account {
        self.copy.account(now)
    }

    /// Whether the store has answered, and grants slots.
    pub(super) fn is_granting(&self) -> bool {
        !self.is_lost() && !self.merging
    }

    /// When the next step has to be taken.
    #[must_use]
    pub fn next_look(&self, now: Instant) -> Instant {
        if let Some((since, failures)) = self.lost {
            let pause = FIRST_RETRY * 2_u32.saturating_pow(failures.min(8));
            return since + pause.min(self.timing.heartbeat);
        }
        // While the store merges copies it grants nothing; it knows by then what we want.
        let untold = self.want > self.hand.len() && self.told == 0 && !self.merging;
        if self.woken || untold {
            return now;
        }
        let beat = self.last.map_or(now, |last| last + self.timing.heartbeat);
        let mut next = beat;
        let mut at_latest = |at: Option<Instant>| next = at.map_or(next, |at| next.min(at));
        at_latest(self.collecting.map(|since| since + COLLECT));
        at_latest(self.hand.front().map(|(_, until)| *until));
        at_latest(self.due.filter(|_| self.want > 0 || self.merging));
        // Nobody waits here any more: the turn is somebody else's.
        if self.want == 0 && self.told > 0 {
            return now;
        }
        next
    }

    /// What to say now. Call [`State::heard`] or [`State::failed`] afterwards.
    ///
    /// # Errors
    /// When it cannot be written as JSON, which nothing in it should cause.
    pub fn step(&mut self, nonce: String, leave: bool, now: Instant) -> serde_json::Result<String> {
        self.drop_old(now);
        self.woken = false;
        self.collecting = None;
        self.call += 1;
        let want = if leave {
            0
        } else {
            self.want.saturating_sub(self.hand.len())
        };
        // A store that has just failed is not asked for slots whose grant might not be heard of.
        self.asked = if self.lost.is_some() {
            0
        } else {
            want.min(MOST_PER_STEP)
        };
        let said = self.unsaid.say(now);
        let copy = if self.owes_copy { self.copy.show(now) } else { None };
        serde_json::to_string(&Step {
            terms: &self.terms,
            epoch: &self.epoch,
            nonce,
            call: self.call,
            next: self.next,
            want: self.asked,
            weight: self.weight,
            promised: self.own.promised.iter().map(|promise| promise.say(now)).collect(),
            turns_away: self.own.turns_away,
            r#gen: self.r#gen,
            seq: self.seq,
            landing: step::micros(self.copy.latency.bound()),
            settled: &said.settled,
            refunded: said.refunded,
            throttled: &said.throttled,
            copy,
            leave,
            doubt: self.doubt.as_deref(),
        })
    }

    /// The step was taken, or refused because the epoch is another one. It was asked for at `asked`.
    pub fn heard(&mut self, reply: &Reply, asked: Instant, now: Instant) -> Change {
        let first = self.next;
        self.next += self.asked as u64;
        let was_lost = self.lost.take().is_some() || self.last.is_none();
        self.last = Some(asked);
        if reply.epoch != self.epoch {
            return self.begin_epoch(reply);
        }
        if reply.stale {
            // Overtaken, or taken twice: then the first time may have granted something, and its answer is lost.
            self.give_back(first);
            self.woken = true;
            return Change::default();
        }
        self.unsaid.heard();
        self.foreign = self.foreign.saturating_add(reply.foreign);
        let theirs = reply.now.parse().ok();
        if !theirs.is_none_or(|theirs| self.clock.is_right(theirs, asked, now)) {
            // Whatever it says of times and members is wrong, and must not get into our copy.
            self.doubt = Some(self.epoch.clone());
            self.woken = true;
            self.give_back(first);
            return Change::default();
        }
        self.owes_copy = false;
        // What this step brings is told with the next one: newcomers wait for that.
        self.woken |= step::number(reply.r#gen) != self.r#gen;
        (self.seq, self.r#gen) = (step::number(reply.seq), step::number(reply.r#gen));
        let paused = self.copy.paused_until;
        self.copy.hear(reply, asked, now);
        // Whatever the store says, no more than was asked for: the names of further ones would be given twice.
        let granted = reply.granted.min(self.asked);
        for n in (first..).take(granted) {
            let id = format!("{}:{n}", self.terms.me);
            self.copy.grant(id.clone(), now);
            self.hand.push_back((id, asked + IN_HAND));
        }
        self.told = self.asked - granted;
        let merging = reply.merging.map(|left| now + step::span(left));
        self.due = reply.due.map(|due| now + step::span(due).max(SHORTEST)).or(merging);
        let merged = std::mem::replace(&mut self.merging, merging.is_some()) && merging.is_none();
        // What others use as foreseen changes no forecast; each one costs as much as many steps.
        let rivals = Rivals::read(reply, now);
        let have_promised = rivals.promised_calls() > self.rivals.promised_calls();
        self.rivals = rivals;
        let is_other = was_lost
            || merged
            || paused.is_some() != self.copy.paused_until.is_some()
            || have_promised
            || self.rivals.upset(&self.foreseen);
        if is_other {
            self.foreseen = self.rivals.clone();
        }
        Change {
            slots: is_other || granted > 0,
            forecast: is_other,
            epoch: false,
            foreign: reply.foreign,
        }
    }

    /// No answer: the step may have been taken, or may still be. Says whether the store had answered before.
    pub fn failed(&mut self, now: Instant) -> bool {
        let failures = self.lost.map_or(0, |(_, failures)| failures);
        self.lost = Some((now, failures + 1));
        let first = self.next;
        self.next += self.asked as u64;
        self.give_back(first);
        failures == 0
    }

    /// The slots that the step may have been granted are never used: it would not be known when they were granted.
    fn give_back(&mut self, first: u64) {
        let doubtful = (first..).take(std::mem::take(&mut self.asked));
        self.unsaid.refund(doubtful.map(|n| format!("{}:{n}", self.terms.me)));
        (self.told, self.due) = (0, None);
    }

    /// The store knows less than we do: our copy goes back to it.
    fn begin_epoch(&mut self, reply: &Reply) -> Change {
        let epoch = !self.epoch.is_empty();
        self.epoch.clone_from(&reply.epoch);
        (self.seq, self.r#gen) = (0, 0);
        self.owes_copy = self.copy.asked.is_some();
        (self.told, self.due, self.clock, self.doubt) = (0, None, Clock::default(), None);
        self.merging = true;
        self.woken = true;
        Change {
            slots: true,
            forecast: true,
            epoch,
            foreign: 0,
        }
    }

    fn drop_old(&mut self, now: Instant) {
        while self.hand.front().is_some_and(|(_, until)| *until <= now) {
            if let Some((id, _)) = self.hand.pop_front() {
                self.refund(id, now);
            }
        }
    }

    fn collect(&mut self, now: Instant) {
        self.collecting = self.collecting.or(Some(now));
    }
}
