//! What a replica knows and has yet to say, between two steps.

mod between_steps;
mod epoch;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::epoch::Resync;
use super::clock_guard::ClockGuard;
use super::ledger_replica::LedgerReplica;
use super::messages::{self, PendingReports, Report, SyncParams, SyncReply, SyncRequest};
use super::wants::{self, Flow, Wants};
use super::{Config, Timing};
use crate::attempt::SharedOrder;
use crate::caller::{Name, Urgency};
use crate::clock::{self, earlier};
use crate::quota::{self, QuotaState};
use crate::store::{Eviction, Outage};

/// Most slots that one step may ask for.
const MOST_PER_STEP: usize = 256;

/// A slot that was granted is used at once or given back: so long may it take to reach its caller,
/// a slow store included.
const IN_HAND: Duration = Duration::from_secs(1);

/// The longest time for which a slot is kept for the replica whose turn it is, however slow the
/// store.
const LONGEST_CLAIM: Duration = Duration::from_secs(1);

/// No timer for a turn is shorter: what the store says is rounded.
const SHORTEST: Duration = Duration::from_millis(1);

/// A replica's side of the protocol. It has no I/O: [`Protocol::step`] writes what to say,
/// [`Protocol::on_reply`] and [`Protocol::on_error`] take in what came of it.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Protocol {
    pub(super) terms: Arc<SyncParams>,
    timing: Timing,
    pub(super) copy: LedgerReplica,
    epoch: String,
    /// How many epochs there were, as the store said when this one began.
    epochs: u64,
    call: u64,
    /// The latest step in this epoch that was answered.
    heard: u64,
    next: u64,
    seq: u64,
    r#gen: u64,
    resync: Resync,
    /// Granted, and not yet given to anybody, and when each must be given back.
    pub(super) granted: VecDeque<(Slot, Instant)>,
    pending_reports: PendingReports,
    /// How many slots the step under way asks for.
    asked: usize,
    want: usize,
    wants: Wants,
    /// Whether the step under way tells what waits.
    tells: bool,
    /// When our turn comes, as the store said.
    due: Option<Instant>,
    /// Look at once.
    pub(super) woken: bool,
    /// When to look because all replicas were woken.
    called: Option<Instant>,
    collecting: Option<Instant>,
    /// Since when something waits that the store need not hear of at once.
    unsettled: Option<Instant>,
    pub(super) outage: Outage,
    /// Why the latest step was not answered, for people.
    pub(super) failure: Option<String>,
    /// Since when the store has not answered, and how often.
    lost: Option<(Instant, u32)>,
    merging: bool,
    last: Option<Instant>,
    /// The order of all replicas, as the store said last.
    pub order: Arc<SharedOrder>,
    /// What earlier forecasts were made with.
    foreseen: Arc<SharedOrder>,
    pub(super) foreign: u64,
    pub(super) calls: u64,
    /// What the store does when its memory is full; `None` while it has not said.
    pub(super) eviction: Option<Eviction>,
    /// How long the store takes to answer, smoothed.
    took: Duration,
    clock: ClockGuard,
    /// How long the machine had been suspended when this was last looked at.
    suspended: Duration,
    /// The same when the step under way was said.
    said: Duration,
    /// Whose clock it is: the server's run.
    server: Option<String>,
    /// The epoch whose times cannot be right.
    doubted: Option<String>,
}

/// The right to make one call.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The name of its charge.
    pub id: String,
    /// For whom it is, as the store decided.
    pub flow: Option<(Urgency, Name)>,
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
    /// Calls of others, as estimated, when there were none before.
    pub foreign: u64,
}

impl Protocol {
    /// A replica that has not heard from the store yet. `me` tells it from the others.
    pub fn new(me: String, config: &quota::Config, sharing: &Config, now: Instant) -> Self {
        let kept = config.attempt + QuotaState::LANDING + IN_HAND;
        Self {
            terms: Arc::new(SyncParams::new(me.clone(), config, sharing.timing, kept)),
            timing: sharing.timing,
            wants: Wants::new(me.clone()),
            copy: LedgerReplica::new(me, config.clone(), kept, now),
            epoch: String::new(),
            epochs: 0,
            call: 0,
            heard: 0,
            next: 0,
            seq: 0,
            r#gen: 0,
            resync: Resync::Nothing,
            granted: VecDeque::new(),
            pending_reports: PendingReports::default(),
            asked: 0,
            want: 0,
            tells: false,
            due: None,
            woken: true,
            called: None,
            collecting: None,
            unsettled: None,
            outage: Outage::default(),
            failure: None,
            lost: None,
            merging: false,
            last: None,
            order: Arc::default(),
            foreseen: Arc::default(),
            foreign: 0,
            calls: 0,
            eviction: None,
            took: Duration::ZERO,
            clock: ClockGuard::default(),
            suspended: clock::suspended(),
            said: clock::suspended(),
            server: None,
            doubted: None,
        }
    }

    /// What to say now. Call [`Protocol::on_reply`] or [`Protocol::on_error`] afterwards.
    ///
    /// # Errors
    /// When it cannot be written as JSON, which nothing in it should cause.
    pub fn step(&mut self, nonce: String, leave: bool, now: Instant) -> serde_json::Result<String> {
        self.drop_old(now);
        self.said = self.suspended;
        self.woken = false;
        self.called = None;
        self.collecting = None;
        self.unsettled = None;
        self.call += 1;
        let want = if leave {
            0
        } else {
            self.want.saturating_sub(self.granted.len())
        };
        // A store that has just failed is not asked for slots whose grant might not be heard of.
        self.asked = if self.lost.is_some() {
            0
        } else {
            want.min(MOST_PER_STEP)
        };
        let reports = self.pending_reports.say(now);
        let own = format!("{}:", self.terms.me);
        let mut copy = match self.resync {
            Resync::Nothing => None,
            Resync::Own => self.copy.show(Some(&own), now),
            Resync::All => self.copy.show(None, now),
        };
        if let Some(copy) = &mut copy {
            // The store may have put back already what it is told of now.
            copy.level += reports.refunded.len() as f64;
        }
        if leave {
            self.wants = Wants::new(self.terms.me.clone());
        }
        let in_hand = self.granted.iter().filter_map(|(slot, _)| slot.flow.as_ref());
        let flows = self.wants.tell(in_hand, now);
        self.tells = flows.is_some();
        serde_json::to_string(&SyncRequest {
            terms: &self.terms,
            epoch: &self.epoch,
            epochs: self.epochs,
            nonce,
            call: self.call,
            heard: self.heard,
            next: self.next,
            want: self.asked,
            wants: self.wants.any(),
            flows: flows.as_deref(),
            r#gen: self.r#gen,
            seq: self.seq,
            landing: messages::micros(self.copy.landing()),
            claim: messages::micros((self.took * 4).max(self.timing.claim).min(LONGEST_CLAIM)),
            reports,
            copy,
            leave,
            doubt: self.doubted.as_deref(),
        })
    }

    /// The step was taken, or refused because the epoch is another one. It was asked for at
    /// `asked`.
    pub fn on_reply(&mut self, reply: &SyncReply, asked: Instant, now: Instant) -> Change {
        self.took = self.took / 8 * 7 + now.saturating_duration_since(asked) / 8;
        self.wake_up();
        // Whoever has looked since, a slot granted before the machine was suspended is as old.
        let asked = earlier(asked, self.suspended.saturating_sub(self.said));
        let first = self.next;
        self.next += self.asked as u64;
        let was_lost = self.lost.take().is_some() || self.last.is_none();
        self.last = Some(asked);
        if reply.epoch != self.epoch {
            return self.begin_epoch(reply, asked, now);
        }
        if reply.stale {
            // Overtaken, or taken twice: then the first time may have granted something, and its
            // answer is lost.
            self.wants.forget_declared();
            self.give_up(first);
            self.woken = true;
            return Change::default();
        }
        self.heard = self.call;
        self.pending_reports.on_reply();
        let found = if self.foreign == 0 { reply.foreign } else { 0 };
        self.foreign = reply.foreign;
        if !self.is_clock_right(reply, asked, now) {
            // Whatever it says of times and members is wrong, and must not get into our copy.
            self.doubted = Some(self.epoch.clone());
            self.woken = true;
            self.give_up(first);
            return Change::default();
        }
        self.resync = if reply.bring { Resync::All } else { Resync::Nothing };
        self.woken |= reply.bring;
        if let Some(left) = reply.merging {
            // Nothing of what it says is whole yet.
            let was_known = self.due.replace(now + messages::span(left)).is_some();
            self.merging = true;
            self.wants.forget_declared();
            return Change {
                forecast: !was_known,
                foreign: reply.foreign,
                ..Change::default()
            };
        }
        let mut change = self.take_in(reply, first, (asked, now));
        change.foreign = found;
        change.forecast |= was_lost;
        if change.forecast {
            change.slots = true;
            self.foreseen = Arc::clone(&self.order);
        }
        change
    }

    /// Takes in what is granted and what has changed. The forecasts are wrong when others want
    /// something else than the latest were made with.
    fn take_in(&mut self, reply: &SyncReply, first: u64, (asked, now): (Instant, Instant)) -> Change {
        // What this step brings is told with the next one: newcomers wait for that.
        let has_joined = reply.members.is_some() || !reply.joined.is_empty();
        (self.seq, self.r#gen) = (messages::number(reply.seq), messages::number(reply.r#gen));
        let paused = self.copy.paused_until;
        self.copy.hear(reply, asked, now);
        if has_joined {
            self.wake_all(now);
        }
        let granted = self.grant(reply, first, (asked, now));
        if reply.again {
            self.wants.tell_again();
            // A newcomer that has told it waits until it is called.
            self.woken |= !self.tells;
        }
        self.due = reply.due.map(|due| now + messages::span(due).max(SHORTEST));
        let merged = std::mem::take(&mut self.merging);
        // What others use as foreseen changes no forecast; each one costs as much as many steps.
        let order = self.wants.order(reply, &self.order, now);
        let moved = order != *self.order;
        if moved {
            self.order = Arc::new(order);
        }
        Change {
            slots: moved || granted > 0,
            forecast: merged
                || paused.is_some() != self.copy.paused_until.is_some()
                || wants::has_changed(&self.foreseen.others, &self.order.others),
            ..Change::default()
        }
    }

    /// Takes what was granted in hand.
    fn grant(&mut self, reply: &SyncReply, first: u64, (asked, now): (Instant, Instant)) -> usize {
        // Whatever the store says, no more than was asked for: the names of further ones would be
        // given twice.
        let granted = reply.granted.len().min(self.asked);
        for (n, flow) in (first..).zip(&reply.granted).take(granted) {
            let id = format!("{}:{n}", self.terms.me);
            self.copy.grant(id.clone(), now);
            let flow: Option<Flow> = self.wants.grant(flow);
            self.granted.push_back((Slot { id, flow }, asked + IN_HAND));
        }
        granted
    }

    /// No answer: the step may have been taken, or may still be. Says whether the store had
    /// answered before.
    pub fn on_error(&mut self, now: Instant) -> bool {
        let failures = self.lost.map_or(0, |(_, failures)| failures);
        self.lost = Some((now, failures + 1));
        let first = self.next;
        self.next += self.asked as u64;
        self.give_up(first);
        self.wants.forget_declared();
        failures == 0
    }

    /// The slots that the step may have been granted are never used: it would not be known when
    /// they were granted.
    fn give_up(&mut self, first: u64) {
        for n in (first..).take(std::mem::take(&mut self.asked)) {
            self.pending_reports
                .add(format!("{}:{n}", self.terms.me), Report::Refunded(None));
        }
        self.due = None;
    }
}
