//! The queue's state, behind one lock: tickets in, permits out.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::config::Config;
use super::line::Slots;
use super::order::{Order, Ticket};
use super::promise::Promises;
use super::refused::{Reason, Refused};
use super::visitor::{LATELY, Visitors};
use crate::attempt::{Demand, Try};
use crate::caller::{Caller, Name, Urgency};

/// What a waiting request receives.
pub(super) type Turn<P> = Result<P, Refused>;

/// Most slots kept free for others: enough for the busiest share, and a bound on how far a forecast looks.
const MOST_RESERVED: usize = 64;

/// A slot that comes this much after the deadline is still used: answers are never as punctual as a forecast, and who has waited half a
/// minute is better served with a moment of delay than with a refusal.
pub(super) const TOLERANCE: Duration = Duration::from_secs(1);

/// A slot handed out this much later than forecast came on time.
const PUNCTUAL: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) struct State<P> {
    pub(super) config: Config,
    pub(super) order: Order,
    promises: Promises,
    waiters: HashMap<u64, oneshot::Sender<Turn<P>>>,
    /// When the next slots come, as of `forecast_of`.
    pub(super) slots: VecDeque<Instant>,
    forecast_of: Option<u64>,
    /// Whether every ticket is known to be in time by `slots`.
    checked: bool,
    pub(super) visitors: Visitors,
    tickets: u64,
    /// Whether somebody was refused for want of slots since nobody waited last.
    turns_away: bool,
    /// When the clock task will next look by itself.
    pub(super) armed: Option<Instant>,
    /// No slot is of use from then on.
    closes: Option<Instant>,
}

/// A ticket just taken.
#[derive(Debug)]
pub(super) struct Entered<P> {
    pub(super) id: u64,
    /// When its slot comes, if nobody comes or leaves before.
    pub(super) start: Instant,
    pub(super) turn: oneshot::Receiver<Turn<P>>,
}

impl<P> State<P> {
    pub(super) fn new(config: Config) -> Self {
        Self {
            order: Order::new(config.weights.clone()),
            config,
            promises: Promises::default(),
            waiters: HashMap::new(),
            slots: VecDeque::new(),
            forecast_of: None,
            checked: true,
            visitors: Visitors::default(),
            tickets: 0,
            turns_away: false,
            armed: None,
            closes: None,
        }
    }

    pub(super) fn reconfigure(&mut self, config: Config) {
        self.order.reweigh(config.weights.clone());
        self.config = config;
    }

    /// A slot that is free now, when nobody waits for it: what [`State::enter`] and [`State::hand_out`] would come to, without a forecast.
    pub(super) fn pass<S>(&mut self, now: Instant, caller: &Caller, slots: &S) -> Option<P>
    where
        S: Slots<Permit = P>,
    {
        let takes_nobody = self.config.max_requests == 0 || self.config.max_requests_per_caller == 0;
        if !self.order.is_empty() || takes_nobody || self.closes.is_some() {
            return None;
        }
        let permit = slots.take(now).ok()?;
        self.visitors.visit(&caller.name, now);
        self.order.pass(&caller.name, caller.urgency);
        self.handed_out(&caller.name, now);
        Some(permit)
    }

    /// Takes a ticket, or refuses at once.
    pub(super) fn enter<S>(&mut self, now: Instant, attempt: &Try, slots: &S) -> Result<Entered<P>, Refused>
    where
        S: Slots<Permit = P>,
    {
        let caller = &attempt.caller;
        // Reading the request took a moment: a slot that is free now is in time even for who will not wait at all.
        let deadline = caller.deadline.max(now);
        let own = self.order.waiting_of(&caller.name);
        let others = self.visitors.visit(&caller.name, now);
        self.look_ahead(now, self.order.len() + 1 + MOST_RESERVED, slots);
        let reserve = self.reserve(
            deadline,
            if own == 0 {
                0
            } else {
                others.max(1).saturating_add(slots.rivals())
            },
        );
        self.turns_away &= !self.order.is_empty();
        if self.order.len() >= self.config.max_requests {
            return Err(self.refuse(Reason::Full, caller, reserve, now));
        }
        if own >= self.config.max_requests_per_caller {
            return Err(self.refuse(Reason::CallerFull, caller, reserve, now));
        }
        // A place below 2^48 and a count of tickets: unique, and in order of first arrival even when a request queues again.
        let id = (attempt.place.order() << 16) | (self.tickets & 0xffff);
        self.tickets += 1;
        let ticket = Ticket {
            id,
            caller: caller.name.clone(),
            urgency: caller.urgency,
            deadline,
        };
        self.order.add(ticket);
        let rank = self.order.ahead_of(id).unwrap_or(0);
        if self
            .closes
            .is_some_and(|closes| self.slots.get(rank).is_none_or(|start| *start > closes))
        {
            self.order.remove(id);
            return Err(self.refuse(Reason::ShuttingDown, caller, reserve, now));
        }
        if let Err(reason) = self.admit(rank, deadline, reserve) {
            self.order.remove(id);
            self.turns_away = !self.order.is_empty();
            return Err(self.refuse(reason, caller, reserve, now));
        }
        // The fair turn, or the end of those who cannot be passed over.
        let rank = rank.max(self.promises.served_first(deadline, &self.slots));
        self.promises.add(deadline, id);
        let start = self.slots.get(rank).copied().unwrap_or(deadline);
        let (sender, turn) = oneshot::channel();
        self.waiters.insert(id, sender);
        Ok(Entered { id, start, turn })
    }

    /// How many slots are left for `others`: at most half of those before the deadline.
    fn reserve(&self, deadline: Instant, others: usize) -> usize {
        let in_time = self.slots.partition_point(|slot| *slot <= deadline);
        others.min(in_time / 2).min(MOST_RESERVED)
    }

    /// Whether the ticket at `rank` can be promised its deadline, leaving `reserve` slots for others.
    fn admit(&self, rank: usize, deadline: Instant, reserve: usize) -> Result<(), Reason> {
        if self.slots.get(rank).is_none_or(|start| *start > deadline) {
            return Err(Reason::Late);
        }
        if self.promises.can_add(deadline, reserve, &self.slots) {
            Ok(())
        } else {
            Err(Reason::Promised)
        }
    }

    /// Hands free slots to whoever's turn it is; says when to look again.
    pub(super) fn hand_out<S>(&mut self, now: Instant, slots: &S) -> Option<Instant>
    where
        S: Slots<Permit = P>,
    {
        let mut in_hand = None;
        while let Some(fair) = self.order.next().map(|ticket| (ticket.deadline, ticket.id)) {
            self.look_ahead(now, self.order.len(), slots);
            let permit = match in_hand.take().map_or_else(|| slots.take(now), Ok) {
                Ok(permit) => permit,
                Err(at) => {
                    self.give_up_the_impossible(now);
                    return at.into_iter().chain(slots.next_timeout()).min();
                }
            };
            let id = self.promises.choose(fair, &self.slots);
            let (Some(ticket), Some(turn)) = (self.order.serve(id), self.waiters.remove(&id)) else {
                continue;
            };
            self.promises.remove(ticket.deadline, id);
            match turn.send(Ok(permit)) {
                Ok(()) => self.handed_out(&ticket.caller, now),
                // The caller has just left: the slot passes on.
                Err(returned) => in_hand = returned.ok(),
            }
        }
        None
    }

    /// A slot has gone to this caller.
    fn handed_out(&mut self, caller: &Name, now: Instant) {
        self.visitors.served(caller);
        if self.slots.pop_front().is_none_or(|first| first > now) {
            // The slot came before its time: so may the next ones.
            self.forecast_of = None;
        }
    }

    /// No slot is of use after `closes`: whoever would have to wait longer is told now.
    pub(super) fn close<S: Slots<Permit = P>>(&mut self, now: Instant, closes: Instant, slots: &S) {
        self.closes = Some(closes);
        self.look_ahead(now, self.order.len() + 1, slots);
        let late = |id: &u64| {
            let start = self.order.ahead_of(*id).and_then(|rank| self.slots.get(rank));
            start.is_none_or(|start| *start > closes)
        };
        let gone: Vec<u64> = self.waiters.keys().copied().filter(late).collect();
        for id in gone {
            if let Some(turn) = self.waiters.remove(&id) {
                // Nobody listens any more: then nobody needs to know.
                let _ = turn.send(Err(Refused {
                    reason: Reason::ShuttingDown,
                    retry_after: Duration::from_secs(1),
                }));
            }
            self.leave(id);
        }
    }

    /// What is wanted now.
    pub(super) fn demand(&self) -> Demand<'_> {
        Demand {
            waiting: self.order.len(),
            callers: self.order.callers(),
            promised: self.promises.deadlines(),
            turns_away: self.turns_away && !self.order.is_empty(),
            flows: None,
        }
    }

    /// The request is gone, served or not.
    pub(super) fn leave(&mut self, id: u64) {
        self.waiters.remove(&id);
        if let Some(ticket) = self.order.remove(id) {
            self.promises.remove(ticket.deadline, id);
        }
    }

    /// How long a caller who is new here would wait: everybody who waits is served once before.
    pub(super) fn predicted_wait<S: Slots<Permit = P>>(&mut self, now: Instant, slots: &S) -> Duration {
        let rank = self.order.callers();
        self.look_ahead(now, rank + 1, slots);
        self.slots
            .get(rank)
            .map_or(Duration::ZERO, |start| start.saturating_duration_since(now))
    }

    /// The slot cost is shared by all who benefit from the call.
    pub(super) fn spread(&mut self, urgency: Urgency, payer: &Name, beneficiaries: &[Name]) {
        self.order.spread(urgency, payer, beneficiaries);
    }

    /// Who comes back when told, with the same wait, and finds nobody new, is let in.
    fn refuse(&mut self, reason: Reason, caller: &Caller, reserve: usize, now: Instant) -> Refused {
        // The wait may hold one slot more then, and half of it is kept.
        let reserve = if reserve == 0 {
            0
        } else {
            (reserve + 1).min(MOST_RESERVED)
        };
        let at = self.come_back_at(caller, reserve, now).or(self.slots.back().copied());
        Refused {
            reason,
            retry_after: at.map_or(LATELY, |at| at.saturating_duration_since(now)),
        }
    }

    /// Not before the turn of a request that lets its caller's others go first; and when everybody who waits now may go first, with
    /// `reserve` slots to spare, and there is room. For who does not wait at all that is the moment at which nobody waits any more.
    fn come_back_at(&mut self, caller: &Caller, reserve: usize, now: Instant) -> Option<Instant> {
        let last = now + LATELY * 1000;
        let ahead = self.order.ahead_of_newcomer(&caller.name, caller.urgency, last);
        let turn = *self.slots.get(ahead)?;
        let wait = caller.deadline.saturating_duration_since(now);
        let after_all = self
            .slots
            .get(self.order.len() + reserve)?
            .checked_sub(wait)
            .unwrap_or(now);
        let in_all = self.order.len().checked_sub(self.config.max_requests);
        let own = self.order.waiting_of(&caller.name) >= self.config.max_requests_per_caller;
        let own = own
            .then(|| self.order.turns_of(&caller.name))
            .flatten()
            .map(|(first, _)| first);
        let room = in_all
            .max(own)
            .map_or(Some(now), |served| self.slots.get(served).copied())?;
        Some(turn.max(after_all).max(room))
    }

    /// Forecasts at least `count` slots, unless the last forecast still holds.
    pub(super) fn look_ahead<S: Slots<Permit = P>>(&mut self, now: Instant, count: usize, slots: &S) {
        let version = slots.version();
        // A first slot in the past was not used: the bucket has grown since. Timers are late by a moment.
        let holds = self.forecast_of == Some(version)
            && self
                .slots
                .front()
                .is_some_and(|first| now.saturating_duration_since(*first) <= PUNCTUAL);
        if !holds || self.slots.len() < count {
            self.slots.clear();
            // Some more, so that not every slot handed out asks for another forecast.
            slots.forecast(now, count + count / 4, &mut self.slots);
            self.forecast_of = Some(version);
            self.checked = false;
        }
    }

    /// Slots that come later than forecast (the upstream ordered a pause) break promises: say so at once, to as few as possible.
    fn give_up_the_impossible(&mut self, now: Instant) {
        // Who was let in was in time by the same forecast, and serving keeps it so.
        if std::mem::replace(&mut self.checked, true) {
            return;
        }
        for id in self.promises.impossible(&self.slots, TOLERANCE) {
            let after_all = self.slots.get(self.order.len()).or(self.slots.back());
            let retry_after = after_all.map_or(LATELY, |slot| slot.saturating_duration_since(now));
            if let Some(turn) = self.waiters.remove(&id) {
                // Nobody listens any more: then nobody needs to know.
                let _ = turn.send(Err(Refused {
                    reason: Reason::Overtaken,
                    retry_after,
                }));
            }
            self.leave(id);
        }
    }
}
