//! Who is about to ask, of those who do not wait: requests that were refused and told when to come back, and callers that ask again whenever
//! they are answered.
//!
//! A forecast that counted only those who wait would let others in on slots that these claim a moment later. The order is told what is
//! expected of each caller, and how reliable it is.

mod history;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use foldhash::quality::RandomState;
use tokio::time::Instant;

pub(super) use self::history::Arrival;
use self::history::{AT_ONCE, GRACE, History, RECENT, Return};
use super::order::{Expected, Order};
use crate::caller::{Name, Urgency};

/// Callers of which something is expected; beyond it the one is forgotten whose time is up first.
const MOST_CALLERS: usize = 4096;

/// Requests expected back in all.
const MOST_RETURNS: usize = 10_000;

/// What is expected of everybody.
#[derive(Debug, Default)]
pub(super) struct Expectations {
    callers: [HashMap<Name, History, RandomState>; Urgency::LEVELS],
    /// When each has to be looked at again, at the latest.
    looks: BTreeSet<(Instant, Urgency, Name)>,
    returns: usize,
}

impl Expectations {
    /// A request comes.
    pub(super) fn arrive(&mut self, caller: &Name, urgency: Urgency, now: Instant, order: &mut Order) -> Arrival {
        self.expire(now, order);
        self.remember(caller, urgency, now, order);
        let mut arrival = Arrival::Further;
        self.update(caller, urgency, now, order, |history| {
            history.observe(now);
            history.until = now + RECENT;
            arrival = history.classify(now);
            Changed::default()
        });
        arrival
    }

    /// It is let in, and waits until `deadline` at most.
    pub(super) fn let_in(
        &mut self,
        (caller, urgency): (&Name, Urgency),
        arrival: Arrival,
        deadline: Instant,
        now: Instant,
        order: &mut Order,
    ) {
        if arrival == Arrival::Return {
            order.returned();
        }
        self.update(caller, urgency, now, order, |history| {
            history.until = deadline + RECENT;
            Changed {
                gone: history.take_out(arrival),
                new: None,
            }
        });
    }

    /// Which of its caller's that are expected back go before a request, once they are due.
    pub(super) fn returns_before(&self, caller: &Name, urgency: Urgency, arrival: Arrival) -> Range<usize> {
        let history = self.callers[usize::from(urgency.level())].get(caller);
        history.map_or(0..0, |history| history.returns_before(arrival))
    }

    /// It is refused, or taken back, and told to come at `due`.
    pub(super) fn refuse(
        &mut self,
        (caller, urgency): (&Name, Urgency),
        arrival: Arrival,
        due: Instant,
        now: Instant,
        order: &mut Order,
    ) {
        if arrival == Arrival::Return {
            order.returned();
        }
        let has_room = self.returns < MOST_RETURNS;
        self.update(caller, urgency, now, order, |history| {
            let gone = history.take_out(arrival);
            let new = Some(Return { due, told: now }).filter(|_| has_room && history.is_trusted(now));
            if let Some(new) = new {
                let at = history.returns.partition_point(|other| other.due <= due);
                history.returns.insert(at, new);
            }
            let batch = history.refused.filter(|(last, _)| now < *last + AT_ONCE);
            history.refused = Some((now, batch.map_or(now, |(_, first)| first)));
            // One that asks again and again, and obeys, goes on when it is back.
            history.until = history.until.max(due + GRACE);
            Changed { gone, new }
        });
    }

    /// A request left that waited: its caller may ask again.
    pub(super) fn left(&mut self, caller: &Name, urgency: Urgency, now: Instant, order: &mut Order) {
        self.update(caller, urgency, now, order, |history| {
            history.end(now);
            Changed::default()
        });
    }

    /// A caller has a slot.
    pub(super) fn granted(&mut self, caller: &Name, urgency: Urgency, now: Instant, order: &mut Order) {
        self.update(caller, urgency, now, order, |history| {
            (history.granted, history.is_answered) = (Some(now), false);
            history.end(now);
            history.until = now + RECENT;
            Changed::default()
        });
    }

    /// A caller's call is answered.
    pub(super) fn answered(&mut self, caller: &Name, urgency: Urgency, now: Instant, order: &mut Order) {
        self.update(caller, urgency, now, order, |history| {
            history.is_answered = history.granted.is_some();
            (history.until, history.follows_until) = (now + RECENT, now + RECENT);
            Changed::default()
        });
    }

    /// Nothing is expected any more of those whose time is up.
    pub(super) fn expire(&mut self, now: Instant, order: &mut Order) {
        while self.looks.first().is_some_and(|(at, _, _)| *at <= now) {
            let Some((_, urgency, caller)) = self.looks.pop_first() else {
                return;
            };
            let histories = &mut self.callers[usize::from(urgency.level())];
            let Some(history) = histories.get_mut(&caller) else {
                continue;
            };
            while let Some(lapsed) = history.returns.pop_front_if(|first| first.lapses() <= now) {
                let more = history.miss(now);
                for gone in std::iter::once(lapsed).chain(history.returns.drain(..more)) {
                    self.returns -= 1;
                    order.end_return(&caller, urgency, gone.due);
                }
                order.stayed_away(&caller, urgency);
            }
            if history.follows_until <= now {
                history.ended = 0;
            }
            let expected = history.expected(now, order.next_of(&caller, urgency).is_some());
            if let Some(look) = history.next_look(now) {
                history.look = look;
                history.told = expected;
                self.looks.insert((look, urgency, caller.clone()));
            } else {
                histories.remove(&caller);
            }
            order.expect(&caller, urgency, expected);
        }
    }

    fn remember(&mut self, caller: &Name, urgency: Urgency, now: Instant, order: &mut Order) {
        if self.callers[usize::from(urgency.level())].contains_key(caller) {
            return;
        }
        if self.looks.len() >= MOST_CALLERS
            && let Some((_, urgency, oldest)) = self.looks.pop_first()
            && let Some(history) = self.callers[usize::from(urgency.level())].remove(&oldest)
        {
            self.returns -= history.returns.len();
            for gone in history.returns {
                order.end_return(&oldest, urgency, gone.due);
            }
            order.expect(&oldest, urgency, Expected::default());
        }
        let history = History::new(now);
        self.looks.insert((history.look, urgency, caller.clone()));
        self.callers[usize::from(urgency.level())].insert(caller.clone(), history);
    }

    /// Changes what is known of a caller, and tells the order if something else is expected now.
    fn update(
        &mut self,
        caller: &Name,
        urgency: Urgency,
        now: Instant,
        order: &mut Order,
        change: impl FnOnce(&mut History) -> Changed,
    ) {
        let Some(history) = self.callers[usize::from(urgency.level())].get_mut(caller) else {
            return;
        };
        let Changed { gone, new } = change(history);
        self.returns = self.returns + usize::from(new.is_some()) - usize::from(gone.is_some());
        let expected = history.expected(now, order.next_of(caller, urgency).is_some());
        if let Some(look) = history.next_look(now).filter(|look| *look < history.look) {
            self.looks.remove(&(history.look, urgency, caller.clone()));
            history.look = look;
            self.looks.insert((look, urgency, caller.clone()));
        }
        if let Some(gone) = gone {
            order.end_return(caller, urgency, gone.due);
        }
        if expected != history.told {
            history.told = expected;
            order.expect(caller, urgency, expected);
        }
        if let Some(new) = new {
            order.await_return(caller, urgency, new.due);
        }
    }
}

/// What has changed of those expected back.
#[derive(Debug, Default)]
struct Changed {
    gone: Option<Return>,
    new: Option<Return>,
}
