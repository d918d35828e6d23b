//! The latest answers to requests that were asked alone, and what comparison calls said instead.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::scan::{Key, Request, Rows, SharedIds};

/// The answers by request, as hashes. They are seeded by the process, so no upstream can make two
/// answers look alike.
#[derive(Debug, Default)]
pub(super) struct SeenAnswers {
    answers: HashMap<Key, SeenAnswer, foldhash::quality::RandomState>,
}

#[derive(Debug)]
struct SeenAnswer {
    request: Arc<Request>,
    hash: u64,
    /// How often in a row the answer has been the same.
    times: u32,
    answered: Instant,
    part: Option<(u64, ComparisonCall)>,
}

/// The comparison call that a part is of.
#[derive(Clone, Copy, Debug)]
pub(super) struct ComparisonCall {
    /// Its number.
    pub(super) number: u32,
    pub(super) ids: usize,
    pub(super) rows: usize,
    pub(super) answered: Instant,
}

/// What an answer shows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Observed {
    Nothing,
    /// It is the same as before a comparison call, and as the request's part of that call's answer.
    Confirmed(ComparisonCall),
    /// It is the same as before a comparison call, and the part of that call's answer is not.
    Contradicted,
}

/// A request that was asked within this time is expected to be asked again.
const RECENT: Duration = Duration::from_mins(5);

/// The most requests that are remembered, and the longest key of one.
const MOST: usize = 256;
const LONGEST_KEY: usize = 1024;

/// The fewest requests that a comparison call is made for.
const FEWEST: usize = 4;

impl SeenAnswers {
    /// Learns from an answer to `request`, which was asked alone at `asked`.
    pub(super) fn observe(&mut self, request: &Arc<Request>, body: &[u8], asked: Instant, now: Instant) -> Observed {
        let hash = self.answers.hasher().hash_one(body);
        let Some(seen) = self.answers.get_mut(request.key()) else {
            self.insert(request, hash, now);
            return Observed::Nothing;
        };
        if seen.hash != hash {
            // The rows have changed, perhaps before the comparison call, perhaps after it.
            (seen.hash, seen.times, seen.answered, seen.part) = (hash, 1, now, None);
            return Observed::Nothing;
        }
        if seen.part.is_some_and(|(_, call)| asked < call.answered) {
            // It may have been answered before the comparison call was.
            return Observed::Nothing;
        }
        (seen.times, seen.answered) = (seen.times.saturating_add(1), now);
        match seen.part.take() {
            None => Observed::Nothing,
            Some((part, call)) if part == hash => Observed::Confirmed(call),
            Some(_) => Observed::Contradicted,
        }
    }

    fn insert(&mut self, request: &Arc<Request>, hash: u64, now: Instant) {
        if request.key().len() > LONGEST_KEY {
            return;
        }
        if self.answers.len() >= MOST {
            self.answers.retain(|_, seen| seen.answered + RECENT >= now);
        }
        if self.answers.len() < MOST {
            let seen = SeenAnswer {
                request: Arc::clone(request),
                hash,
                times: 1,
                answered: now,
                part: None,
            };
            self.answers.insert(request.key().clone(), seen);
        }
    }

    /// A request for the ids of those that are asked again and again and have no part yet, at most
    /// `most` ids; `None` when there are too few.
    pub(super) fn comparison(
        &self,
        most: usize,
        now: Instant,
        is_wanted: impl Fn(&Request) -> bool,
    ) -> Option<Request> {
        let is_repeated = |seen: &&SeenAnswer| seen.times > 1 && seen.answered + RECENT >= now;
        let mut seen: Vec<_> = self.answers.values().filter(is_repeated).collect();
        seen.retain(|seen| seen.part.is_none() && is_wanted(&seen.request));
        seen.sort_by_key(|seen| Reverse(seen.answered));
        let first = seen.first()?;
        let mut ids = SharedIds::new(&first.request);
        let mut chosen = vec![&first.request];
        for seen in &seen[1..] {
            let more = ids.more_with(&seen.request);
            if ids.len() + more <= most && (more == 0 || ids.admit(&seen.request)) {
                ids.add(&seen.request);
                chosen.push(&seen.request);
            }
        }
        if chosen.len() < FEWEST {
            return None;
        }
        let ids = chosen.iter().flat_map(|request| request.ids());
        Request::all(first.request.endpoint(), ids)
            .ok()
            .filter(Request::is_whole)
    }

    /// Takes each request's part of the answer to a comparison call that began at `begun`, if the
    /// request had its answer by then.
    pub(super) fn take_parts(
        &mut self,
        (asked, begun): (&Request, Instant),
        rows: &Rows,
        call: ComparisonCall,
        fits: impl Fn(&Request, usize) -> bool,
    ) {
        let hasher = self.answers.hasher().clone();
        let all: HashSet<&str> = asked.ids().collect();
        for seen in self.answers.values_mut() {
            let own: HashSet<&str> = seen.request.ids().collect();
            if seen.answered > begun || !own.is_subset(&all) {
                continue;
            }
            let wanted: Vec<bool> = asked.ids().map(|id| own.contains(id)).collect();
            let is_wanted = |id: usize| wanted.get(id) == Some(&true);
            let count = rows.iter().filter(|(id, ..)| is_wanted(*id)).count();
            // With more rows the answer alone may have been cut off.
            if fits(&seen.request, count) {
                seen.part = Some((hasher.hash_one(&*rows.only(is_wanted)), call));
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.answers.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.answers.clear();
    }
}
