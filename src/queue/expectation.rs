//! Who is about to ask, of those who do not wait: requests that were refused and told when to come back, and callers that ask again whenever
//! they are answered.
//!
//! A forecast that counted only those who wait would let others in on slots that these claim a moment later. The order is told what is
//! expected of each caller, and how reliable it is.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use foldhash::quality::RandomState;
use tokio::time::Instant;

use super::order::{Expected, Order};
use crate::caller::{Name, Urgency};

/// Nothing is expected of a caller that has not asked for so long.
const RECENT: Duration = Duration::from_secs(10);

/// A caller that asks again so soon after its slot, so often in a row, asks again whenever it is answered. Callers that come at random do
/// that rarely.
const LONGEST_CYCLE: Duration = Duration::from_secs(5);
const CYCLES: usize = 3;

/// A return this much too early is on time.
const EARLY: Duration = Duration::from_secs(1);

/// A return is expected until so much later than it was told to come, and an eighth of what it was told.
const GRACE: Duration = Duration::from_secs(5);

/// Requests of one caller that come within this time are different ones, not one that does not obey.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Callers of which something is expected; beyond it the one is forgotten whose time is up first.
const MOST_CALLERS: usize = 4096;

/// Requests expected back in all.
const MOST_RETURNS: usize = 10_000;

/// A caller cannot be thought to ask more often than this.
const SHORTEST_CYCLE: Duration = Duration::from_millis(1);

/// What a request is to those that are expected of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// One that was refused, and comes when it was told to.
    Return,
    /// Another one, or one that comes early: so many are expected back that have a better right.
    New { behind: usize },
    /// One that waited until its place was taken back.
    Displaced,
}

impl Arrival {
    /// How many of its caller's that are expected back go first.
    pub(super) fn behind(self) -> usize {
        match self {
            Self::Return | Self::Displaced => 0,
            Self::New { behind } => behind,
        }
    }
}

/// What is expected of everybody.
#[derive(Debug, Default)]
pub(super) struct Expectations {
    callers: [HashMap<Name, History, RandomState>; Urgency::LEVELS],
    /// When each has to be looked at again, at the latest.
    looks: BTreeSet<(Instant, Urgency, Name)>,
    returns: usize,
}

#[derive(Debug)]
struct History {
    /// Ascending by when they are due.
    returns: VecDeque<Return>,
    /// When it had its last slot.
    granted: Option<Instant>,
    /// Whether the call has been answered since.
    is_answered: bool,
    /// From a slot to the next request, the last few times.
    gaps: [Option<Duration>; CYCLES],
    /// Until then it is expected to ask again, if it ever did.
    until: Instant,
    /// When one of its requests was refused last, and the first of those that were refused one right after the other.
    refused: Option<(Instant, Instant)>,
    look: Instant,
    told: Expected,
}

#[derive(Clone, Copy, Debug)]
struct Return {
    due: Instant,
    told: Instant,
}

impl Return {
    fn lapses(self) -> Instant {
        self.due + GRACE + self.due.saturating_duration_since(self.told) / 8
    }
}

impl History {
    fn new(now: Instant) -> Self {
        Self {
            returns: VecDeque::new(),
            granted: None,
            is_answered: false,
            gaps: [None; CYCLES],
            until: now + RECENT,
            refused: None,
            look: now + RECENT,
            told: Expected::default(),
        }
    }

    /// A request comes: how long after its caller's last slot, if that has been answered.
    fn observe(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.is_answered, false) {
            return;
        }
        let gap = self.granted.map(|granted| now.saturating_duration_since(granted));
        self.gaps.rotate_right(1);
        self.gaps[0] = gap.filter(|gap| *gap <= LONGEST_CYCLE);
    }

    /// From a slot to the next request, if it asks again whenever it is answered.
    fn cycle(&self) -> Option<Duration> {
        let longest = self.gaps.iter().copied().max().flatten();
        longest.filter(|_| self.gaps.iter().all(Option::is_some))
    }

    fn expected(&self, now: Instant) -> Expected {
        let cycle = self.cycle().filter(|_| now < self.until);
        let rate = |cycle: Duration| 1_000_000 / cycle.max(SHORTEST_CYCLE).as_millis();
        Expected {
            returning: self.returns.len(),
            loops: usize::from(cycle.is_some()),
            rate: cycle.map_or(0, |cycle| u64::try_from(rate(cycle)).unwrap_or(u64::MAX)),
        }
    }

    fn next_look(&self, now: Instant) -> Option<Instant> {
        let lapses = self.returns.front().map(|first| first.lapses());
        Some(self.until)
            .filter(|until| *until > now)
            .into_iter()
            .chain(lapses)
            .min()
    }
}

impl Expectations {
    /// A request comes.
    pub(super) fn arrive(&mut self, caller: &Name, urgency: Urgency, now: Instant, order: &mut Order) -> Arrival {
        self.expire(now, order);
        self.remember(caller, urgency, now, order);
        let mut arrival = Arrival::New { behind: 0 };
        self.update(caller, urgency, now, order, |history| {
            history.observe(now);
            history.until = now + RECENT;
            arrival = match history.returns.front() {
                Some(first) if first.due <= now + EARLY => Arrival::Return,
                // One of those that are expected may be this one.
                _ => Arrival::New {
                    behind: history.returns.len().saturating_sub(1),
                },
            };
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
        let mut came = 0;
        self.update(caller, urgency, now, order, |history| {
            let one = match arrival {
                Arrival::Return => history.returns.pop_front(),
                Arrival::New { .. } => history.returns.pop_back(),
                Arrival::Displaced => None,
            };
            came = usize::from(one.is_some());
            history.until = deadline + RECENT;
        });
        self.returns -= came;
    }

    /// How many of its caller's own a request goes behind that is refused.
    pub(super) fn ahead_of_refused(&self, caller: &Name, urgency: Urgency, arrival: Arrival, now: Instant) -> usize {
        let history = self.callers[usize::from(urgency.level())].get(caller);
        let returns = history.map_or(0, |history| history.returns.len());
        let is_one_of_them = match arrival {
            Arrival::Return => true,
            Arrival::New { .. } => history.is_some_and(|history| disobeys(history, now)),
            Arrival::Displaced => false,
        };
        returns - usize::from(is_one_of_them && returns > 0)
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
        let mut more = 0_isize;
        let has_room = self.returns < MOST_RETURNS;
        self.update(caller, urgency, now, order, |history| {
            let before = history.returns.len();
            match arrival {
                Arrival::Return => history.returns.pop_front(),
                Arrival::New { .. } if disobeys(history, now) => history.returns.pop_back(),
                Arrival::New { .. } | Arrival::Displaced => None,
            };
            if has_room {
                let at = history.returns.partition_point(|other| other.due <= due);
                history.returns.insert(at, Return { due, told: now });
            }
            let batch = history.refused.filter(|(last, _)| now < *last + AT_ONCE);
            history.refused = Some((now, batch.map_or(now, |(_, first)| first)));
            // One that asks again and again, and obeys, goes on when it is back.
            history.until = history.until.max(due + GRACE);
            more = history.returns.len().cast_signed() - before.cast_signed();
        });
        self.returns = self.returns.saturating_add_signed(more);
    }

    /// A caller has a slot.
    pub(super) fn granted(&mut self, caller: &Name, urgency: Urgency, now: Instant, order: &mut Order) {
        self.update(caller, urgency, now, order, |history| {
            (history.granted, history.is_answered) = (Some(now), false);
            history.until = now + RECENT;
        });
    }

    /// A caller's call is answered.
    pub(super) fn answered(&mut self, caller: &Name, urgency: Urgency, now: Instant, order: &mut Order) {
        self.update(caller, urgency, now, order, |history| {
            history.is_answered = history.granted.is_some();
            history.until = now + RECENT;
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
            while history.returns.front().is_some_and(|first| first.lapses() <= now) {
                history.returns.pop_front();
                self.returns -= 1;
                order.stayed_away(&caller, urgency);
            }
            let expected = history.expected(now);
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
        change: impl FnOnce(&mut History),
    ) {
        let Some(history) = self.callers[usize::from(urgency.level())].get_mut(caller) else {
            return;
        };
        change(history);
        let expected = history.expected(now);
        if let Some(look) = history.next_look(now).filter(|look| *look < history.look) {
            self.looks.remove(&(history.look, urgency, caller.clone()));
            history.look = look;
            self.looks.insert((look, urgency, caller.clone()));
        }
        if expected != history.told {
            history.told = expected;
            order.expect(caller, urgency, expected);
        }
    }
}

/// Whether a request that comes before its caller's are due is one of them, and not a further one. A caller that has had a slot since may ask
/// further, and several may come at once.
fn disobeys(history: &History, now: Instant) -> bool {
    let Some((last, first)) = history.refused.filter(|_| !history.returns.is_empty()) else {
        return false;
    };
    let is_served = history.granted.is_some_and(|granted| granted > last);
    !is_served && now >= first + AT_ONCE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Weights;

    const SECOND: Duration = Duration::from_secs(1);

    fn expected(expectations: &Expectations, caller: &Name) -> Option<Expected> {
        let urgency = usize::from(Urgency::default().level());
        expectations.callers[urgency].get(caller).map(|history| history.told)
    }

    #[test]
    fn a_caller_that_asks_again_whenever_it_is_answered_is_expected_until_it_stops() {
        let (mut order, mut expectations) = (Order::new(Weights::default()), Expectations::default());
        let (caller, urgency) = (Name::new("a"), Urgency::default());
        let mut now = Instant::now();
        for round in 0..6 {
            let arrival = expectations.arrive(&caller, urgency, now, &mut order);
            assert_eq!(order.loops(), usize::from(round > 2), "round {round}");
            expectations.let_in((&caller, urgency), arrival, now, now, &mut order);
            expectations.granted(&caller, urgency, now, &mut order);
            now += SECOND;
            expectations.answered(&caller, urgency, now, &mut order);
            now += SECOND;
        }
        assert_eq!(
            expected(&expectations, &caller).unwrap().rate,
            500,
            "one every two seconds"
        );
        expectations.expire(now + RECENT, &mut order);
        assert_eq!((order.loops(), expected(&expectations, &caller)), (0, None));
    }

    #[test]
    fn requests_that_come_at_once_are_no_loop() {
        let (mut order, mut expectations) = (Order::new(Weights::default()), Expectations::default());
        let (caller, urgency, now) = (Name::new("a"), Urgency::default(), Instant::now());
        for _ in 0..20 {
            let arrival = expectations.arrive(&caller, urgency, now, &mut order);
            expectations.let_in((&caller, urgency), arrival, now, now, &mut order);
            expectations.granted(&caller, urgency, now, &mut order);
        }
        assert_eq!(order.loops(), 0);
    }

    #[test]
    fn a_refused_request_is_expected_back_when_it_was_told_to_come_and_a_little_longer() {
        let (mut order, mut expectations) = (Order::new(Weights::default()), Expectations::default());
        let (caller, urgency, now) = (Name::new("a"), Urgency::default(), Instant::now());
        for wait in [10, 20, 30] {
            let arrival = expectations.arrive(&caller, urgency, now, &mut order);
            assert!(matches!(arrival, Arrival::New { .. }));
            expectations.refuse((&caller, urgency), arrival, now + wait * SECOND, now, &mut order);
        }
        assert_eq!(order.returning(), 3);
        // It comes when it was told to.
        let at = now + 10 * SECOND;
        let arrival = expectations.arrive(&caller, urgency, at, &mut order);
        assert_eq!(arrival, Arrival::Return);
        expectations.let_in((&caller, urgency), arrival, at, at, &mut order);
        assert_eq!(order.returning(), 2);
        // One that does not obey is one of them, not a further one.
        let arrival = expectations.arrive(&caller, urgency, at, &mut order);
        assert_eq!(arrival, Arrival::New { behind: 1 });
        expectations.refuse((&caller, urgency), arrival, now + 25 * SECOND, at, &mut order);
        assert_eq!(order.returning(), 2);
        expectations.expire(now + 60 * SECOND, &mut order);
        assert_eq!((order.returning(), expectations.returns), (0, 0));
    }

    #[test]
    fn what_is_expected_is_bounded_whatever_names_are_made_up() {
        let (mut order, mut expectations) = (Order::new(Weights::default()), Expectations::default());
        let (urgency, now) = (Urgency::default(), Instant::now());
        for n in 0..MOST_RETURNS * 2 {
            let caller = Name::new(&(n / 4).to_string());
            let arrival = expectations.arrive(&caller, urgency, now, &mut order);
            expectations.refuse((&caller, urgency), arrival, now + 60 * SECOND, now, &mut order);
            assert!(expectations.looks.len() <= MOST_CALLERS && expectations.returns <= MOST_RETURNS);
            assert_eq!(order.returning(), expectations.returns);
        }
        let one = Name::new("one");
        for _ in 0..MOST_RETURNS * 2 {
            let arrival = expectations.arrive(&one, urgency, now, &mut order);
            expectations.refuse((&one, urgency), arrival, now + 60 * SECOND, now, &mut order);
        }
        assert!(expectations.returns <= MOST_RETURNS);
        expectations.expire(now + 120 * SECOND, &mut order);
        assert_eq!((expectations.looks.len(), order.returning()), (0, 0));
    }
}
