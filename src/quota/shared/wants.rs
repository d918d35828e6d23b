//! What waits here, as far as the store knows it, and what waits at other replicas.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::messages::{self, SyncReply, Want};
use crate::attempt::{ClassPosition, FlowDemand, FlowOrder, SharedOrder};
use crate::caller::{Name, Urgency};

/// Most flows that a replica tells of: those whose turn is next.
const MOST_TOLD: usize = 64;

/// Most deadlines of one flow that it tells of.
const DEADLINES: usize = 16;

/// Most flows of others that are heard of.
const MOST_HEARD: usize = 128;

/// More than ever wait at all replicas: a bound on what the store may say.
const MOST_WAITING: f64 = 1e6;

/// Moments that are no further apart are one.
const AS_GOOD: Duration = Duration::from_millis(100);

/// No clock in the store, and nothing that is measured from it, is further.
const FURTHEST: f64 = (1_u64 << 46) as f64;

/// For whom a slot is.
pub(super) type Flow = (Urgency, Name);

/// What waits here, and what of it was declared to the store.
#[derive(Clone, Debug)]
pub(super) struct Wants {
    /// This replica's own name.
    me: String,
    /// As the queue said last.
    wanted: Vec<FlowDemand>,
    /// As the store knows it.
    declared: Vec<DeclaredFlow>,
    /// What was said last has to be said again, whatever it is.
    must_tell: bool,
}

/// A flow and its name in the store.
#[derive(Clone, Debug)]
struct DeclaredFlow {
    name: String,
    demand: FlowDemand,
}

impl DeclaredFlow {
    fn is(&self, (urgency, caller): &Flow) -> bool {
        self.demand.urgency == *urgency && self.demand.caller == *caller
    }

    fn flow(&self) -> Flow {
        (self.demand.urgency, self.demand.caller.clone())
    }

    fn serve_one(&mut self) {
        self.demand.waiting = self.demand.waiting.saturating_sub(1);
        if self.demand.deadlines.len() > 1 {
            self.demand.deadlines.remove(0);
        }
    }

    /// Whether nothing is gained by telling `new` in place of this.
    fn is_as_good_as(&self, new: &Self) -> bool {
        let about = |a: usize, b: usize| (a == 0) == (b == 0) && a <= b * 2 && b <= a * 2;
        let (old, is_same) = (&self.demand, self.name == new.name);
        let new = &new.demand;
        is_same
            && old.weight == new.weight
            && old.waiting == new.waiting
            && about(old.returning, new.returning)
            && old.kept == new.kept
            && old.dues == new.dues
            && old.asks_again == new.asks_again
            && (old.waiting == 0 || old.deadlines.first() == new.deadlines.first())
    }

    fn say(&self, now: Instant) -> Want {
        let demand = &self.demand;
        let deadlines = demand.deadlines.iter().take(DEADLINES);
        (
            self.name.clone(),
            demand.weight.clamp(1, 1000),
            demand.waiting,
            demand.returning,
            usize::from(demand.asks_again),
            deadlines.map(|at| -messages::age(*at, now)).collect(),
            demand.dues.iter().map(|at| -messages::age(*at, now)).collect(),
            demand.kept,
        )
    }
}

impl Wants {
    pub(super) fn new(me: String) -> Self {
        Self {
            me,
            wanted: Vec::new(),
            declared: Vec::new(),
            must_tell: false,
        }
    }

    /// A flow's name in the store. Who is known by no more than being on this machine is not the
    /// one who is on another.
    pub(super) fn name_of(&self, urgency: Urgency, caller: &Name) -> String {
        let place = if caller.is_local() { &*self.me } else { "" };
        SharedOrder::flow_at(place, urgency, caller)
    }

    /// Takes in what the queue wants now; says whether that is something else.
    pub(super) fn demand(&mut self, flows: &dyn FlowOrder) -> bool {
        let wanted = flows.flows(MOST_TOLD);
        let is_other = wanted != self.wanted;
        self.wanted = wanted;
        is_other
    }

    /// Whether anything is wanted, now or soon.
    pub(super) fn any(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// How many requests the store believes to wait here.
    pub(super) fn declared(&self) -> usize {
        self.declared.iter().map(|declared| declared.demand.waiting).sum()
    }

    /// What to tell: `None` when the store knows it. The slots `in_hand` serve some of what waits.
    pub(super) fn tell<'a>(&mut self, in_hand: impl Iterator<Item = &'a Flow>, now: Instant) -> Option<Vec<Want>> {
        let declare = |demand: &FlowDemand| DeclaredFlow {
            name: self.name_of(demand.urgency, &demand.caller),
            demand: demand.clone(),
        };
        let mut wants: Vec<_> = self.wanted.iter().map(declare).collect();
        for flow in in_hand {
            if let Some(served) = wants.iter_mut().find(|want| want.is(flow)) {
                served.serve_one();
            }
        }
        let is_known = wants.len() == self.declared.len()
            && self
                .declared
                .iter()
                .zip(&wants)
                .all(|(declared, want)| declared.is_as_good_as(want));
        if is_known && !self.must_tell {
            return None;
        }
        self.must_tell = false;
        self.declared = wants;
        Some(self.declared.iter().map(|declared| declared.say(now)).collect())
    }

    /// A slot was granted to a flow of this name: for whom it is.
    pub(super) fn grant(&mut self, name: &str) -> Option<Flow> {
        let declared = self.declared.iter_mut().find(|declared| declared.name == name)?;
        declared.serve_one();
        Some(declared.flow())
    }

    /// The store may not know what was declared to it.
    pub(super) fn forget_declared(&mut self) {
        self.declared.clear();
        self.must_tell = true;
    }

    /// What was told has to be told again.
    pub(super) fn tell_again(&mut self) {
        self.must_tell = true;
    }

    /// The order of all replicas, as the store says now; `before` is what it said before.
    pub(super) fn order(&self, reply: &SyncReply, before: &SharedOrder, now: Instant) -> SharedOrder {
        let class = |(level, start, clock): &(f64, f64, f64)| {
            Some(ClassPosition {
                urgency: Urgency::new(u8::try_from(messages::number(*level)).ok()?)?,
                start: position(*start),
                clock: position(*clock),
            })
        };
        let is_ours = reply.positions.len() == self.declared.len();
        let declared = self.declared.iter().zip(&reply.positions).filter(|_| is_ours);
        let own =
            declared.map(|(declared, at)| (declared.demand.urgency, declared.demand.caller.clone(), position(*at)));
        SharedOrder {
            classes: reply.classes.iter().take(Urgency::LEVELS).filter_map(class).collect(),
            own: own.collect(),
            others: self.others(reply, &before.others, now),
            back: self.back(reply, &before.back),
        }
    }

    /// Those that came to another replica, after those that are known to have.
    fn back(&self, reply: &SyncReply, before: &VecDeque<(u64, Urgency, Name)>) -> VecDeque<(u64, Urgency, Name)> {
        let mut back = before.clone();
        for name in &reply.back {
            let number = back.back().map_or(1, |(number, ..)| number + 1);
            if let Some(declared) = self.declared.iter().find(|declared| declared.name == *name) {
                back.push_back((number, declared.demand.urgency, declared.demand.caller.clone()));
            }
        }
        back.drain(..back.len().saturating_sub(MOST_HEARD));
        back
    }

    fn others(&self, reply: &SyncReply, before: &[FlowDemand], now: Instant) -> Vec<FlowDemand> {
        let own: HashMap<&str, &Name> = self
            .declared
            .iter()
            .map(|declared| (&*declared.name, &declared.demand.caller))
            .collect();
        let count = |value: f64| usize::try_from(messages::number(value.clamp(0.0, MOST_WAITING))).unwrap_or(0);
        let new = |name: &str, weight: f64, at: f64| {
            let urgency = Urgency::new(name.bytes().next()?.checked_sub(b'0')?)?;
            Some(FlowDemand {
                urgency,
                // A caller who is not here has a name that nobody here has.
                caller: own
                    .get(name)
                    .map_or_else(|| SharedOrder::alias(name), |caller| (*caller).clone()),
                weight: u32::try_from(count(weight)).unwrap_or(1).max(1),
                waiting: 0,
                deadlines: Vec::new(),
                returning: 0,
                kept: 0,
                dues: VecDeque::new(),
                asks_again: false,
                position: Some(position(at)),
            })
        };
        let (mut flows, mut places) = (Vec::new(), HashMap::new());
        for (name, weight, waiting, returning, again, at) in reply.others.iter().take(MOST_HEARD) {
            let Some(flow) = new(name, *weight, *at) else { continue };
            places.insert(&**name, flows.len());
            flows.push(FlowDemand {
                waiting: count(*waiting),
                returning: count(*returning),
                asks_again: *again > 0.0,
                ..flow
            });
        }
        let listed = flows.len();
        for (name, weight, due, at) in reply.returns.iter().take(MOST_HEARD) {
            let place = if let Some(place) = places.get(&**name) {
                *place
            } else {
                let Some(flow) = new(name, *weight, *at) else { continue };
                places.insert(name, flows.len());
                flows.push(flow);
                flows.len() - 1
            };
            let flow = &mut flows[place];
            let due = messages::moment(*due, now);
            flow.dues.push_back(known_due(before, flow, due));
            flow.returning += usize::from(place >= listed);
        }
        flows
    }
}

/// A position or a clock, as the script writes numbers.
#[expect(
    clippy::cast_possible_truncation,
    reason = "what the script says is far smaller, and is cut to that"
)]
fn position(value: f64) -> i64 {
    value.clamp(-FURTHEST, FURTHEST) as i64
}

/// The same moment as it was known before: no two answers take as long, and each other moment would
/// be another order.
fn known_due(before: &[FlowDemand], flow: &FlowDemand, due: Instant) -> Instant {
    let is_flow = |known: &&FlowDemand| known.urgency == flow.urgency && known.caller == flow.caller;
    let known = before.iter().filter(is_flow).flat_map(|known| &known.dues);
    let mut near = known.filter(|known| **known <= due + AS_GOOD && due <= **known + AS_GOOD);
    near.next().copied().unwrap_or(due)
}

/// Whether forecasts made with what others wanted `before` are wrong by now.
pub(super) fn has_changed(before: &[FlowDemand], now: &[FlowDemand]) -> bool {
    let class = |flows: &[FlowDemand], urgency: u8| {
        let of = flows.iter().filter(|flow| flow.urgency.level() == urgency);
        of.fold((0, 0), |(waiting, weight), flow| {
            (
                waiting + flow.waiting + usize::from(flow.asks_again),
                weight + flow.weight as usize,
            )
        })
    };
    let is_off = |a: usize, b: usize| a * 4 > (b + 1) * 5 || b * 4 > (a + 1) * 5;
    (0..8).any(|urgency| {
        let (before, now) = (class(before, urgency), class(now, urgency));
        is_off(before.0, now.0) || is_off(before.1, now.1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(caller: &str, waiting: usize) -> FlowDemand {
        FlowDemand {
            urgency: Urgency::default(),
            caller: Name::new(caller),
            weight: 1,
            waiting,
            deadlines: Vec::new(),
            returning: 0,
            kept: 0,
            dues: VecDeque::new(),
            asks_again: false,
            position: None,
        }
    }

    fn demand(wants: &mut Wants, flows: &[FlowDemand]) {
        wants.demand(&flows.to_vec());
    }

    #[tokio::test(start_paused = true)]
    async fn the_store_is_told_only_what_it_does_not_know() {
        let now = Instant::now();
        let mut wants = Wants::new("me".into());
        demand(&mut wants, &[flow("a", 2), flow("b", 1)]);
        let declared = wants.tell(std::iter::empty(), now).unwrap();
        assert_eq!((declared.len(), declared[0].2, wants.declared()), (2, 2, 3));
        assert!(wants.tell(std::iter::empty(), now).is_none());

        // The script counts off what it grants.
        let granted = wants.grant(&declared[0].0).unwrap();
        assert_eq!(granted.1, Name::new("a"));
        assert!(wants.tell(std::iter::once(&granted), now).is_none(), "it is in hand");
        demand(&mut wants, &[flow("a", 1), flow("b", 1)]);
        assert!(wants.tell(std::iter::empty(), now).is_none(), "and then served");

        demand(&mut wants, &[flow("a", 2), flow("b", 1)]);
        assert!(wants.tell(std::iter::empty(), now).is_some());
        wants.tell_again();
        assert!(wants.tell(std::iter::empty(), now).is_some());
    }

    #[test]
    fn whoever_is_known_to_two_replicas_is_one_caller_and_nobody_else_is_named() {
        let mut wants = Wants::new("me".into());
        demand(&mut wants, &[flow("alice", 1)]);
        let declared = wants.tell(std::iter::empty(), Instant::now()).unwrap();
        let reply = |name: &str| -> SyncReply {
            serde_json::from_str(&format!(r#"{{"others":[["{name}",1,2,0,1,0]]}}"#)).unwrap()
        };
        let now = Instant::now();
        let same = wants.others(&reply(&declared[0].0), &[], now);
        assert_eq!(
            (same[0].caller.as_str(), same[0].waiting, same[0].asks_again),
            ("alice", 2, true)
        );
        let other = wants.others(&reply("30123456789abcdef"), &[], now);
        assert_ne!(other[0].caller.as_str(), "alice");
        assert!(wants.others(&reply("9"), &[], now).is_empty() && wants.others(&reply(""), &[], now).is_empty());
    }

    #[test]
    fn who_is_known_by_this_machine_only_is_another_caller_at_each_replica() {
        let names =
            |caller: &Name| ["one", "other"].map(|me| Wants::new(me.into()).name_of(Urgency::default(), caller));
        for local in ["127.0.0.1", "127.8.0.1", "::1"]
            .map(Name::new)
            .into_iter()
            .chain([Name::of_unix_socket()])
        {
            let [one, other] = names(&local);
            assert_ne!(one, other, "{local}");
        }
        for elsewhere in ["alice", "10.0.0.1", "fe80::1", "localhost"].map(Name::new) {
            let [one, other] = names(&elsewhere);
            assert_eq!(one, other, "{elsewhere}");
            assert_eq!(
                one,
                SharedOrder::flow(Urgency::default(), &elsewhere),
                "as for earlier versions"
            );
        }
    }
}
