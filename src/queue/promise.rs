//! Deadlines against slots: can everybody who was told to wait still be served in time?

use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// The deadlines of all waiting tickets, and the question whether the coming slots meet them.
///
/// Slots are alike and one after the other, so serving by deadline meets every deadline that any order can meet: the tickets can be served in
/// time if and only if, for each i, the i-th slot starts no later than the i-th deadline.
#[derive(Debug, Default)]
pub struct Promises {
    /// Ascending.
    deadlines: Vec<(Instant, u64)>,
}

impl Promises {
    /// Adds a ticket's deadline.
    pub fn add(&mut self, deadline: Instant, id: u64) {
        let index = self.index(deadline, id);
        self.deadlines.insert(index, (deadline, id));
    }

    /// Takes a ticket's deadline out.
    pub fn remove(&mut self, deadline: Instant, id: u64) {
        let index = self.index(deadline, id);
        if self.deadlines.get(index) == Some(&(deadline, id)) {
            self.deadlines.remove(index);
        }
    }

    /// Whether one more ticket can be promised its deadline: all others stay in time, and `reserve` slots before it stay free.
    #[must_use]
    pub fn can_add(&self, deadline: Instant, reserve: usize, slots: &VecDeque<Instant>) -> bool {
        let index = self.index(deadline, u64::MAX);
        let mut later = self.deadlines[index..].iter().zip(slots.iter().skip(index + 1));
        slots.get(index + reserve).is_some_and(|slot| *slot <= deadline)
            && later.all(|((promised, _), slot)| slot <= promised)
    }

    /// How many tickets must be served before one with this deadline may be preferred to them: up to the last that has no slot to spare.
    #[must_use]
    pub fn served_first(&self, deadline: Instant, slots: &VecDeque<Instant>) -> usize {
        let index = self.index(deadline, u64::MAX);
        let shifted = self.deadlines[..index].iter().zip(slots.iter().skip(1));
        let tight = (1..).zip(shifted).filter(|(_, ((promised, _), slot))| *slot > promised);
        tight.last().map_or(0, |(count, _)| count)
    }

    /// The ticket to serve now: `fair`, unless somebody with an earlier deadline would then be late; then the earliest of these.
    #[must_use]
    pub fn choose(&self, fair: (Instant, u64), slots: &VecDeque<Instant>) -> u64 {
        let index = self.index(fair.0, fair.1);
        let shifted = self.deadlines[..index].iter().zip(slots.iter().skip(1));
        let late = shifted.into_iter().any(|((promised, _), slot)| slot > promised);
        match self.deadlines.first() {
            Some((_, earliest)) if late => *earliest,
            _ => fair.1,
        }
    }

    /// The tickets that have to give up, because with them the coming slots cannot meet every deadline to within `tolerance`: of those who
    /// compete for a missing slot, the last to come.
    #[must_use]
    pub fn impossible(&self, slots: &VecDeque<Instant>, tolerance: Duration) -> Vec<u64> {
        let mut kept = BinaryHeap::new();
        let mut given_up = Vec::new();
        for (promised, id) in &self.deadlines {
            kept.push(*id);
            if slots
                .get(kept.len() - 1)
                .is_some_and(|slot| *slot > *promised + tolerance)
            {
                given_up.extend(kept.pop());
            }
        }
        given_up
    }

    /// All deadlines, ascending, and whose they are.
    #[must_use]
    pub fn deadlines(&self) -> &[(Instant, u64)] {
        &self.deadlines
    }

    fn index(&self, deadline: Instant, id: u64) -> usize {
        self.deadlines.partition_point(|entry| *entry < (deadline, id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promises(base: Instant, deadlines: &[u64]) -> Promises {
        let mut promises = Promises::default();
        for (id, deadline) in (0..).zip(deadlines) {
            promises.add(base + Duration::from_secs(*deadline), id);
        }
        promises
    }

    fn slots(base: Instant, starts: &[u64]) -> VecDeque<Instant> {
        starts.iter().map(|start| base + Duration::from_secs(*start)).collect()
    }

    #[test]
    fn a_ticket_that_would_push_another_past_its_deadline_is_not_promised() {
        let base = Instant::now();
        let at = |s| base + Duration::from_secs(s);
        let waiting = promises(base, &[4, 6]);
        let slots = slots(base, &[2, 5, 8, 11]);
        assert!(!waiting.can_add(at(4), 0, &slots));
        assert!(!waiting.can_add(at(5), 0, &slots), "the one due at 6 would start at 8");
        assert!(waiting.can_add(at(8), 0, &slots));
        assert!(!waiting.can_add(at(8), 1, &slots), "one slot stays free");
    }

    #[test]
    fn the_fair_choice_yields_only_when_somebody_would_be_late() {
        let base = Instant::now();
        let at = |s| base + Duration::from_secs(s);
        let waiting = promises(base, &[4, 100]);
        assert_eq!(waiting.choose((at(100), 1), &slots(base, &[0, 4, 8])), 1);
        assert_eq!(waiting.choose((at(100), 1), &slots(base, &[0, 5, 8])), 0);
    }

    #[test]
    fn whoever_has_no_slot_to_spare_is_served_before_a_newcomer() {
        let base = Instant::now();
        let at = |s| base + Duration::from_secs(s);
        let waiting = promises(base, &[4, 100, 8, 200]);
        let slots = slots(base, &[3, 6, 9, 12, 15]);
        assert_eq!(waiting.served_first(at(300), &slots), 2, "the ones due at 4 and at 8");
        assert_eq!(waiting.served_first(at(5), &slots), 1);
        assert_eq!(waiting.served_first(at(2), &slots), 0);
    }

    #[test]
    fn when_slots_come_later_than_thought_the_last_comer_gives_up() {
        let base = Instant::now();
        let waiting = promises(base, &[4, 9, 9]);
        let none = Duration::ZERO;
        assert!(waiting.impossible(&slots(base, &[3, 6, 9]), none).is_empty());
        assert_eq!(waiting.impossible(&slots(base, &[3, 6, 10]), none), [2]);
        assert!(
            waiting
                .impossible(&slots(base, &[3, 6, 10]), Duration::from_secs(1))
                .is_empty()
        );
        assert_eq!(waiting.impossible(&slots(base, &[50, 60, 70]), none), [0, 1, 2]);
    }
}
