//! When a replica's slots come: the coming slots of all, shared as the script will share them.
//!
//! The turns are those of the script: by weight, as long as somebody wants more. Two things bend them. A call that was promised here is served
//! by when it is due, and no other call may take the last slot that a promise of another replica needs. So promises hold whatever others come
//! to want later: they are promised only what is then left.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::rivals::{LOOK_AHEAD, Promise, Rivals};
use crate::quota::{Account, Forecast};

/// A call that is late by less is still made.
const TOLERANCE: Duration = Duration::from_secs(1);

/// The coming slots of all replicas.
#[derive(Debug)]
pub(super) struct Coming {
    forecast: Forecast,
    known: Vec<Instant>,
    /// From one slot to the next, further on than anybody looks: as the longest window gives them.
    apart: Duration,
}

impl Coming {
    pub(super) fn of(account: &Account, now: Instant) -> Self {
        let longest = account.ledger.limits().last();
        Self {
            forecast: Forecast::new(account, now),
            known: Vec::new(),
            apart: longest.map_or(Duration::ZERO, |limit| {
                limit.hold() / u32::try_from(limit.calls().max(1)).unwrap_or(u32::MAX)
            }),
        }
    }

    /// When the one after `index` others comes.
    fn at(&mut self, index: usize) -> Instant {
        while self.known.len() <= index.min(LOOK_AHEAD) {
            self.known.push(self.forecast.next_slot());
        }
        let beyond = u32::try_from(index.saturating_sub(LOOK_AHEAD)).unwrap_or(u32::MAX);
        self.known[index.min(LOOK_AHEAD)] + self.apart.saturating_mul(beyond)
    }

    /// How many of the first `most` come until that moment.
    fn until(&mut self, at: Instant, most: usize) -> usize {
        while self.known.len() < most && self.known.last().is_none_or(|last| *last <= at) {
            self.known.push(self.forecast.next_slot());
        }
        self.known.partition_point(|slot| *slot <= at).min(most)
    }
}

/// Appends the next `count` slots of a replica of this weight, which has promised `own`.
pub(super) fn share(
    coming: &mut Coming,
    (own, weight): (&[Promise], f64),
    rivals: &Rivals,
    count: usize,
    slots: &mut VecDeque<Instant>,
) {
    let promised: usize = own.iter().map(|promise| promise.calls).sum();
    let most = (count + rivals.before(count, weight) + rivals.promised_calls() + promised).min(LOOK_AHEAD);
    let kept = Kept::of(coming, own, &rivals.promised, most);
    // A newcomer must not count on what is known of the others' promises by the last of several only.
    let firsts = rivals.promised.iter().map(|promise| (promise.calls, promise.first));
    let firsts: Vec<_> = firsts.map(|(calls, due)| (calls, coming.until(due, most))).collect();
    let (spared, left) = (left_by(&kept.theirs, most), left_by(&firsts, most));
    let mut latest = latest(&kept.own, most).into_iter();
    let mut next = 0;
    for n in 1..=count {
        let turn = n - 1 + rivals.before(n, weight);
        let index = match latest.next() {
            Some(latest) => turn.min(latest).max(spared(n)),
            // Each of the others may have promised one more since it was heard of.
            None => turn.max(left(n + rivals.wishes.len())),
        };
        let index = index.max(next);
        slots.push_back(coming.at(index));
        next = index + 1;
    }
}

/// The promises that can be kept, each as calls and the number of slots that come until it is due.
struct Kept {
    own: Vec<(usize, usize)>,
    theirs: Vec<(usize, usize)>,
}

impl Kept {
    /// When more was promised than can be kept, because two replicas promised the same at once or slots come later than foreseen, all replicas
    /// give up the same: those due last.
    fn of(coming: &mut Coming, own: &[Promise], theirs: &[Promise], most: usize) -> Self {
        let own = own.iter().map(|promise| (promise, true));
        let mut all: Vec<_> = own.chain(theirs.iter().map(|promise| (promise, false))).collect();
        all.sort_by_key(|(promise, _)| promise.last);
        let (mut kept, mut owed) = (Self::none(), 0);
        for (promise, is_own) in all {
            let in_time = coming.until(promise.last + TOLERANCE, most);
            let calls = promise.calls.min(in_time.saturating_sub(owed));
            owed += calls;
            // Which of several is due when is not known; the script serves them by when the first is.
            if is_own {
                kept.own.push((calls, coming.until(promise.first, most)));
            } else {
                kept.theirs.push((calls, coming.until(promise.last, most)));
            }
        }
        kept
    }

    fn none() -> Self {
        Self {
            own: Vec::new(),
            theirs: Vec::new(),
        }
    }
}

/// For each of these promises, which slot it needs at the latest, so that all that are due later find one too.
fn latest(promises: &[(usize, usize)], most: usize) -> Vec<usize> {
    let (mut indices, mut before) = (Vec::new(), most);
    for (calls, until) in promises.iter().rev() {
        before = before.min(*until);
        for _ in 0..*calls {
            before = before.saturating_sub(1);
            indices.push(before);
        }
    }
    indices.reverse();
    indices
}

/// Which of the first `most` slots is the `n`-th (from 1) that these promises can do without, if each is kept as late as it may be.
fn left_by(promises: &[(usize, usize)], most: usize) -> impl Fn(usize) -> usize + use<> {
    let mut is_needed = vec![false; most];
    for index in latest(promises, most) {
        is_needed[index] = true;
    }
    let left: Vec<_> = (0..most).filter(|index| !is_needed[*index]).collect();
    move |n| {
        let beyond = n.saturating_sub(left.len());
        left.get(n - 1).copied().unwrap_or(most + beyond)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::quota::shared::rivals::Wish;
    use crate::quota::{Config, Limit};

    const SECOND: Duration = Duration::from_secs(1);

    /// Ten slots now, and one in every second from the tenth on.
    fn coming(now: Instant) -> Coming {
        let ten = NonZeroU32::new(10).unwrap();
        let limit = Limit::try_new(ten, SECOND * 10).unwrap();
        let config = Config::try_new(vec![limit], ten, SECOND).unwrap();
        Coming::of(&Account::new(&config, now), now)
    }

    fn rivals(wishes: &[(Option<usize>, f64)], promised: &[(usize, Instant)]) -> Rivals {
        let wish = |&(calls, weight): &(Option<usize>, f64)| Wish { calls, weight };
        let promise = |&(calls, due): &(usize, Instant)| Promise {
            calls,
            first: due,
            last: due,
        };
        Rivals {
            wishes: wishes.iter().map(wish).collect(),
            promised: promised.iter().map(promise).collect(),
        }
    }

    /// How many of the ten slots that come at once are this replica's, which has promised that many of them.
    fn at_once(rivals: &Rivals, own: usize) -> usize {
        let now = Instant::now();
        let own = rivals_promise(own, now);
        let mut slots = VecDeque::new();
        share(&mut coming(now), (&own, 1.0), rivals, 12, &mut slots);
        assert!(slots.iter().is_sorted());
        slots.iter().filter(|slot| **slot < now + SECOND).count()
    }

    fn rivals_promise(calls: usize, now: Instant) -> Vec<Promise> {
        let promise = Promise {
            calls,
            first: now + SECOND,
            last: now + SECOND,
        };
        [promise].into_iter().filter(|promise| promise.calls > 0).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn others_take_turns_for_as_much_as_they_want() {
        assert_eq!(at_once(&rivals(&[], &[]), 0), 10);
        assert_eq!(at_once(&rivals(&[(Some(1), 1.0), (Some(2), 1.0)], &[]), 0), 7);
        assert_eq!(at_once(&rivals(&[(None, 1.0)], &[]), 0), 5);
        assert_eq!(
            at_once(&rivals(&[(None, 4.0)], &[]), 0),
            2,
            "it has four times as many callers"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_have_promised_is_left_to_them_and_own_promises_come_in_time() {
        let soon = Instant::now() + SECOND;
        let others = rivals(&[(Some(6), 1.0)], &[(6, soon)]);
        assert_eq!(at_once(&others, 0), 3, "and one more for what is not yet known");
        let late = rivals(&[(None, 1.0)], &[(6, soon + SECOND * 60)]);
        assert_eq!(at_once(&late, 9), 9, "promised before the others came");
    }
}
