//! Who has been here, and how much each was served.

use std::collections::{BTreeMap, HashMap};

use foldhash::quality::RandomState;

use crate::caller::Name;

/// Callers remembered; beyond it the one not seen for longest is forgotten.
const MOST: usize = 1024;

/// The callers seen, in order of their last visit. Every step takes logarithmic time, whatever
/// names a flood makes up.
#[derive(Debug, Default)]
pub(super) struct RecentCallers {
    seen: HashMap<Name, Seen, RandomState>,
    /// By number of the last visit.
    order: BTreeMap<u64, Name>,
    visits: u64,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    visit: u64,
    served: u64,
}

impl RecentCallers {
    /// Notes a visit.
    pub(super) fn visit(&mut self, name: &Name) {
        let latest = self.visits;
        self.visits += 1;
        let visit = self.visits;
        if let Some(seen) = self.seen.get_mut(name) {
            // The same as last time: nobody is passed.
            if seen.visit == latest {
                self.visits = latest;
                return;
            }
            let before = std::mem::replace(&mut seen.visit, visit);
            self.order.remove(&before);
        } else {
            if self.seen.len() >= MOST
                && let Some((_, oldest)) = self.order.pop_first()
            {
                self.seen.remove(&oldest);
            }
            self.seen.insert(name.clone(), Seen { visit, served: 0 });
        }
        self.order.insert(visit, name.clone());
    }

    /// Notes that a caller was served.
    pub(super) fn served(&mut self, name: &Name) {
        if let Some(seen) = self.seen.get_mut(name) {
            seen.served += 1;
        }
    }

    /// Everybody remembered, with how often each was served since it was first seen.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, u64)> {
        self.seen.iter().map(|(name, seen)| (name, seen.served))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_names_push_out_the_oldest_only() {
        let mut callers = RecentCallers::default();
        let steady = Name::new("steady");
        for n in 0..10 * MOST {
            callers.visit(&Name::new(&n.to_string()));
            callers.visit(&steady);
            callers.served(&steady);
            assert!(callers.seen.len() <= MOST && callers.order.len() == callers.seen.len());
        }
        let served = callers.iter().find(|(name, _)| **name == steady).unwrap().1;
        assert_eq!(served, 10 * MOST as u64);
    }
}
