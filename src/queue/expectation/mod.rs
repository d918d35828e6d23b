//! Who is about to ask, of those who do not wait: requests that were refused and told when to come
//! back, and callers that ask again whenever they are answered.
//!
//! A forecast that counted only those who wait would let others in on slots that these claim a
//! moment later. The order is told what is expected of each caller and when, and how reliable it
//! is.

mod history;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use foldhash::quality::RandomState;
use tokio::time::Instant;

pub(super) use self::history::Arrival;
use self::history::{EARLY, History, RECENT};
use super::fair_scheduler::{Expected, FairScheduler};
use crate::attempt::Asked;
use crate::caller::{Name, Urgency};

/// Callers of which something is expected; beyond it the one is forgotten whose time is up first.
/// Queues that bound this together have an equal part each.
const MOST_CALLERS: usize = 4096;

/// Requests expected back in all, likewise.
const MOST_RETURNS: usize = 10_000;

/// What is expected of everybody.
#[derive(Debug, Default)]
pub(super) struct Expectations {
    callers: [HashMap<Name, History, RandomState>; Urgency::LEVELS],
    /// When each has to be looked at again, at the latest.
    looks: BTreeSet<(Instant, Urgency, Name)>,
    returns: usize,
    /// Other queues that the bounds hold for too.
    others: usize,
}

impl Expectations {
    /// Nothing is expected yet. The bounds hold together with so many other queues.
    pub(super) fn beside(others: usize) -> Self {
        Self {
            others,
            ..Self::default()
        }
    }

    /// Whether nothing is known of anybody.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.looks.is_empty()
    }

    /// A request comes.
    pub(super) fn arrive(
        &mut self,
        caller: &Name,
        urgency: Urgency,
        now: Instant,
        order: &mut FairScheduler,
    ) -> Arrival {
        self.expire(now, order);
        self.remember(caller, urgency, now, order);
        let mut arrival = Arrival::Further;
        self.update(caller, urgency, now, order, |history| arrival = history.arrive(now));
        arrival
    }

    /// A request that came before asks once more: nothing is learned about its caller by that.
    pub(super) fn ask_again(
        &mut self,
        (caller, urgency): (&Name, Urgency),
        asked: Asked,
        now: Instant,
        order: &mut FairScheduler,
    ) -> Arrival {
        self.expire(now, order);
        self.remember(caller, urgency, now, order);
        if asked == Asked::Ended {
            self.update(caller, urgency, now, order, History::goes_on);
        }
        Arrival::Again
    }

    /// It is let in, and waits until `deadline` at most.
    pub(super) fn let_in(
        &mut self,
        (caller, urgency): (&Name, Urgency),
        arrival: Arrival,
        deadline: Instant,
        now: Instant,
        order: &mut FairScheduler,
    ) {
        self.take_out((caller, urgency), arrival, now, order);
        self.update(caller, urgency, now, order, |history| history.until = deadline + RECENT);
    }

    /// It is refused, or taken back, and told to come at `due`, for that slot.
    pub(super) fn refuse(
        &mut self,
        (caller, urgency): (&Name, Urgency),
        arrival: Arrival,
        (due, slot): (Instant, Instant),
        now: Instant,
        order: &mut FairScheduler,
    ) {
        self.take_out((caller, urgency), arrival, now, order);
        let has_room = self.returns < MOST_RETURNS / (1 + self.others);
        self.update(caller, urgency, now, order, |history| {
            history.refuse(due, slot, has_room, now);
        });
    }

    /// One that was refused was not told to come at `due` after all.
    pub(super) fn withdraw(
        &mut self,
        caller: &Name,
        urgency: Urgency,
        due: Instant,
        now: Instant,
        order: &mut FairScheduler,
    ) {
        let history = self.callers[usize::from(urgency.level())].get_mut(caller);
        if let Some(one) = history.and_then(|history| history.withdraw(due)) {
            self.returns -= 1;
            if one.is_claimed {
                order.withdraw(caller, urgency, one.due);
            }
            self.update(caller, urgency, now, order, |_| ());
        }
    }

    /// Whether a request comes when it was told to, and not before.
    pub(super) fn is_due(&self, caller: &Name, urgency: Urgency, arrival: Arrival, now: Instant) -> bool {
        arrival == Arrival::Return && self.next_due(caller, urgency).is_some_and(|due| due <= now)
    }

    /// When the first is due of those that are expected back.
    fn next_due(&self, caller: &Name, urgency: Urgency) -> Option<Instant> {
        let history = self.callers[usize::from(urgency.level())].get(caller)?;
        history.returns.front().map(|first| first.due)
    }

    /// Which of its caller's that are expected back go before a request, once they are due.
    pub(super) fn returns_before(&self, caller: &Name, urgency: Urgency, arrival: Arrival) -> Range<usize> {
        match arrival {
            Arrival::Return => 0..0,
            _ => self.returns_before_refused(caller, urgency, arrival),
        }
    }

    /// The same for one that is refused: it will come after all others.
    pub(super) fn returns_before_refused(&self, caller: &Name, urgency: Urgency, arrival: Arrival) -> Range<usize> {
        let history = self.callers[usize::from(urgency.level())].get(caller);
        let returns = history.map_or(0, |history| history.returns.len());
        match arrival {
            Arrival::Return => 1.min(returns)..returns,
            Arrival::Early => 0..returns.saturating_sub(1),
            Arrival::Further | Arrival::Again => 0..returns,
        }
    }

    /// One that was told to come back now has come to another queue.
    pub(super) fn back_elsewhere(&mut self, caller: &Name, urgency: Urgency, now: Instant, order: &mut FairScheduler) {
        let due = self.next_due(caller, urgency).filter(|due| *due <= now + EARLY);
        if let Some(due) = due {
            // It came about then, or nobody would tell of it. The news may take longer.
            self.take_out((caller, urgency), Arrival::Return, due, order);
            self.update(caller, urgency, now, order, |_| ());
        }
    }

    /// A request left that waited: its caller may ask again.
    pub(super) fn left(&mut self, caller: &Name, urgency: Urgency, now: Instant, order: &mut FairScheduler) {
        self.update(caller, urgency, now, order, |history| history.end(now));
    }

    /// A request that waited has been sent away.
    pub(super) fn sent_away(&mut self, caller: &Name, urgency: Urgency, now: Instant, order: &mut FairScheduler) {
        self.update(caller, urgency, now, order, |_| ());
    }

    /// A caller has a slot.
    pub(super) fn granted(&mut self, caller: &Name, urgency: Urgency, now: Instant, order: &mut FairScheduler) {
        self.update(caller, urgency, now, order, |history| history.granted(now));
    }

    /// A caller's call is answered.
    pub(super) fn answered(&mut self, caller: &Name, urgency: Urgency, now: Instant, order: &mut FairScheduler) {
        self.update(caller, urgency, now, order, |history| history.answered(now));
    }

    /// Nothing is expected any more of those whose time is up.
    pub(super) fn expire(&mut self, now: Instant, order: &mut FairScheduler) {
        while self.looks.first().is_some_and(|(at, _, _)| *at <= now) {
            let Some((_, urgency, caller)) = self.looks.pop_first() else {
                return;
            };
            let Some(history) = self.callers[usize::from(urgency.level())].get_mut(&caller) else {
                continue;
            };
            while let Some((one, was_expected)) = history.lapse(now) {
                self.returns -= 1;
                if one.is_claimed {
                    order.withdraw(&caller, urgency, one.due);
                }
                if was_expected {
                    order.stayed_away(&caller, urgency);
                }
            }
            history.expire(now);
            // Nothing is left to wait for: it is forgotten once this is told.
            history.look = history.next_look(now).unwrap_or(now);
            let (look, is_over) = (history.look, history.look <= now);
            self.update(&caller, urgency, now, order, |_| ());
            if is_over {
                self.callers[usize::from(urgency.level())].remove(&caller);
            } else {
                self.looks.insert((look, urgency, caller));
            }
        }
    }

    fn remember(&mut self, caller: &Name, urgency: Urgency, now: Instant, order: &mut FairScheduler) {
        if self.callers[usize::from(urgency.level())].contains_key(caller) {
            return;
        }
        if self.looks.len() >= MOST_CALLERS / (1 + self.others)
            && let Some((_, urgency, oldest)) = self.looks.pop_first()
            && let Some(history) = self.callers[usize::from(urgency.level())].remove(&oldest)
        {
            self.returns -= history.returns.len();
            for one in history.returns.iter().filter(|one| one.is_claimed) {
                order.withdraw(&oldest, urgency, one.due);
            }
            order.expect(&oldest, urgency, Expected::default());
        }
        let history = History::new(now);
        self.looks.insert((history.look, urgency, caller.clone()));
        self.callers[usize::from(urgency.level())].insert(caller.clone(), history);
    }

    /// Takes out the one of those expected back that a request is, which came at that moment.
    fn take_out(
        &mut self,
        (caller, urgency): (&Name, Urgency),
        arrival: Arrival,
        came: Instant,
        order: &mut FairScheduler,
    ) {
        if arrival == Arrival::Return {
            order.returned();
        }
        let history = self.callers[usize::from(urgency.level())].get_mut(caller);
        if let Some(one) = history.and_then(|history| history.take_out(arrival, came)) {
            self.returns -= 1;
            if one.is_claimed {
                order.withdraw(caller, urgency, one.due);
            }
        }
    }

    /// Changes what is known of a caller, and tells the order what is expected now.
    fn update(
        &mut self,
        caller: &Name,
        urgency: Urgency,
        now: Instant,
        order: &mut FairScheduler,
        change: impl FnOnce(&mut History),
    ) {
        let Some(history) = self.callers[usize::from(urgency.level())].get_mut(caller) else {
            return;
        };
        let before = history.returns.len();
        change(history);
        self.returns += history.returns.len() - before;
        let expected = history.expected(now, order.next_of(caller, urgency).is_some());
        if let Some(look) = history.next_look(now).filter(|look| *look < history.look) {
            self.looks.remove(&(history.look, urgency, caller.clone()));
            history.look = look;
            self.looks.insert((look, urgency, caller.clone()));
        }
        if expected != history.told {
            history.told = expected;
            order.expect(caller, urgency, expected);
        }
        let claims = history.claims(now);
        for (n, one) in history.returns.iter_mut().enumerate() {
            let claims = n < claims;
            if one.is_claimed == claims {
                continue;
            }
            one.is_claimed = claims;
            if claims {
                order.claim(caller, urgency, one.due);
            } else {
                order.withdraw(caller, urgency, one.due);
            }
        }
    }
}
