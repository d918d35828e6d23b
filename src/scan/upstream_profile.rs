//! What the upstream's answers have shown about its behaviour.
//!
//! The order of rows, the number of ids that a call may name and the page size without `$top` are
//! not documented, and an answer may be cut off silently. Nothing is assumed: an answer counts as
//! complete only if a longer one has been seen, with `$top` or without; rows of different answers
//! are joined only in an order that every answer so far has confirmed, and only for as many ids as
//! a call was answered for.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::scan::{Endpoint, MergeEvidence, MergeRecord, Options, Request, Rows, SplitError};

/// What has been learned, shared by all parts that split or join answers.
#[derive(Debug)]
pub struct UpstreamProfile {
    endpoints: [Mutex<Learned>; Endpoint::COUNT],
    merge_evidence: MergeEvidence,
}

#[derive(Debug)]
struct Learned {
    /// An answer to a request without `$top` can have at least this many rows.
    longest: usize,
    /// An answer to a request with the largest `$top` can have at least this many rows, and no
    /// fewer than one without.
    longest_of_all: usize,
    /// A call can name at least this many ids.
    widest: usize,
    /// The number of recently requested ids, and of the rows that came.
    ids: usize,
    rows: usize,
    /// For each ordering, how many pairs of neighbouring rows have confirmed it; `None` once it was
    /// refuted.
    evidence: [Option<u32>; Ordering::ALL.len()],
    /// The text between two rows in the latest answer that had two.
    between: Option<Box<[u8]>>,
}

/// An order of rows that upstreams are known to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// By the row's time, the latest first.
    NewestFirst,
    /// By the row's time, the earliest first.
    OldestFirst,
    /// By id.
    Grouped,
}

impl Ordering {
    /// All orderings.
    pub const ALL: [Self; 3] = [Self::NewestFirst, Self::OldestFirst, Self::Grouped];

    /// How two rows, each an id and a time, must follow each other; `None` when this ordering does
    /// not tell.
    pub fn compare<I: Ord, T: Ord>(self, one: (I, Option<T>), other: (I, Option<T>)) -> Option<std::cmp::Ordering> {
        let order = match self {
            Self::Grouped => one.0.cmp(&other.0),
            Self::OldestFirst => one.1?.cmp(&other.1?),
            Self::NewestFirst => other.1?.cmp(&one.1?),
        };
        Some(order)
    }
}

impl UpstreamProfile {
    /// The number of pairs of neighbours, with different ids, that must confirm an ordering. The
    /// chance of a coincidence is one in 65,536.
    const ENOUGH: u32 = 16;

    /// A profile that has learned nothing. `known_rows` is how many rows an answer is known to have
    /// without being cut off; 0 if nothing is known.
    pub fn new(known_rows: usize) -> Self {
        let learned = || Learned {
            longest: known_rows,
            longest_of_all: known_rows,
            widest: 0,
            ids: 0,
            rows: 0,
            evidence: [Some(0); Ordering::ALL.len()],
            between: None,
        };
        Self {
            endpoints: std::array::from_fn(|_| Mutex::new(learned())),
            merge_evidence: MergeEvidence::new(),
        }
    }

    /// Whether merged answers are what each request is answered alone.
    pub fn merge_evidence(&self) -> &MergeEvidence {
        &self.merge_evidence
    }

    /// Takes over what an earlier process, or another replica, has found out about merging.
    pub fn adopt_merge_record(&self, endpoint: Endpoint, record: MergeRecord) {
        self.merge_evidence.adopt(endpoint, record);
        if record.is_proven() {
            let mut learned = self.learned(endpoint);
            learned.longest_of_all = learned.longest_of_all.max(record.rows);
            learned.widest = learned.widest.max(record.ids);
        }
    }

    /// Whether a request may be merged because that has been found out.
    pub fn may_merge(&self, request: &Request) -> bool {
        let endpoint = request.endpoint();
        self.merge_evidence.is_proven_for_several(endpoint)
            || self.merge_evidence.is_proven(endpoint) && (request.ids().len() == 1 || self.ordering(endpoint).is_ok())
    }

    /// Learns from an upstream answer to a request that wants all rows of its ids.
    pub fn learn(&self, request: &Request, rows: &Rows) {
        let mut learned = self.learned(request.endpoint());
        if !request.asks_for_all() {
            learned.longest = learned.longest.max(rows.len());
        }
        learned.order(rows);
        learned.longest_of_all = learned.longest_of_all.max(rows.len());
        learned.widest = learned.widest.max(rows.asked());
        learned.count(rows);
        if let Some(between) = rows.layout().and_then(|layout| layout.between) {
            learned.between = Some(between);
        }
    }

    /// The text between two rows; `None` when no answer has had two yet.
    pub fn between(&self, endpoint: Endpoint) -> Option<Box<[u8]>> {
        self.learned(endpoint).between.clone()
    }

    /// The number of rows that an answer to a request with the largest `$top` is known to have at
    /// least.
    pub fn longest(&self, endpoint: Endpoint) -> usize {
        self.learned(endpoint).longest_of_all
    }

    /// The mean number of recent rows for this many ids; `None` when no answer has come yet.
    pub fn rows_for(&self, endpoint: Endpoint, ids: usize) -> Option<usize> {
        let learned = self.learned(endpoint);
        (learned.rows > 0).then(|| ids.saturating_mul(learned.rows).div_ceil(learned.ids))
    }

    /// The mean number of ids for which this many recent rows came; `None` when no row has come
    /// yet.
    pub fn ids_for(&self, endpoint: Endpoint, rows: usize) -> Option<usize> {
        let learned = self.learned(endpoint);
        rows.saturating_mul(learned.ids).checked_div(learned.rows)
    }

    /// The most ids that a call was answered for.
    pub fn widest(&self, endpoint: Endpoint) -> usize {
        self.learned(endpoint).widest
    }

    /// Whether the upstream is certain to answer a request for this many ids, and not to reject it
    /// as too long.
    pub fn takes(&self, endpoint: Endpoint, ids: usize) -> bool {
        ids <= self.learned(endpoint).widest
    }

    /// Whether an answer to a request with the largest `$top` is certain to be complete. It has to
    /// be called before the answer is learned from.
    ///
    /// # Errors
    ///
    /// [`SplitError::FullPage`] when it is exactly as long as the longest seen, or as `$top`;
    /// [`SplitError::Longest`] when it is longer.
    pub fn complete(&self, endpoint: Endpoint, rows: &Rows) -> Result<(), SplitError> {
        let longest = self.learned(endpoint).longest_of_all;
        match rows.len().cmp(&longest) {
            // No page is smaller than one row.
            _ if rows.is_empty() => Ok(()),
            _ if rows.len() >= Options::MAX_TOP as usize => Err(SplitError::FullPage),
            std::cmp::Ordering::Less => Ok(()),
            std::cmp::Ordering::Equal => Err(SplitError::FullPage),
            std::cmp::Ordering::Greater => Err(SplitError::Longest),
        }
    }

    /// Whether an answer with this many rows is certain not to be cut off.
    pub fn is_complete(&self, request: &Request, rows: usize) -> bool {
        let learned = self.learned(request.endpoint());
        let longest = if request.asks_for_all() {
            learned.longest_of_all.min(Options::MAX_TOP as usize)
        } else {
            learned.longest
        };
        rows == 0 || rows < longest
    }

    /// Whether a request with this many rows would be answered with all of them.
    pub fn fits(&self, request: &Request, rows: usize) -> bool {
        let is_all = request.asks_for_all() && rows < Options::MAX_TOP as usize;
        rows == 0 || is_all || rows <= self.learned(request.endpoint()).longest
    }

    /// The order in which rows of different answers are joined.
    ///
    /// # Errors
    ///
    /// [`SplitError::Order`] while none is certain, or when two are, which would disagree sooner or
    /// later.
    pub fn ordering(&self, endpoint: Endpoint) -> Result<Ordering, SplitError> {
        let learned = self.learned(endpoint);
        let mut certain = Ordering::ALL
            .into_iter()
            .filter(|ordering| learned.evidence[*ordering as usize].is_some_and(|pairs| pairs >= Self::ENOUGH));
        match (certain.next(), certain.next()) {
            (Some(ordering), None) => Ok(ordering),
            _ => Err(SplitError::Order),
        }
    }

    fn learned(&self, endpoint: Endpoint) -> MutexGuard<'_, Learned> {
        // No code that holds the lock panics halfway through a change.
        self.endpoints[endpoint.index()]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Learned {
    fn count(&mut self, rows: &Rows) {
        /// The mean follows a change within this many ids.
        const MEMORY: usize = 10_000;
        self.ids += rows.asked();
        self.rows += rows.len();
        if self.ids > MEMORY {
            self.ids /= 2;
            self.rows /= 2;
        }
    }

    fn order(&mut self, rows: &Rows) {
        for ordering in Ordering::ALL {
            let mut before: Option<(usize, Option<&[u8]>)> = None;
            for (id, text, time) in rows.iter() {
                let row = (id, time.map(|time| &text[time]));
                if let Some(before) = before.replace(row) {
                    let evidence = &mut self.evidence[ordering as usize];
                    *evidence = match ordering.compare(before, row) {
                        Some(std::cmp::Ordering::Greater) => None,
                        // Rows of one id follow each other in any grouping, and equal times and
                        // rows without one show nothing.
                        Some(std::cmp::Ordering::Less) if before.0 != row.0 => {
                            evidence.map(|pairs| pairs.saturating_add(1))
                        }
                        None | Some(_) => *evidence,
                    };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with these rows: id and hour.
    fn rows(rows: &[(&str, u8)]) -> Rows {
        let ids: Vec<_> = rows.iter().map(|(id, _)| *id).chain(["z"]).collect();
        let rows: Vec<_> = rows
            .iter()
            .map(|(id, hour)| {
                format!(r#"{{"ScanDefinitionIds":"{id}","LastScanned":"2026-03-01T{hour:02}:00:00.0000000Z"}}"#)
            })
            .collect();
        let body = format!(r#"{{"value":[{}]}}"#, rows.join(","));
        Rows::split(&Request::plain(Endpoint::HISTORY, ids).unwrap(), &body.into()).unwrap()
    }

    fn learn(upstream_profile: &UpstreamProfile, rows: &Rows) {
        upstream_profile.learn(&Request::plain(Endpoint::HISTORY, ["z"]).unwrap(), rows);
    }

    #[test]
    fn an_answer_is_complete_only_if_a_longer_one_was_seen() {
        let upstream_profile = UpstreamProfile::new(0);
        let answer = |upstream_profile: &UpstreamProfile, endpoint, n| {
            let rows = rows(&vec![("a", 1); n]);
            let complete = upstream_profile.complete(endpoint, &rows);
            upstream_profile.learn(&Request::plain(endpoint, ["z"]).unwrap(), &rows);
            complete
        };
        let learn = |n| answer(&upstream_profile, Endpoint::HISTORY, n);
        assert_eq!(learn(0), Ok(()), "no page is smaller than one row");
        assert_eq!(learn(3), Err(SplitError::Longest));
        assert_eq!(learn(3), Err(SplitError::FullPage), "three may be what a page holds");
        assert_eq!(learn(2), Ok(()));
        assert_eq!(learn(4), Err(SplitError::Longest));
        assert_eq!(learn(3), Ok(()));
        assert_eq!(
            answer(&upstream_profile, Endpoint::HISTORY_V1, 1),
            Err(SplitError::Longest),
            "versions are apart"
        );
        assert_eq!(answer(&UpstreamProfile::new(4), Endpoint::HISTORY, 3), Ok(()));
        assert_eq!(
            answer(&UpstreamProfile::new(4), Endpoint::HISTORY, 4),
            Err(SplitError::FullPage)
        );
    }

    #[test]
    fn so_many_ids_are_taken_as_were_answered_for() {
        let upstream_profile = UpstreamProfile::new(0);
        assert!(!upstream_profile.takes(Endpoint::HISTORY, 1));
        // For a, b and z.
        learn(&upstream_profile, &rows(&[("a", 1), ("b", 1)]));
        assert!(upstream_profile.takes(Endpoint::HISTORY, 3));
        assert!(!upstream_profile.takes(Endpoint::HISTORY, 4));
        assert!(!upstream_profile.takes(Endpoint::HISTORY_V1, 1), "versions are apart");
    }

    #[test]
    fn rows_are_expected_as_they_came_of_late() {
        let upstream_profile = UpstreamProfile::new(0);
        assert_eq!(upstream_profile.rows_for(Endpoint::HISTORY, 10), None);
        assert_eq!(upstream_profile.ids_for(Endpoint::HISTORY, 10), None);
        // Four rows for every two ids.
        learn(&upstream_profile, &rows(&[("a", 1); 4]));
        assert_eq!(upstream_profile.rows_for(Endpoint::HISTORY, 10), Some(20));
        assert_eq!(upstream_profile.ids_for(Endpoint::HISTORY, 10), Some(5));
        for _ in 0..100_000 {
            learn(&upstream_profile, &rows(&[("a", 1)]));
        }
        assert_eq!(upstream_profile.rows_for(Endpoint::HISTORY, 100), Some(50));
        assert_eq!(upstream_profile.longest(Endpoint::HISTORY), 4);
    }

    fn taught(lesson: &[(&str, u8)], times: usize) -> Result<Ordering, SplitError> {
        let upstream_profile = UpstreamProfile::new(0);
        for _ in 0..times {
            learn(&upstream_profile, &rows(lesson));
        }
        upstream_profile.ordering(Endpoint::HISTORY)
    }

    #[test]
    fn an_order_is_believed_after_enough_evidence() {
        let newest = [("b", 9), ("a", 8), ("b", 7), ("b", 6), ("a", 6)];
        assert_eq!(taught(&newest, 5), Err(SplitError::Order));
        assert_eq!(taught(&newest, 8), Ok(Ordering::NewestFirst));
        assert_eq!(taught(&[("b", 1), ("a", 2)], 16), Ok(Ordering::OldestFirst));
        assert_eq!(
            taught(&[("a", 2), ("a", 1), ("b", 3), ("b", 1)], 16),
            Ok(Ordering::Grouped)
        );
    }

    #[test]
    fn rows_that_fit_several_orders_confirm_none() {
        assert_eq!(
            taught(&[("a", 2), ("b", 1)], 99),
            Err(SplitError::Order),
            "two orderings fit"
        );
        assert_eq!(taught(&[("a", 3), ("a", 2), ("a", 1)], 99), Err(SplitError::Order));
        assert_eq!(taught(&[("a", 1), ("b", 2), ("a", 1)], 99), Err(SplitError::Order));
    }

    #[test]
    fn one_counterexample_is_enough() {
        let upstream_profile = UpstreamProfile::new(0);
        for _ in 0..99 {
            learn(&upstream_profile, &rows(&[("b", 2), ("a", 1)]));
        }
        assert_eq!(upstream_profile.ordering(Endpoint::HISTORY), Ok(Ordering::NewestFirst));
        learn(&upstream_profile, &rows(&[("b", 1), ("a", 2)]));
        assert_eq!(upstream_profile.ordering(Endpoint::HISTORY), Err(SplitError::Order));
    }
}
