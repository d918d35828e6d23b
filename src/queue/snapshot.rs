//! The queue as people and monitors see it.

use std::cmp::Reverse;
use std::time::Duration;

use tokio::time::Instant;

use super::line::Slots;
use super::state::State;
use crate::caller::Name;

/// What `/status` shows.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Requests that wait.
    pub waiting: usize,
    /// Callers who have a request waiting.
    pub callers: usize,
    /// How long a caller who is new here would wait.
    pub predicted_wait: Duration,
    /// The callers seen lately, those with the most waiting requests first, then the most served; at most 50.
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
    /// When its turns come; `None` when nothing of it waits.
    pub outlook: Option<Outlook>,
}

/// When a caller's turns come, if nobody comes or leaves before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Requests of others that are served before its next one.
    pub position: usize,
    /// Until its next turn.
    pub next: Duration,
    /// Until the last request it has waiting now has its turn.
    pub last: Duration,
}

/// Callers shown.
const SHOWN: usize = 50;

impl<P> State<P> {
    pub(super) fn snapshot<S: Slots<Permit = P>>(&mut self, now: Instant, slots: &S) -> Snapshot {
        let predicted_wait = self.predicted_wait(now, slots);
        self.look_ahead(now, self.order.len(), slots);
        let waiting = self.order.waiting_by_caller();
        let callers = waiting.len();
        let mut shares: Vec<_> = self
            .visitors
            .iter()
            .map(|(name, served)| (waiting.get(name).copied().unwrap_or(0), served, name.clone()))
            .collect();
        shares.sort_unstable_by(|a, b| (Reverse(a.0), Reverse(a.1), &a.2).cmp(&(Reverse(b.0), Reverse(b.1), &b.2)));
        shares.truncate(SHOWN);
        let share = |(waiting, served, name): (usize, u64, Name)| CallerShare {
            outlook: self.outlook(&name, now),
            name,
            waiting,
            served,
        };
        Snapshot {
            waiting: self.order.len(),
            callers,
            predicted_wait,
            shares: shares.into_iter().map(share).collect(),
        }
    }

    fn outlook(&self, caller: &Name, now: Instant) -> Option<Outlook> {
        let (first, last) = self.order.turns_of(caller)?;
        let wait = |rank: usize| {
            // Every ticket has a slot in the forecast; the last one known is the nearest to the truth.
            let start = self.slots.get(rank).or(self.slots.back());
            start.map_or(Duration::ZERO, |start| start.saturating_duration_since(now))
        };
        Some(Outlook {
            position: first,
            next: wait(first),
            last: wait(last),
        })
    }
}
