//! Who has been here lately, and how much each was served.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use foldhash::quality::RandomState;
use tokio::time::Instant;

use crate::caller::Name;

/// A caller counts as one of the others for this long after its last request.
pub(super) const LATELY: Duration = Duration::from_mins(10);

/// Callers remembered; beyond it the one not seen for longest is forgotten.
const MOST: usize = 1024;

/// The callers seen, in order of their last visit. Every step takes logarithmic time, whatever names a flood makes up.
#[derive(Debug, Default)]
pub(super) struct Visitors {
    seen: HashMap<Name, Visitor, RandomState>,
    /// By number of the last visit.
    order: BTreeMap<u64, (Instant, Name)>,
    visits: u64,
    /// Visits from this number on count as lately.
    lately_from: u64,
    lately: usize,
}

#[derive(Clone, Copy, Debug)]
struct Visitor {
    visit: u64,
    served: u64,
}

impl Visitors {
    /// Notes a visit; returns how many others have been here lately.
    pub(super) fn visit(&mut self, name: &Name, now: Instant) -> usize {
        self.forget_old(now);
        let latest = self.visits;
        self.visits += 1;
        let visit = self.visits;
        if let Some(visitor) = self.seen.get_mut(name) {
            // The same as last time: nobody is passed.
            if visitor.visit == latest
                && latest >= self.lately_from
                && let Some(mut last) = self.order.last_entry()
            {
                last.get_mut().0 = now;
                self.visits = latest;
                return self.lately - 1;
            }
            self.order.remove(&visitor.visit);
            self.lately -= usize::from(visitor.visit >= self.lately_from);
            visitor.visit = visit;
        } else {
            if self.seen.len() >= MOST {
                self.forget_one();
            }
            self.seen.insert(name.clone(), Visitor { visit, served: 0 });
        }
        self.order.insert(visit, (now, name.clone()));
        self.lately += 1;
        self.lately - 1
    }

    /// Notes that a caller was served.
    pub(super) fn served(&mut self, name: &Name) {
        if let Some(visitor) = self.seen.get_mut(name) {
            visitor.served += 1;
        }
    }

    /// Everybody remembered, with how often each was served since it was first seen.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, u64)> {
        self.seen.iter().map(|(name, visitor)| (name, visitor.served))
    }

    /// Those whose last visit was too long ago count no more; they are still remembered.
    fn forget_old(&mut self, now: Instant) {
        while let Some((visit, _)) = self
            .order
            .range(self.lately_from..)
            .next()
            .filter(|(_, (at, _))| now.saturating_duration_since(*at) >= LATELY)
        {
            self.lately_from = visit + 1;
            self.lately -= 1;
        }
    }

    fn forget_one(&mut self) {
        if let Some((visit, (_, name))) = self.order.pop_first() {
            self.seen.remove(&name);
            self.lately -= usize::from(visit >= self.lately_from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn others_are_those_seen_within_ten_minutes(
            visits in prop::collection::vec((0_u8..12, 0_u64..400), 1..200)
        ) {
            let mut now = Instant::now();
            let mut visitors = Visitors::default();
            let mut model = HashMap::<u8, Instant>::new();
            for (who, gap_s) in visits {
                now += Duration::from_secs(gap_s);
                let others = model.iter().filter(|(name, at)| **name != who && now - **at < LATELY).count();
                prop_assert_eq!(visitors.visit(&Name::new(&who.to_string()), now), others);
                model.insert(who, now);
            }
        }
    }

    #[test]
    fn made_up_names_push_out_the_oldest_only() {
        let now = Instant::now();
        let mut visitors = Visitors::default();
        let steady = Name::new("steady");
        for n in 0..10 * MOST {
            visitors.visit(&Name::new(&n.to_string()), now);
            visitors.visit(&steady, now);
            visitors.served(&steady);
            assert!(visitors.seen.len() <= MOST && visitors.order.len() == visitors.seen.len());
        }
        assert_eq!(visitors.visit(&steady, now), MOST - 1);
        let served = visitors.iter().find(|(name, _)| **name == steady).unwrap().1;
        assert_eq!(served, 10 * MOST as u64);
    }
}
