//! How often ids are asked for, and which of them are worth prefetching because they will be asked
//! for while their rows are stale.
//!
//! Each request, including a hit, counts once for each of its ids. Counts decay exponentially, so
//! that an id's popularity is that of the last minutes. It decides which ids a call with spare room
//! prefetches. An id that is asked for at regular times, as by a tool that polls, is prefetched
//! when it is expected to be asked for next.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::quality::RandomState;
use tokio::time::Instant;

use crate::scan::{Endpoint, Request};

/// The time in which a count decays to 1/e. Counts over longer tell the less popular ids apart,
/// which fill the last seats.
const DECAY: Duration = Duration::from_mins(5);

/// An id that was not asked for within this time is not prefetched.
const RECENT: Duration = Duration::from_mins(2);

/// The least count of an id that is prefetched: more than one request.
const FREQUENT: f64 = 1.5;

/// An id is asked for at regular times when so many times in a row between two requests differ from
/// the one before by no more than this part of it.
const REGULAR: u8 = 2;
const TOLERANCE: f64 = 0.1;

/// The longest time between two requests after which the next is foreseen.
const MAX_INTERVAL: Duration = Duration::from_mins(10);

/// How long a call that asked for an id may take, until another call may prefetch the id.
const CALL_TIME: Duration = Duration::from_secs(10);

/// The most ids that are counted, for each endpoint.
const MAX_IDS: usize = 8192;

/// A request for more ids than this fills calls by itself, and counting them would only cost time.
const MAX_IDS_PER_REQUEST: usize = 256;

/// How often each id is asked for.
#[derive(Debug, Default)]
pub(super) struct Popularity {
    endpoints: [Mutex<Counted>; Endpoint::COUNT],
}

#[derive(Debug, Default)]
struct Counted {
    ids: HashMap<Box<str>, IdPopularity, RandomState>,
    /// When ids that are no longer asked for were last removed.
    swept: Option<Instant>,
}

#[derive(Debug)]
struct IdPopularity {
    /// The decayed count as of `asked`.
    count: f64,
    asked: Instant,
    /// The time between the last two requests.
    interval: Duration,
    /// How many times in a row it was about the same.
    agreeing: u8,
    /// Until when its rows are fresh; `None` when none have been stored yet.
    fresh_until: Option<Instant>,
    /// Until when a call that asks for it may be under way.
    under_way_until: Option<Instant>,
}

impl IdPopularity {
    fn new(now: Instant) -> Self {
        Self {
            count: 1.0,
            asked: now,
            interval: Duration::ZERO,
            agreeing: 0,
            fresh_until: None,
            under_way_until: None,
        }
    }

    fn record(&mut self, now: Instant) {
        let interval = now.saturating_duration_since(self.asked);
        let is_same = interval.abs_diff(self.interval) <= self.interval.mul_f64(TOLERANCE);
        self.agreeing = if is_same { self.agreeing.saturating_add(1) } else { 0 };
        self.interval = interval;
        self.count = self.count_at(now) + 1.0;
        self.asked = now;
    }

    /// From when to when the next request is expected, of an id that is asked for at regular times.
    fn expected(&self, now: Instant) -> Option<(Instant, Instant)> {
        let is_regular = self.agreeing >= REGULAR && self.interval <= MAX_INTERVAL;
        let at = |part: f64| self.asked + self.interval.mul_f64(part);
        let (earliest, latest) = (at(1.0 - TOLERANCE), at(1.0 + TOLERANCE));
        (is_regular && now < latest).then_some((earliest, latest))
    }

    fn count_at(&self, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.asked);
        self.count * (-since.as_secs_f64() / DECAY.as_secs_f64()).exp()
    }

    /// How often it will probably be asked for while its rows are stale, until that moment, times
    /// [`DECAY`] in seconds; `None` when it should not be prefetched.
    fn worth(&self, now: Instant, until: Instant) -> Option<f64> {
        let is_free = self.under_way_until.is_none_or(|until| until <= now);
        let stale_from = self.fresh_until.filter(|_| is_free)?.max(now);
        // Further ahead it may be asked for several times.
        let is_near = |(earliest, _): &(Instant, Instant)| until <= *earliest + self.interval.mul_f64(1.0 - TOLERANCE);
        let worth = if let Some((earliest, latest)) = self.expected(now).filter(is_near) {
            let stale_for = until.min(latest).saturating_duration_since(stale_from.max(earliest));
            DECAY.as_secs_f64() * stale_for.as_secs_f64() / (latest - earliest).as_secs_f64()
        } else if now.saturating_duration_since(self.asked) <= RECENT {
            let count = Some(self.count_at(now)).filter(|count| *count >= FREQUENT)?;
            count * until.saturating_duration_since(stale_from).as_secs_f64()
        } else {
            0.0
        };
        Some(worth).filter(|worth| *worth > 0.0)
    }
}

impl Popularity {
    /// Counts a request.
    pub(super) fn record(&self, request: &Request, now: Instant) {
        if request.ids().len() > MAX_IDS_PER_REQUEST {
            return;
        }
        let mut counted = self.counted(request.endpoint());
        for id in request.ids() {
            if let Some(popularity) = counted.ids.get_mut(id) {
                popularity.record(now);
            } else if counted.has_room(now) {
                counted.ids.insert(id.into(), IdPopularity::new(now));
            }
        }
    }

    /// Records that the rows of these ids have come, each with its own freshness from `ttls`.
    pub(super) fn record_refresh(&self, request: &Request, stored: Instant, ttls: &[Duration]) {
        let mut counted = self.counted(request.endpoint());
        for (id, ttl) in request.ids().zip(ttls) {
            if let Some(popularity) = counted.ids.get_mut(id) {
                popularity.fresh_until = Some(stored + *ttl);
                popularity.under_way_until = None;
            }
        }
    }

    /// The ids, at most `most`, that a call that leaves at `now` for `asked` should also ask for,
    /// because their rows will be stale at `until`; the most useful first.
    pub(super) fn worth_prefetching(
        &self,
        asked: &Request,
        most: usize,
        now: Instant,
        until: Instant,
    ) -> Vec<Box<str>> {
        let mut counted = self.counted(asked.endpoint());
        let under_way = Some(now + CALL_TIME);
        for id in asked.ids() {
            if let Some(popularity) = counted.ids.get_mut(id) {
                popularity.under_way_until = under_way;
            }
        }
        let ids = counted.ids.iter();
        let wanted = ids.filter_map(|(id, popularity)| Some((popularity.worth(now, until)?, id.clone())));
        let mut wanted: Vec<(f64, Box<str>)> = wanted.collect();
        wanted.sort_unstable_by(|one, other| other.0.total_cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
        wanted.truncate(most);
        for (_, id) in &wanted {
            if let Some(popularity) = counted.ids.get_mut(id) {
                popularity.under_way_until = under_way;
            }
        }
        wanted.into_iter().map(|(_, id)| id).collect()
    }

    fn counted(&self, endpoint: Endpoint) -> MutexGuard<'_, Counted> {
        // No code that holds the lock panics halfway through a change.
        self.endpoints[endpoint.index()]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    /// Whether one more id can be counted. When there are too many, those that were not asked for
    /// recently are removed.
    fn has_room(&mut self, now: Instant) -> bool {
        const SWEEP_EVERY: Duration = Duration::from_secs(10);
        if self.ids.len() < MAX_IDS {
            return true;
        }
        if self.swept.is_none_or(|at| at + SWEEP_EVERY <= now) {
            self.swept = Some(now);
            self.ids
                .retain(|_, popularity| now.saturating_duration_since(popularity.asked) <= RECENT);
        }
        self.ids.len() < MAX_IDS
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
    async fn popular_ids_that_are_stale_before_the_next_call_are_worth_prefetching() {
        let popularity = Popularity::default();
        let start = Instant::now();
        for (id, times) in [("a", 9), ("b", 3), ("c", 1), ("new", 9), ("asked", 9), ("fresh", 9)] {
            for _ in 0..times {
                popularity.record(&request(&[id]), start);
            }
        }
        let renewed = request(&["a", "asked", "b", "c", "fresh"]);
        popularity.record_refresh(&renewed, start, &[30, 30, 30, 30, 60].map(Duration::from_secs));
        let worth = |after: u32| {
            let now = start + after * SECOND;
            popularity.worth_prefetching(&request(&["asked"]), 10, now, now + 3 * SECOND)
        };
        assert!(worth(20).is_empty(), "all are fresh until the next call");
        // Not the ids that were asked for only once, have never had rows, or are part of the call
        // anyway.
        assert_eq!(worth(28).iter().map(|id| &**id).collect::<Vec<_>>(), ["a", "b"]);
        assert!(worth(30).is_empty(), "a call for them is under way");
        popularity.record(&request(&["a"]), start + 100 * SECOND);
        assert_eq!(
            worth(200).iter().map(|id| &**id).collect::<Vec<_>>(),
            ["a"],
            "nobody asks for the others"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_id_that_is_asked_for_at_regular_times_is_prefetched_for_the_next() {
        let popularity = Popularity::default();
        let start = Instant::now();
        let at = |seconds: u32| start + seconds * SECOND;
        let worth = |now: u32| {
            popularity
                .worth_prefetching(&request(&["x"]), 10, at(now), at(now + 3))
                .len()
        };
        let refresh = |seconds| popularity.record_refresh(&request(&["a"]), at(seconds), &[30 * SECOND]);
        let ask = |seconds| {
            popularity.record(&request(&["a"]), at(seconds));
            refresh(seconds);
        };
        for seconds in [0, 61, 119] {
            ask(seconds);
        }
        assert_eq!(
            worth(150),
            1,
            "as popular as any other: that it is regular may be an accident"
        );
        ask(181);
        assert_eq!(
            [215, 225, 231].map(worth),
            [0, 0, 0],
            "stale, and nobody is expected yet"
        );
        assert_eq!(worth(236), 1, "it is expected after 62 s, more or less by a tenth");
        assert_eq!(worth(239), 0, "a call for it is under way");
        refresh(237);
        popularity.record(&request(&["a"]), at(243));
        assert_eq!([290, 298].map(worth), [0, 1]);
        // Nobody comes: it is as popular as any other, until nobody has come for two minutes.
        refresh(299);
        assert_eq!([335, 364].map(worth), [1, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_id_that_is_asked_for_again_and_again_before_the_next_call_is_prefetched() {
        let popularity = Popularity::default();
        let start = Instant::now();
        for n in 0..10 {
            popularity.record(&request(&["a"]), start + n * 2 * SECOND);
        }
        let now = start + 19 * SECOND;
        popularity.record_refresh(&request(&["a"]), now, &[SECOND * 5 / 2]);
        let worth = popularity.worth_prefetching(&request(&["x"]), 10, now, now + 5 * SECOND);
        assert_eq!(worth.len(), 1, "fresh when it is asked for next, but not after that");
    }

    #[tokio::test(start_paused = true)]
    async fn few_ids_are_counted() {
        let popularity = Popularity::default();
        let now = Instant::now();
        for n in 0..2 * MAX_IDS {
            popularity.record(&request(&[&n.to_string()]), now);
        }
        assert_eq!(popularity.counted(Endpoint::HISTORY).ids.len(), MAX_IDS);
        popularity.record(&request(&["x"]), now + RECENT + SECOND);
        assert_eq!(popularity.counted(Endpoint::HISTORY).ids.len(), 1);
    }
}
