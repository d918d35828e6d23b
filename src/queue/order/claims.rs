//! Slots that are claimed by requests that do not wait yet: how many, and from when.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::class::Class;
use super::rank::Look;
use crate::attempt::FlowDemand;
use crate::caller::Name;

/// Requests that do not wait but are expected. They claim slots in a forecast, and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Requests that were refused and told when to come back.
    pub returning: usize,
    /// Callers that ask again whenever they are answered.
    pub loops: usize,
    /// How many requests these have answered in a thousand seconds, if there are slots.
    pub rate: u64,
    /// All requests of the caller are away until then: it asks again after that.
    pub away_until: Option<Instant>,
}

/// How much later than due a refused request may come and still count in a forecast: an answer and a timer take their time. Its turn is kept
/// for longer.
const RETURN_IS_LATE: Duration = Duration::from_secs(2);

/// Requests that are expected within a time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Claims {
    /// Of callers that ask again whenever they are answered.
    pub(super) asks: usize,
    /// That were refused, and are due.
    pub(super) returning: usize,
}

/// How many of these requests, by when they are due, come until then.
pub(super) fn due_until(returns: &VecDeque<Instant>, now: Instant, until: Instant) -> usize {
    let overdue = now.checked_sub(RETURN_IS_LATE);
    let overdue = overdue.map_or(0, |before| returns.partition_point(|due| *due < before));
    returns.partition_point(|due| *due <= until).saturating_sub(overdue)
}

impl Expected {
    pub(super) fn is_none(self) -> bool {
        self.returning == 0 && self.loops == 0
    }

    /// What a caller claims of whom this is expected, and whose refused requests are due then.
    pub(super) fn claims(self, returns: &VecDeque<Instant>, look: Look<'_>) -> Claims {
        let Some((now, until)) = look.period else {
            return Claims::default();
        };
        let from = self.away_until.map_or(now, |away| away.max(now));
        let asks = if self.loops == 0 || from > until {
            0
        } else {
            self.asks_within(until - from).min(look.slots)
        };
        Claims {
            asks,
            returning: due_until(returns, now, until),
        }
    }

    /// How many more requests the loops can make within that time.
    pub(super) fn asks_within(self, time: Duration) -> usize {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let asks = millis.saturating_mul(self.rate) / 1_000_000;
        usize::try_from(asks).unwrap_or(usize::MAX).saturating_add(self.loops)
    }
}

impl Claims {
    /// What a caller of another queue claims. Nothing says when its refused requests are due, nor how quickly it asks: for as much as it
    /// can get.
    pub(super) fn of(other: &FlowDemand, look: Look<'_>) -> Self {
        if look.period.is_none() {
            return Self::default();
        }
        Self {
            asks: if other.asks_again { look.slots } else { 0 },
            returning: other.returning,
        }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            asks: self.asks.saturating_add(other.asks),
            returning: self.returning + other.returning,
        }
    }
}

impl Class {
    /// How many of its callers ask again whenever they are answered.
    pub(super) fn loops(&self) -> usize {
        self.expected.loops + self.away.len()
    }

    pub(super) fn forget_loop(&mut self, caller: &Name, before: Expected) {
        if let Some(until) = before.away_until {
            self.away.remove(&(until, caller.clone()));
        } else {
            self.expected.loops -= before.loops;
            self.expected.rate = self.expected.rate.saturating_sub(before.rate);
        }
    }

    pub(super) fn note_loop(&mut self, caller: &Name, expected: Expected) {
        if let Some(until) = expected.away_until {
            self.away.insert((until, caller.clone()), expected.rate);
        } else {
            self.expected.loops += expected.loops;
            self.expected.rate = self.expected.rate.saturating_add(expected.rate);
        }
    }

    /// A refused request of this caller is due then.
    pub(super) fn await_return(&mut self, caller: &Name, due: Instant) {
        let Some(returns) = self.returns_of(caller) else {
            return;
        };
        insert(returns, due);
        insert(&mut self.returns, due);
    }

    /// A refused request of this caller that was due then has come, or comes no more.
    pub(super) fn end_return(&mut self, caller: &Name, due: Instant) {
        if self.returns_of(caller).is_some_and(|returns| remove(returns, due)) {
            remove(&mut self.returns, due);
        }
    }

    fn returns_of(&mut self, caller: &Name) -> Option<&mut VecDeque<Instant>> {
        if let Some(flow) = self.flows.get_mut(caller) {
            return Some(&mut flow.returns);
        }
        self.idle.get_mut(caller).map(|idle| &mut idle.returns)
    }

    /// What all its callers claim together.
    pub(super) fn claims(&self, look: Look<'_>) -> Claims {
        let mut claims = self.expected.claims(&self.returns, look);
        let Some((_, until)) = look.period else {
            return claims;
        };
        for ((away, _), rate) in self.away.iter().take_while(|((away, _), _)| *away <= until) {
            let one = Expected {
                loops: 1,
                rate: *rate,
                ..Expected::default()
            };
            claims.asks += one.asks_within(until - *away);
        }
        claims.asks = claims.asks.min(look.slots);
        claims
    }
}

fn insert(returns: &mut VecDeque<Instant>, due: Instant) {
    let at = returns.partition_point(|other| *other <= due);
    returns.insert(at, due);
}

fn remove(returns: &mut VecDeque<Instant>, due: Instant) -> bool {
    let at = returns.partition_point(|other| *other < due);
    let is_there = returns.get(at) == Some(&due);
    if is_there {
        returns.remove(at);
    }
    is_there
}
