//! Which ids are asked for often, and which of them will be wanted before long although their rows are stale by then.
//!
//! Each request counts once for each of its ids, hits as well; what was counted fades, so that an id is as popular as it was asked for in
//! the last minutes. That is what decides which ids a call with room to spare takes along.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::quality::RandomState;
use tokio::time::Instant;

use crate::scan::{Endpoint, Request};

/// What was counted is worth a third of it after so long.
const FADES: Duration = Duration::from_mins(2);

/// An id that nobody has asked for in so long is not taken along.
const LATELY: Duration = Duration::from_mins(2);

/// Once is not often.
const OFTEN: f64 = 1.5;

/// A call that asked for an id may take so long until another one asks for it without anybody who waits for it.
const UNDER_WAY: Duration = Duration::from_secs(10);

/// Most ids that are counted, for each endpoint.
const MOST: usize = 8192;

/// A question for more ids than this fills calls by itself; to count it would only cost time.
const MOST_OF_ONE: usize = 256;

/// How often each id is asked for.
#[derive(Debug, Default)]
pub(super) struct Popularity {
    endpoints: [Mutex<Counted>; Endpoint::COUNT],
}

#[derive(Debug, Default)]
struct Counted {
    ids: HashMap<Box<str>, Interest, RandomState>,
    /// When ids that nobody asks for any more were let go of last.
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Interest {
    /// How often it was asked for, faded, as of `asked`.
    count: f64,
    asked: Instant,
    /// Until when its rows are fresh; `None` when none were kept yet.
    fresh_until: Option<Instant>,
    /// Until when a call that asks for it may be under way.
    under_way_until: Option<Instant>,
}

impl Interest {
    fn count_at(&self, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.asked);
        self.count * (-since.as_secs_f64() / FADES.as_secs_f64()).exp()
    }

    /// How often it will probably be asked for while its rows are stale, until that moment; `None` when it is not to be taken along.
    fn worth(&self, now: Instant, until: Instant) -> Option<f64> {
        let is_recent = now.saturating_duration_since(self.asked) <= LATELY;
        let is_free = self.under_way_until.is_none_or(|until| until <= now);
        let fresh_until = self.fresh_until.filter(|_| is_recent && is_free)?;
        let count = Some(self.count_at(now)).filter(|count| *count >= OFTEN)?;
        let stale_for = until.saturating_duration_since(fresh_until.max(now));
        Some(count * stale_for.as_secs_f64()).filter(|worth| *worth > 0.0)
    }
}

impl Popularity {
    /// Counts a request.
    pub(super) fn note(&self, request: &Request, now: Instant) {
        if request.ids().len() > MOST_OF_ONE {
            return;
        }
        let mut counted = self.counted(request.endpoint());
        for id in request.ids() {
            if let Some(interest) = counted.ids.get_mut(id) {
                interest.count = interest.count_at(now) + 1.0;
                interest.asked = now;
            } else if counted.has_room(now) {
                let interest = Interest {
                    count: 1.0,
                    asked: now,
                    fresh_until: None,
                    under_way_until: None,
                };
                counted.ids.insert(id.into(), interest);
            }
        }
    }

    /// The rows of these ids have come, and each is fresh for as long as its place in `ttls` says.
    pub(super) fn renewed(&self, request: &Request, stored: Instant, ttls: &[Duration]) {
        let mut counted = self.counted(request.endpoint());
        for (id, ttl) in request.ids().zip(ttls) {
            if let Some(interest) = counted.ids.get_mut(id) {
                interest.fresh_until = Some(stored + *ttl);
                interest.under_way_until = None;
            }
        }
    }

    /// At most so many ids that a call which leaves at `now` for `asked` should ask for as well, because their rows will be stale at
    /// `until`: the most useful first.
    pub(super) fn worth_prefetching(
        &self,
        asked: &Request,
        most: usize,
        now: Instant,
        until: Instant,
    ) -> Vec<Box<str>> {
        let mut counted = self.counted(asked.endpoint());
        let under_way = Some(now + UNDER_WAY);
        for id in asked.ids() {
            if let Some(interest) = counted.ids.get_mut(id) {
                interest.under_way_until = under_way;
            }
        }
        let ids = counted.ids.iter();
        let wanted = ids.filter_map(|(id, interest)| Some((interest.worth(now, until)?, id.clone())));
        let mut wanted: Vec<(f64, Box<str>)> = wanted.collect();
        wanted.sort_unstable_by(|one, other| other.0.total_cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
        wanted.truncate(most);
        for (_, id) in &wanted {
            if let Some(interest) = counted.ids.get_mut(id) {
                interest.under_way_until = under_way;
            }
        }
        wanted.into_iter().map(|(_, id)| id).collect()
    }

    fn counted(&self, endpoint: Endpoint) -> MutexGuard<'_, Counted> {
        // Nothing in here panics halfway through a change.
        self.endpoints[endpoint.index()]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    /// Whether one more can be counted. Where there are too many, those go that nobody has asked for lately.
    fn has_room(&mut self, now: Instant) -> bool {
        const SWEEP_EVERY: Duration = Duration::from_secs(10);
        if self.ids.len() < MOST {
            return true;
        }
        if self.swept.is_none_or(|at| at + SWEEP_EVERY <= now) {
            self.swept = Some(now);
            self.ids
                .retain(|_, interest| now.saturating_duration_since(interest.asked) <= LATELY);
        }
        self.ids.len() < MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn request(ids: &[&str]) -> Request {
        Request::plain(Endpoint::HISTORY, ids.iter().copied()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_for_often_and_is_stale_before_the_next_call_is_worth_taking_along() {
        let popularity = Popularity::default();
        let start = Instant::now();
        for (id, times) in [("a", 9), ("b", 3), ("c", 1), ("new", 9), ("asked", 9), ("fresh", 9)] {
            for _ in 0..times {
                popularity.note(&request(&[id]), start);
            }
        }
        let renewed = request(&["a", "asked", "b", "c", "fresh"]);
        popularity.renewed(&renewed, start, &[30, 30, 30, 30, 60].map(Duration::from_secs));
        let worth = |after: u32| {
            let now = start + after * SECOND;
            popularity.worth_prefetching(&request(&["asked"]), 10, now, now + 3 * SECOND)
        };
        assert!(worth(20).is_empty(), "all are fresh until the next call");
        // Neither what was asked for once only, nor what has never had rows, nor what the call asks for anyway.
        assert_eq!(worth(28).iter().map(|id| &**id).collect::<Vec<_>>(), ["a", "b"]);
        assert!(worth(30).is_empty(), "a call for them is under way");
        popularity.note(&request(&["a"]), start + 100 * SECOND);
        assert_eq!(
            worth(200).iter().map(|id| &**id).collect::<Vec<_>>(),
            ["a"],
            "nobody asks for the others"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn few_ids_are_counted() {
        let popularity = Popularity::default();
        let now = Instant::now();
        for n in 0..2 * MOST {
            popularity.note(&request(&[&n.to_string()]), now);
        }
        assert_eq!(popularity.counted(Endpoint::HISTORY).ids.len(), MOST);
        popularity.note(&request(&["x"]), now + LATELY + SECOND);
        assert_eq!(popularity.counted(Endpoint::HISTORY).ids.len(), 1);
    }
}
