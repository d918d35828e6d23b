//! The queue's state, behind one lock: tickets in, permits out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::expectation::{Arrival, Expectations};
use super::fair_scheduler::{Ahead, FairScheduler, ServicePosition, Ticket};
use super::refused::{MOMENT, Reason, Refused, Request};
use super::snapshot::RecentCallers;
use super::take_back::{Check, Delay, STEPS_PER_ARRIVAL};
use super::turn_forecast::SlotForecast;
use super::{Config, PermitSource};
use crate::attempt::{Asked, Attempt, FlowDemand, SharedOrder};
use crate::caller::{Caller, Name, Urgency};

/// What a waiting request receives.
pub(super) type Grant<P> = Result<P, Refused>;

/// Slots that are forecast besides one for everybody who waits.
pub(super) const BESIDES: usize = 128;

/// A slot that comes this much after the deadline is still used: answers are never as punctual as a
/// forecast, and who has waited half a minute is better served with a moment of delay than with a
/// refusal.
pub(super) const TOLERANCE: Duration = Duration::from_secs(1);

/// Requests of the same caller that a newcomer must not delay past their deadlines: so many are
/// looked at.
const OWN_LOOKED_AT: usize = 32;

#[derive(Debug)]
pub(super) struct State<P> {
    pub(super) config: Config,
    pub(super) order: FairScheduler,
    pub(super) waiters: HashMap<u64, Waiter<P>>,
    pub(super) forecast: SlotForecast,
    /// The order of all queues, as it was taken over last, if there is one.
    shared: Option<Arc<SharedOrder>>,
    /// The number of the last that is known to have come to another queue.
    back: u64,
    pub(super) recent: RecentCallers,
    pub(super) expectations: Expectations,
    tickets: u64,
    /// Slots handed out since the start.
    pub(super) served: u64,
    pub(super) check: Check,
    /// When the clock task will next look by itself.
    pub(super) armed: Option<Instant>,
    /// No slot is of use from then on.
    pub(super) closes: Option<Instant>,
}

/// Who waits with a ticket.
#[derive(Debug)]
pub(super) struct Waiter<P> {
    turn: oneshot::Sender<Grant<P>>,
    /// How long it said that it may wait.
    pub(super) allowed: Duration,
    /// The number of the slot that was foretold when it came, counted as [`State::served`] is.
    pub(super) foretold: u64,
}

/// A ticket just taken.
#[derive(Debug)]
pub(super) struct Entered<P> {
    pub(super) id: u64,
    /// The latest start.
    pub(super) deadline: Instant,
    /// When its slot comes, if nobody comes or leaves before.
    pub(super) start: Instant,
    pub(super) turn: oneshot::Receiver<Grant<P>>,
}

impl<P> State<P> {
    /// Nobody waits. What is remembered of callers is bounded together with so many other queues.
    pub(super) fn new(config: Config, others: usize) -> Self {
        Self {
            order: FairScheduler::new(config.weights.clone()),
            config,
            waiters: HashMap::new(),
            forecast: SlotForecast::default(),
            shared: None,
            back: 0,
            recent: RecentCallers::beside(others),
            expectations: Expectations::beside(others),
            tickets: 0,
            served: 0,
            check: Check::IDLE,
            armed: None,
            closes: None,
        }
    }

    pub(super) fn reconfigure(&mut self, config: Config) {
        self.order.reweigh(config.weights.clone());
        self.config = config;
    }

    /// A slot that is free now, when nobody waits for it: what [`State::enter`] and
    /// [`State::hand_out`] would come to, without a forecast.
    pub(super) fn try_fast_path<S>(&mut self, now: Instant, attempt: &Attempt, source: &S) -> Option<P>
    where
        S: PermitSource<Permit = P>,
    {
        if !self.order.is_empty() || self.closes.is_some() {
            return None;
        }
        let permit = source.take(now).ok()?;
        let (name, urgency) = (&attempt.caller.name, attempt.caller.urgency);
        let arrival = self.arrive(attempt, now);
        self.order.pass(name, urgency);
        self.expectations
            .let_in((name, urgency), arrival, now, now, &mut self.order);
        self.on_granted(name, urgency, now);
        Some(permit)
    }

    /// A request comes, or asks once more.
    fn arrive(&mut self, attempt: &Attempt, now: Instant) -> Arrival {
        let (name, urgency) = (&attempt.caller.name, attempt.caller.urgency);
        let asked = attempt.position.asked();
        if asked != Asked::Never {
            return self
                .expectations
                .ask_again((name, urgency), asked, now, &mut self.order);
        }
        self.recent.visit(name);
        self.expectations.arrive(name, urgency, now, &mut self.order)
    }

    /// Takes a ticket, or refuses at once.
    pub(super) fn enter<S>(&mut self, now: Instant, attempt: &Attempt, source: &S) -> Result<Entered<P>, Refused>
    where
        S: PermitSource<Permit = P>,
    {
        let caller = &attempt.caller;
        let (name, urgency) = (&caller.name, caller.urgency);
        // Reading the request took a moment: a slot that is free now is in time even for who will
        // not wait at all.
        let mut deadline = caller.deadline.max(now);
        let arrival = self.arrive(attempt, now);
        // Who was told to come now has a moment in any case.
        let is_due = self.expectations.is_due(name, urgency, arrival, now);
        self.look_ahead(now, self.order.len() + 1 + BESIDES, source);
        if is_due || self.order.is_due_elsewhere(name, urgency, self.others(), now) {
            deadline = deadline.max(now + MOMENT);
        }
        // A place below 2^48 and a count of tickets: unique, and in order of first arrival even
        // when a request queues again.
        let id = (attempt.position.order() << 16) | (self.tickets & 0xffff);
        self.tickets += 1;
        let own_returns = self.expectations.returns_before(name, urgency, arrival);
        let place = self
            .order
            .position_for(name, urgency, Some((deadline, id)), own_returns);
        let (ahead, start) = self.turn_until(&place, deadline, now);
        let delays_own = start <= deadline && self.delays_own(&place, OWN_LOOKED_AT, now);
        let admitted = self.admit(&place, (ahead, start), deadline, now);
        let admitted = admitted.and(if delays_own { Err(Reason::Late) } else { Ok(()) });
        if let Err(reason) = admitted {
            let request = Request {
                name,
                urgency,
                allowed: allowed(caller, now),
            };
            return Err(self.refuse(reason, request, arrival, now));
        }
        let ticket = Ticket {
            id,
            caller: name.clone(),
            urgency,
            deadline,
        };
        let turn = self.add(ticket, &place, ahead, allowed(caller, now), now);
        // Only now: the turn that was kept for it is kept as long as it is expected.
        self.expectations
            .let_in((name, urgency), arrival, deadline, now, &mut self.order);
        Ok(Entered {
            id,
            deadline,
            start,
            turn,
        })
    }

    /// Whether all that wait in this queue go before a request that has these ahead of it.
    fn is_last_here(&self, place: &ServicePosition, ahead: Ahead) -> bool {
        let waiting = self.order.len();
        ahead.waiting >= waiting && (self.others().is_empty() || self.order.ahead_at(place) >= waiting)
    }

    /// Adds a ticket that has these ahead of it.
    fn add(
        &mut self,
        ticket: Ticket,
        place: &ServicePosition,
        ahead: Ahead,
        allowed: Duration,
        now: Instant,
    ) -> oneshot::Receiver<Grant<P>> {
        let (id, deadline) = (ticket.id, ticket.deadline);
        let delay = if self.is_last_here(place, ahead) {
            Delay::None
        } else if self.order.delays_by_one(place) {
            Delay::One
        } else {
            Delay::Unknown
        };
        if self.order.len() >= self.config.max_requests
            && let Some(last) = self.order.last()
        {
            self.take_back(last, Reason::Displaced, None, now);
        }
        let others = self.shared.as_ref().map_or(&[][..], |shared| &shared.others);
        self.order.add_at(place, ticket, others);
        let latest = self.closes.map_or(deadline, |closes| closes.min(deadline));
        let in_time = self.forecast.until(latest).saturating_sub(ahead.rank() + 1);
        self.check.came(delay, in_time, self.order.loops(), now);
        self.check.budget = (self.check.budget + STEPS_PER_ARRIVAL).min(2 * self.order.len() + STEPS_PER_ARRIVAL);
        let (sender, turn) = oneshot::channel();
        let foretold = self.served.saturating_add(ahead.rank() as u64);
        let waiter = Waiter {
            turn: sender,
            allowed,
            foretold,
        };
        self.waiters.insert(id, waiter);
        turn
    }

    /// Whether a request may wait that has these ahead of it.
    fn admit(
        &self,
        place: &ServicePosition,
        (ahead, start): (Ahead, Instant),
        deadline: Instant,
        now: Instant,
    ) -> Result<(), Reason> {
        let (waiting, config) = (self.order.len(), &self.config);
        // Who goes before somebody who waits takes the place of the last.
        if waiting >= config.max_requests && self.is_last_here(place, ahead) {
            return Err(Reason::Full);
        }
        if self.order.waiting_of(place.caller()) >= config.max_requests_per_caller {
            return Err(Reason::CallerFull);
        }
        if self.closes.is_some_and(|closes| start > closes) {
            return Err(Reason::ShuttingDown);
        }
        if start <= deadline {
            return Ok(());
        }
        if self.forecast.start(ahead.waiting, now) > deadline {
            return Err(Reason::Late);
        }
        Err(Reason::Promised)
    }

    /// Hands free slots to whoever's turn it is; says when to look again.
    pub(super) fn hand_out<S>(&mut self, now: Instant, source: &S) -> Option<Instant>
    where
        S: PermitSource<Permit = P>,
    {
        while let Some(next) = self.order.next().map(|ticket| (ticket.deadline, ticket.id)) {
            // Whatever was forecast: what comes from now on would be cut off.
            if self.closes.is_some_and(|closes| closes <= now) {
                self.tell(next.1, Refused::shutting_down(), now);
                continue;
            }
            self.look_ahead(now, self.order.len() + 1, source);
            if next.0 + TOLERANCE < now {
                let reason = self.why_late(next.1, 0);
                self.take_back(next.1, reason, None, now);
                continue;
            }
            let permit = match source.take(now) {
                Ok(permit) => permit,
                Err(at) => {
                    let again = self.take_back_late(now);
                    let latest = again.into_iter().chain(self.closes);
                    return at.into_iter().chain(source.next_timeout()).chain(latest).min();
                }
            };
            let granted = source.granted_to(&permit);
            let granted = granted.and_then(|(urgency, name)| self.order.next_of(&name, urgency));
            let id = granted.as_ref().map_or(next.1, |ticket| ticket.id);
            // Where the turn was decided elsewhere, its cost is counted there: a caller must not
            // seem to be ahead because it is served here while others are served elsewhere.
            let taken = if granted.is_some() {
                self.order.remove(id)
            } else {
                self.order.serve(id)
            };
            let (Some(ticket), Some(waiter)) = (taken, self.waiters.remove(&id)) else {
                continue;
            };
            // It is there: who leaves takes its waiter along.
            if waiter.turn.send(Ok(permit)).is_ok() {
                self.on_granted(&ticket.caller, ticket.urgency, now);
            }
        }
        self.check = Check::IDLE;
        None
    }

    /// A slot has gone to this caller.
    fn on_granted(&mut self, caller: &Name, urgency: Urgency, now: Instant) {
        self.served += 1;
        self.recent.served(caller);
        self.expectations.granted(caller, urgency, now, &mut self.order);
        self.forecast.on_granted(now);
    }

    /// No slot is of use after `closes`: whoever would have to wait longer is told now, and whose
    /// turn comes to lie later, then.
    pub(super) fn close<S: PermitSource<Permit = P>>(&mut self, now: Instant, closes: Instant, source: &S) {
        self.closes = Some(closes);
        self.look_ahead(now, self.order.len() + 1, source);
        self.tell_late(now);
    }

    /// The request is gone, served or not.
    pub(super) fn leave(&mut self, id: u64, now: Instant) {
        let waited = self.waiters.remove(&id).is_some();
        if let Some(ticket) = self.order.remove(id) {
            let (name, urgency, order) = (&ticket.caller, ticket.urgency, &mut self.order);
            if waited {
                self.expectations.left(name, urgency, now, order);
            } else {
                self.expectations.sent_away(name, urgency, now, order);
            }
        }
    }

    /// The slot cost is shared by all who benefit from the call.
    pub(super) fn split_cost(&mut self, urgency: Urgency, payer: &Name, cost_sharers: &[Name], now: Instant) {
        self.check.order_changed(now);
        self.order.split_cost(urgency, payer, cost_sharers);
    }

    /// Takes over what is known of all queues, if there is news.
    pub(super) fn adopt<S: PermitSource<Permit = P>>(&mut self, now: Instant, source: &S) {
        let shared = source.shared_order();
        if let Some(shared) = shared.filter(|new| self.shared.as_ref().is_none_or(|known| !Arc::ptr_eq(known, new))) {
            for (number, urgency, name) in &shared.back {
                if *number > self.back {
                    self.back = *number;
                    self.expectations.back_elsewhere(name, *urgency, now, &mut self.order);
                }
            }
            self.order.adopt(&shared);
            self.shared = Some(shared);
            // Slots that were used elsewhere may have been forecast.
            self.forecast.invalidate();
            self.check.order_changed(now);
        }
    }

    /// Forecasts at least `count` slots, unless the last forecast still holds.
    pub(super) fn look_ahead<S: PermitSource<Permit = P>>(&mut self, now: Instant, count: usize, source: &S) {
        self.adopt(now, source);
        if self.forecast.look_ahead(now, count, source) {
            self.check.drifted = true;
        }
    }

    /// What is wanted of the same slots at other queues.
    pub(super) fn others(&self) -> &[FlowDemand] {
        self.shared.as_ref().map_or(&[], |shared| &shared.others)
    }

    pub(super) fn tell(&mut self, id: u64, refused: Refused, now: Instant) {
        if let Some(waiter) = self.waiters.remove(&id) {
            // Nobody listens any more: then nobody needs to know.
            let _ = waiter.turn.send(Err(refused));
        }
        self.leave(id, now);
    }
}

/// How long a request says that it may wait.
pub(super) fn allowed(caller: &Caller, now: Instant) -> Duration {
    let left = caller.deadline.saturating_duration_since(now);
    caller.wait.unwrap_or(left)
}
