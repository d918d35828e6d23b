//! The queue as people and monitors see it.

use std::cmp::Reverse;
use std::time::Duration;

use tokio::time::Instant;

use super::PermitSource;
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
    /// The callers seen lately, those with the most waiting requests first, then the most served;
    /// at most 50.
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
    pub outlook: Option<PredictedTurns>,
}

/// When a caller's turns come, if those come who are expected to ask and go first, and nobody else
/// comes or leaves before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PredictedTurns {
    /// Requests of others that are served before its next one; some of them may yet have to come.
    pub position: usize,
    /// Until its next turn.
    pub next: Duration,
    /// Until the last request it has waiting now has its turn.
    pub last: Duration,
}

/// Callers shown.
const SHOWN: usize = 50;

impl<P> State<P> {
    pub(super) fn snapshot<S: PermitSource<Permit = P>>(&mut self, now: Instant, source: &S) -> Snapshot {
        let predicted_wait = self.predicted_wait(now, source);
        let waiting = self.order.waiting_by_caller();
        let callers = waiting.len();
        let mut shares: Vec<_> = self
            .recent
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

    fn outlook(&self, caller: &Name, now: Instant) -> Option<PredictedTurns> {
        let turns = self.order.tickets_of(caller).filter_map(|(first, last)| {
            let ((ahead, first), (_, last)) = (self.turn_of(first, now)?, self.turn_of(last, now)?);
            Some(PredictedTurns {
                position: ahead.rank(),
                next: first.saturating_duration_since(now),
                last: last.saturating_duration_since(now),
            })
        });
        turns.reduce(|one, other| PredictedTurns {
            position: one.position.min(other.position),
            next: one.next.min(other.next),
            last: one.last.max(other.last),
        })
    }
}
