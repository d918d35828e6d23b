//! The longest window: how what it has left, beside others, is spread by the bucket, and how scarce
//! its slots are.

use std::time::Duration;

use tokio::time::Instant;

use super::config::{Config, Limit, Pacing, UnknownPast};
use super::foreign::LAST_PROBE;
use super::ledger::Ledger;
use super::pacer::{Others, WindowBudget};
use super::state::QuotaState;
use crate::attempt::Scarcity;

/// The calls of so long tell how many to expect: callers that poll come back at least that often,
/// and those who wait show in them.
const DEMAND: Duration = Duration::from_secs(10);

/// Most plans that are made up for at one look. A plan mostly lasts for many returns; the bound
/// keeps the look short.
const MISSED_PLANS: usize = 64;

/// The long window as the estimate needs to know it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Calls per window.
    pub(super) calls: f64,
    /// The window's length, with its margin.
    pub(super) window: Duration,
    /// As long as the shortest window at most: longer refusals have another cause than that one.
    pub(super) short: Duration,
}

impl Span {
    /// The longest of `limits`, which are in order.
    pub(super) fn of(limits: &[Limit]) -> Option<Self> {
        let (first, last) = (limits.first()?, limits.last()?);
        let short = if limits.len() > 1 {
            first.window()
        } else {
            last.window() / 60
        };
        Some(Self {
            calls: last.calls() as f64,
            window: last.hold(),
            short,
        })
    }
}

/// Our own calls in the long window, one of which has just been answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnCalls {
    /// How many there are, without the one that was just answered.
    pub(super) count: usize,
    /// How many were answered, with the one that was just answered.
    pub(super) answered: usize,
    /// When the first of them leaves.
    pub(super) next_return: Option<Instant>,
}

impl OwnCalls {
    pub(super) fn of(ledger: &Ledger, longest: &Limit, now: Instant) -> Self {
        let (used, next_return) = ledger.usage(longest, now);
        Self {
            count: used.saturating_sub(1),
            answered: used - ledger.in_flight(),
            next_return,
        }
    }
}

impl QuotaState {
    /// The longest limit, and what the estimate needs to know of it.
    pub(super) fn span(&self) -> Option<(Limit, Span)> {
        let limits = self.ledger.limits();
        Some((limits.last()?.clone(), Span::of(limits)?))
    }

    /// Whether calls that nobody waits for may be made: half of every window is unused, and the
    /// bucket holds half of what it can hold, or more than what was called for lately. A bucket
    /// that starts low after a restart fills slowly; as long as few callers come, that is no reason
    /// to leave the windows unused.
    pub fn has_surplus(&mut self, now: Instant) -> bool {
        let is_open = self.opens_at(now).is_some_and(|at| at <= now);
        let limits = self.ledger.limits();
        let unused = |limit: &Limit| self.ledger.used(limit, now) * 2 <= limit.calls();
        let lately = now.checked_sub(DEMAND).map_or(0, |from| self.ledger.since(from)) as f64;
        let has_more = self.pace.is_half_full(now) || self.pace.level_at(now) >= lately + 1.0;
        is_open && has_more && limits.iter().all(unused)
    }

    /// As the bucket drains, a call is worth a longer wait: nothing while the bucket is full, up to
    /// the distance of two slots when it is empty. Without a slot nothing more has to wait, as
    /// calls share a slot in the queue anyway.
    pub fn scarcity(&mut self, now: Instant) -> Scarcity {
        let interval = self.ledger.limits().last().map_or(Duration::ZERO, |longest| {
            longest.window().div_f64(longest.calls().max(1) as f64)
        });
        let is_open = self.opens_at(now).is_some_and(|at| at <= now);
        let (level, capacity) = if self.is_unpaced(now) {
            let free = |limit: &Limit| limit.calls().saturating_sub(self.ledger.used(limit, now));
            let least = self.ledger.limits().iter().min_by_key(|limit| free(limit));
            least.map_or((0.0, 0.0), |limit| (free(limit) as f64, limit.calls() as f64))
        } else {
            (self.pace.level_at(now), self.pace.burst() as f64)
        };
        // One call that is missing does not make slots scarce.
        let drained = ((capacity - 1.0 - level) / capacity.max(1.0)).clamp(0.0, 1.0);
        Scarcity {
            gather: (is_open && drained > 0.0).then(|| interval.mul_f64(drained)),
            interval,
        }
    }

    /// Whether calls leave as long as the windows have room, however little the bucket holds. What
    /// others are estimated to use is no room: without what is left beside them, the bucket finds
    /// out whether they still do.
    pub fn is_unpaced(&self, now: Instant) -> bool {
        self.unpaced_from.is_some_and(|from| from <= now) && self.is_room_beside_others(now)
    }

    /// When the bucket holds a call, or may hold one because more is known then.
    pub(super) fn bucket_opens_at(&mut self, now: Instant) -> Option<Instant> {
        if self.pace.is_due(now) {
            self.replan(now);
        }
        // The end of the present plan, when the bucket would otherwise stay empty past it.
        let plan_end = self.pace.plan_end().filter(|end| *end > now);
        // Without pacing, the next moment at which there may be room beside others.
        let is_spread = self.unpaced_from.is_none_or(|from| from > now);
        let longest = self.ledger.limits().last().filter(|_| !is_spread);
        let room = longest.and_then(|longest| self.ledger.usage(longest, now).1);
        self.pace.opens_at(now).into_iter().chain(plan_end).chain(room).min()
    }

    /// Makes the plans that were due while nobody looked, each for its own moment: whoever was told
    /// to come back finds what was forecast, whether or not others asked in between.
    pub(super) fn catch_up(&mut self, now: Instant) {
        for _ in 0..MISSED_PLANS {
            match self.pace.plan_end() {
                Some(end) if end < now => self.replan(end),
                _ => return,
            }
        }
    }

    fn replan(&mut self, now: Instant) {
        let Some((longest, span)) = self.span() else {
            return;
        };
        let landing = self.latency.landing(&longest);
        let past = self.ledger.past().filter(|at| *at + longest.hold() > now);
        let landed = self.ledger.pending_calls().map(|issued| (issued + landing).max(now));
        let returns: Vec<Instant> = past.chain(landed).map(|at| at + longest.hold()).collect();
        let free = longest.calls().saturating_sub(returns.len()) as f64;
        let others = Some(span).filter(|span| self.foreign.respected(span, now) > 0.0);
        if let Some(span) = &others {
            self.foreign.planned(span, now);
        }
        let room = others.map_or(free, |span| self.foreign.room(&span, returns.len(), now));
        let supply = WindowBudget {
            free: room.clamp(0.0, free),
            returns: &returns,
            window: longest.hold(),
            others: others.map(|span| Others {
                calls: self.foreign.calls(&span, now),
                most: longest.calls() as f64,
                // What is not spread leaves in bursts, and then nothing returns for long.
                least: self
                    .unpaced_from
                    .map_or(f64::INFINITY, |_| 1.0 / LAST_PROBE.as_secs_f64()),
                holes: self.foreign.holes(),
            }),
        };
        self.pace.plan(now, supply);
    }

    fn is_room_beside_others(&self, now: Instant) -> bool {
        let Some((longest, span)) = self.span().filter(|(_, span)| self.foreign.respected(span, now) > 0.0) else {
            return true;
        };
        self.foreign.room(&span, self.ledger.used(&longest, now), now) >= 1.0
    }
}

/// From when on the bucket does not hold calls back. A slow start, whose bucket stands in for calls
/// that nobody remembers, lasts for as long as one of them may count.
pub(super) fn unpaced_from(config: &Config, now: Instant) -> Option<Instant> {
    let longest = config.limits.last().map_or(Duration::ZERO, Limit::hold);
    match (config.pacing, config.unknown_past) {
        (Pacing::Spread, _) => None,
        (Pacing::None, UnknownPast::Paced) => Some(now + config.attempt + longest),
        (Pacing::None, UnknownPast::Empty | UnknownPast::Full) => Some(now),
    }
}
