//! One urgency class: its callers in fair order, those who wait and those who are expected to ask.

use std::collections::{BTreeSet, HashMap, VecDeque};

use foldhash::quality::RandomState;
use tokio::time::Instant;

use super::Ticket;
use super::competitors::Expected;
use super::position::Standing;
use crate::attempt::{FlowDemand, SharedOrder};
use crate::caller::Name;
use crate::queue::Weights;

/// One service, in units of tags, for weight 1. Divisible by every weight up to 1000 to within a
/// ten-thousandth, and 2^40 services of one caller fit: at a thousand a second, 35 years.
pub(super) const STRIDE: u64 = 1 << 24;

/// The unit of positions in a shared order, in tags.
const IN_TAGS: i64 = STRIDE.cast_signed() / SharedOrder::SERVICE;

/// Idle callers that still owe are remembered up to this many; beyond it debts are forgiven, which
/// harms nobody for longer than one turn.
const DEBTORS: usize = 4096;

/// A caller that waits.
#[derive(Debug)]
pub(super) struct Flow {
    /// Where its next service ends.
    pub(super) tag: u64,
    /// Among equal tags the lower turn is served first: who was served or came longest ago.
    pub(super) turn: u64,
    pub(super) stride: u64,
    /// Deadline and id.
    pub(super) tickets: BTreeSet<(Instant, u64)>,
    pub(super) expected: Expected,
    /// When its refused requests are due that claim slots, ascending.
    pub(super) dues: VecDeque<Instant>,
    /// Whether it came back to a tag that was kept for it.
    is_reclaimed: bool,
}

/// A caller that does not wait, but is expected to ask.
#[derive(Debug)]
pub(super) struct Idle {
    /// Where its last service ended.
    last: u64,
    /// The tag and turn of a request that was refused: they are kept until it returns.
    kept: Option<(u64, u64)>,
    stride: u64,
    pub(super) expected: Expected,
    /// When its refused requests are due that claim slots, ascending.
    pub(super) dues: VecDeque<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct Class {
    /// Where its next service starts.
    pub(super) tag: u64,
    pub(super) flows: HashMap<Name, Flow, RandomState>,
    pub(super) idle: HashMap<Name, Idle, RandomState>,
    /// Flows by who is next: tag, then turn.
    pub(super) next: BTreeSet<(u64, u64, Name)>,
    /// Callers who do not wait, and where their last service ended, if that is past the clock.
    idle_flows: HashMap<Name, u64, RandomState>,
    pub(super) waiting: usize,
    /// What is expected of all its callers.
    pub(super) expected: Expected,
    /// When the refused requests of all are due that claim slots, ascending.
    pub(super) dues: VecDeque<Instant>,
    /// The tag of the flow served last.
    now: u64,
    turns: u64,
    /// The clock that stands for `now` in an order that is kept elsewhere.
    shared_clock: Option<i64>,
}

impl Class {
    /// Where the next service of this class starts, when the clock stands there.
    pub(super) fn start(&self, now: u64) -> u64 {
        if self.waiting == 0 { self.tag.max(now) } else { self.tag }
    }

    pub(super) fn add(&mut self, ticket: &Ticket, stride: u64) {
        self.waiting += 1;
        let key = (ticket.deadline, ticket.id);
        if let Some(flow) = self.flows.get_mut(&ticket.caller) {
            flow.tickets.insert(key);
            return;
        }
        let standing = self.standing(&ticket.caller, stride);
        self.turns = self.turns.max(standing.turn);
        let idle = self.idle.remove(&ticket.caller);
        self.idle_flows.remove(&ticket.caller);
        let flow = Flow {
            tag: standing.tag,
            turn: standing.turn,
            stride,
            tickets: BTreeSet::from([key]),
            expected: idle.as_ref().map(|idle| idle.expected).unwrap_or_default(),
            is_reclaimed: idle.as_ref().is_some_and(|idle| idle.kept.is_some()),
            dues: idle.map(|idle| idle.dues).unwrap_or_default(),
        };
        self.next.insert((flow.tag, flow.turn, ticket.caller.clone()));
        self.flows.insert(ticket.caller.clone(), flow);
    }

    /// Where the next service of this caller ends: the one it waits for, or the one it would wait
    /// for if it asked now.
    pub(super) fn standing(&self, caller: &Name, stride: u64) -> Standing {
        if let Some(flow) = self.flows.get(caller) {
            return flow.standing();
        }
        let last = match self.idle.get(caller) {
            Some(idle) => match self.kept(idle) {
                Some((tag, turn)) => return Standing { tag, turn, stride },
                None => idle.last,
            },
            None => self.idle_flows.get(caller).copied().unwrap_or(0),
        };
        Standing {
            tag: last.max(self.now) + stride,
            turn: self.turns + 1,
            stride,
        }
    }

    /// Where a caller that does not wait stands, if it asks some time from now.
    pub(super) fn standing_of_idle(&self, idle: &Idle) -> Standing {
        let (tag, turn) = self
            .kept(idle)
            .unwrap_or((idle.last.max(self.now) + idle.stride, u64::MAX));
        Standing {
            tag,
            turn,
            stride: idle.stride,
        }
    }

    /// The tag and turn that are kept for a caller.
    fn kept(&self, idle: &Idle) -> Option<(u64, u64)> {
        let (tag, turn) = idle.kept?;
        Some((owed(tag, idle.stride, idle.expected.returning, self.now), turn))
    }

    /// Where a caller of another queue stands.
    pub(super) fn standing_of_other(&self, other: &FlowDemand) -> Standing {
        let stride = STRIDE / u64::from(other.weight.clamp(1, Weights::MOST));
        Standing {
            tag: other
                .position
                .map_or(self.now + stride, |position| self.tag_at(position)),
            turn: u64::MAX,
            stride,
        }
    }

    pub(super) fn tag_at(&self, position: i64) -> u64 {
        self.now.saturating_add_signed(position.saturating_mul(IN_TAGS))
    }

    /// The clock moves as far as the shared one has since it was told last.
    pub(super) fn keep_time_with(&mut self, clock: i64) {
        let moved = match self.shared_clock.replace(clock) {
            // Callers may stand behind the clock.
            None => STRIDE << 16,
            // The shared clock begins again at zero from time to time, when nobody waits.
            Some(before) => u64::try_from((clock - before).saturating_mul(IN_TAGS)).unwrap_or(0),
        };
        self.now = self.now.saturating_add(moved);
    }

    /// A caller's next service ends there in the shared order.
    pub(super) fn stand_at(&mut self, caller: &Name, position: i64) {
        let tag = self.tag_at(position);
        if let Some(flow) = self.flows.get_mut(caller) {
            self.next.remove(&(flow.tag, flow.turn, caller.clone()));
            flow.tag = tag;
            self.next.insert((flow.tag, flow.turn, caller.clone()));
        } else if let Some(idle) = self.idle.get_mut(caller) {
            idle.last = tag.saturating_sub(idle.stride);
            idle.kept = idle.kept.map(|(_, turn)| (tag, turn));
        }
    }

    /// A caller comes and is served while nobody waits: what it had on its tag is behind the clock
    /// at once.
    pub(super) fn pass(&mut self, caller: &Name, stride: u64) {
        let tag = self.standing(caller, stride).tag;
        self.idle_flows.remove(caller);
        // One turn to come, one to be served.
        self.turns += 2;
        self.now = self.now.max(tag);
        if let Some(idle) = self.idle.get_mut(caller) {
            idle.last = tag;
            idle.kept = idle.kept.map(|_| (tag + stride, self.turns));
        }
    }

    pub(super) fn remove(&mut self, ticket: &Ticket) {
        let Some(flow) = self.flows.get_mut(&ticket.caller) else {
            return;
        };
        if flow.tickets.remove(&(ticket.deadline, ticket.id)) {
            self.waiting -= 1;
        }
        if !flow.tickets.is_empty() {
            return;
        }
        self.next.remove(&(flow.tag, flow.turn, ticket.caller.clone()));
        let last = flow.tag.saturating_sub(flow.stride);
        let Some(flow) = self.flows.remove(&ticket.caller) else {
            return;
        };
        if flow.expected.is_none() {
            self.owe(&ticket.caller, last);
        } else {
            let idle = Idle {
                last,
                kept: (flow.expected.returning > 0).then_some((flow.tag, flow.turn)),
                stride: flow.stride,
                expected: flow.expected,
                dues: flow.dues,
            };
            self.idle.insert(ticket.caller.clone(), idle);
        }
    }

    /// Notes what is expected of a caller from now on. The tag of a refused request is kept as long
    /// as it is expected back.
    pub(super) fn expect(&mut self, caller: &Name, stride: u64, expected: Expected) {
        let standing = self.standing(caller, stride);
        let before = if let Some(flow) = self.flows.get_mut(caller) {
            std::mem::replace(&mut flow.expected, expected)
        } else if let Some(idle) = self.idle.get_mut(caller) {
            idle.last = idle.kept.map_or(idle.last, |(tag, _)| tag.saturating_sub(idle.stride));
            idle.kept = (expected.returning > 0).then_some((standing.tag, standing.turn));
            std::mem::replace(&mut idle.expected, expected)
        } else {
            Expected::default()
        };
        self.expected.returning = (self.expected.returning + expected.returning).saturating_sub(before.returning);
        self.expected.loops = (self.expected.loops + expected.loops).saturating_sub(before.loops);
        self.expected.rate = (self.expected.rate + expected.rate).saturating_sub(before.rate);
        if self.flows.contains_key(caller) {
            return;
        }
        match self.idle.get(caller) {
            Some(idle) if expected.is_none() => {
                let last = idle.last;
                self.idle.remove(caller);
                self.owe(caller, last);
            }
            Some(_) => self.turns = self.turns.max(standing.turn.min(self.turns + 1)),
            None if expected.is_none() => {}
            None => {
                let last = self.idle_flows.remove(caller).unwrap_or(0);
                self.turns = self.turns.max(standing.turn);
                let idle = Idle {
                    last,
                    kept: (expected.returning > 0).then_some((standing.tag, standing.turn)),
                    stride,
                    expected,
                    dues: VecDeque::new(),
                };
                self.idle.insert(caller.clone(), idle);
            }
        }
    }

    /// A request did not return whose turn was kept: the turn of the caller's next one is a stride
    /// later.
    pub(super) fn miss(&mut self, caller: &Name) {
        if let Some(idle) = self.idle.get_mut(caller) {
            idle.kept = idle.kept.map(|(tag, turn)| (tag + idle.stride, turn));
        }
    }

    /// One service of a caller that waits.
    pub(super) fn pay(&mut self, caller: &Name) {
        let Some(flow) = self.flows.get_mut(caller) else {
            return;
        };
        self.turns += 1;
        self.next.remove(&(flow.tag, flow.turn, caller.clone()));
        let served = flow.tag;
        flow.tag += flow.stride;
        flow.turn = self.turns;
        // What was kept for requests that were refused is not credit for further ones.
        if flow.is_reclaimed {
            flow.tag = owed(flow.tag, flow.stride, flow.expected.returning, self.now);
            flow.is_reclaimed = flow.expected.returning > 0;
        }
        self.next.insert((flow.tag, flow.turn, caller.clone()));
        // A flow served out of turn must not drag the clock ahead of the others.
        let lowest = self.next.first().map_or(served, |(tag, _, _)| (*tag).min(served));
        self.now = self.now.max(lowest);
    }

    /// Charges a caller `more`, and `less`, for services it had already: from where it stands now.
    pub(super) fn adjust(&mut self, caller: &Name, more: u64, less: u64) {
        let adjusted = |tag: u64| (tag + more).saturating_sub(less);
        let kept = self.idle.get(caller).and_then(|idle| self.kept(idle));
        if let Some(flow) = self.flows.get_mut(caller) {
            self.next.remove(&(flow.tag, flow.turn, caller.clone()));
            flow.tag = adjusted(flow.tag);
            self.next.insert((flow.tag, flow.turn, caller.clone()));
        } else if let Some(idle) = self.idle.get_mut(caller) {
            idle.last = adjusted(idle.last.max(self.now));
            idle.kept = kept.map(|(tag, turn)| (adjusted(tag), turn));
        } else {
            let last = self.idle_flows.remove(caller).unwrap_or(0).max(self.now);
            self.owe(caller, adjusted(last));
        }
    }

    pub(super) fn reweigh(&mut self, stride: impl Fn(&Name) -> u64) {
        for (name, flow) in &mut self.flows {
            flow.stride = stride(name);
        }
        for (name, idle) in &mut self.idle {
            idle.stride = stride(name);
        }
    }

    /// A refused request of this caller, of which something is expected, claims a slot from `due`
    /// on.
    pub(super) fn claim(&mut self, caller: &Name, due: Instant) {
        if let Some(dues) = self.dues_of_mut(caller) {
            insert(dues, due);
            insert(&mut self.dues, due);
        }
    }

    /// It does not any more.
    pub(super) fn withdraw(&mut self, caller: &Name, due: Instant) {
        if self.dues_of_mut(caller).is_some_and(|dues| remove(dues, due)) {
            remove(&mut self.dues, due);
        }
    }

    /// When the refused requests of this caller are due that claim slots.
    pub(super) fn dues_of(&self, caller: &Name) -> Option<&VecDeque<Instant>> {
        let flow = self.flows.get(caller).map(|flow| &flow.dues);
        flow.or_else(|| self.idle.get(caller).map(|idle| &idle.dues))
    }

    fn dues_of_mut(&mut self, caller: &Name) -> Option<&mut VecDeque<Instant>> {
        if let Some(flow) = self.flows.get_mut(caller) {
            return Some(&mut flow.dues);
        }
        self.idle.get_mut(caller).map(|idle| &mut idle.dues)
    }

    /// Remembers where the last service of a caller ended that does not wait.
    fn owe(&mut self, caller: &Name, last: u64) {
        if last <= self.now {
            return;
        }
        if self.idle_flows.len() >= DEBTORS {
            let now = self.now;
            self.idle_flows.retain(|_, last| *last > now);
            if self.idle_flows.len() >= DEBTORS {
                self.idle_flows.clear();
            }
        }
        self.idle_flows.insert(caller.clone(), last);
    }
}

/// A tag that was kept for so many requests: behind the clock by what is owed to them, and by no
/// more, however far the clock has come since. With the last of them the caller has caught up.
fn owed(tag: u64, stride: u64, returning: usize, now: u64) -> u64 {
    let turns = returning.saturating_sub(1) as u64;
    tag.max(now.saturating_sub(stride.saturating_mul(turns)))
}

fn insert(dues: &mut VecDeque<Instant>, due: Instant) {
    let at = dues.partition_point(|other| *other <= due);
    dues.insert(at, due);
}

fn remove(dues: &mut VecDeque<Instant>, due: Instant) -> bool {
    let at = dues.partition_point(|other| *other < due);
    dues.get(at) == Some(&due) && dues.remove(at).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_debtors_are_remembered_than_so_many() {
        let mut class = Class::default();
        for n in 0..=DEBTORS {
            class.owe(&Name::new(&n.to_string()), STRIDE);
        }
        assert!(class.idle_flows.len() <= DEBTORS);
    }
}
