//! Every order of a few events: grants, answers, refunds, lost answers, time, and everything that
//! can happen to replicas and store.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use super::store::{Store, waiting};
use crate::quota::shared::protocol::{Protocol, Slot};
use crate::quota::shared::{Config, Timing};
use crate::quota::{self, Limit, UnknownPast};
use crate::store::Address;

const MS: Duration = Duration::from_millis(1);
const ATTEMPT: Duration = Duration::from_secs(2);
const LIMITS: [(u32, Duration); 2] = [(2, Duration::from_secs(1)), (3, Duration::from_secs(3))];

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The replica takes its steps, and makes all calls it may.
    Step(usize),
    /// The oldest call of the replica is answered.
    Answer(usize),
    /// No byte of it was written.
    Refund,
    /// Time passes.
    Time,
    /// The store takes the first replica's step, but the answer is lost.
    Lose,
    /// The first replica is killed; a new one takes its place.
    Kill,
    /// The store is emptied.
    Flush,
    /// Another server takes over, with what the store knew at the start.
    Failover,
    /// The store's clock jumps ahead.
    Jump,
}

pub(super) const EVENTS: [Event; 11] = [
    Event::Step(0),
    Event::Step(1),
    Event::Answer(0),
    Event::Answer(1),
    Event::Refund,
    Event::Time,
    Event::Lose,
    Event::Kill,
    Event::Flush,
    Event::Failover,
    Event::Jump,
];

#[derive(Clone, Debug)]
struct Call {
    replica: usize,
    slot: Slot,
    left: Duration,
    /// Half of the calls arrive at once, half as late as they can.
    arrives_late: bool,
}

#[derive(Clone)]
struct World {
    replicas: Vec<Protocol>,
    named: usize,
    now: Duration,
    /// How far the store's clock is ahead.
    ahead: Duration,
    run: u32,
    pending_calls: Vec<Call>,
    arrived: Vec<Duration>,
    made: usize,
}

pub(super) struct Explorer {
    base: Instant,
    config: quota::Config,
    sharing: Config,
    store: Store,
    path: Vec<Event>,
    looked_at: usize,
    pub(super) calls: usize,
    pub(super) over: Option<String>,
}

impl Explorer {
    fn new(mistake: Option<(&str, &str)>) -> Self {
        let limits = LIMITS.map(|(calls, window)| Limit::try_new(NonZeroU32::new(calls).unwrap(), window).unwrap());
        let burst = NonZeroU32::new(2).unwrap();
        // With no copy left the past is unknown, and only this assumption is safe.
        let config = quota::Config::try_new(limits.to_vec(), burst, ATTEMPT)
            .unwrap()
            .unknown_past(UnknownPast::Full)
            .remembering(0, Duration::ZERO);
        let store = crate::store::Config::new(Address::parse("redis://h").unwrap(), MS);
        let timing = Timing {
            idle: MS * 400,
            heartbeat: MS * 200,
            lease: MS * 1300,
            merge: MS * 500,
            claim: MS * 50,
        };
        let sharing = Config::new(store, timing, "test", "t", "a");
        let store = Store::start(sharing.keys(), mistake);
        Self {
            // Far enough from the origin of the machine's clock for ages of hours.
            base: Instant::now() + Duration::from_hours(1),
            config,
            sharing,
            store,
            path: Vec::new(),
            looked_at: 0,
            calls: 0,
            over: None,
        }
    }

    fn replica(&self, world: &mut World) -> Protocol {
        world.named += 1;
        let mut state = Protocol::new(
            format!("r{}", world.named),
            &self.config,
            &self.sharing,
            self.base + world.now,
        );
        state.demand(&waiting(&state.terms.me, 2), self.base + world.now);
        state
    }

    /// Two replicas who know each other and an unused quota.
    fn begin(&mut self) -> World {
        let mut world = World {
            replicas: Vec::new(),
            named: 0,
            now: Duration::ZERO,
            ahead: Duration::ZERO,
            run: 1,
            pending_calls: Vec::new(),
            arrived: Vec::new(),
            made: 0,
        };
        for _ in 0..2 {
            let state = self.replica(&mut world);
            world.replicas.push(state);
        }
        // Until the assumption of a full past has run out, and the bucket is full.
        for _ in 0..24 {
            for n in [0, 1, 0, 1] {
                let wanted = waiting(&world.replicas[n].terms.me, 0);
                world.replicas[n].demand(&wanted, self.base + world.now);
                self.steps(&mut world, n);
            }
            Self::pass(&mut world, MS * 600);
        }
        for state in &mut world.replicas {
            state.demand(&waiting(&state.terms.me, 2), self.base + world.now);
        }
        world
    }

    /// Steps of one replica until it has nothing more to say for now.
    fn steps(&mut self, world: &mut World, n: usize) {
        let now = self.base + world.now;
        self.store.set(world.now + world.ahead, world.run);
        for round in 0..5 {
            if round > 0 && world.replicas[n].next_look(now) > now {
                break;
            }
            let nonce = format!("{}-{round}-{}", self.looked_at, world.now.as_micros());
            let step = world.replicas[n].step(nonce, false, now).unwrap();
            let reply = self.store.run(&step);
            world.replicas[n].on_reply(&reply, now, now);
        }
        while let Some(slot) = world.replicas[n].take(now) {
            world.made += 1;
            self.calls += 1;
            let call = Call {
                replica: n,
                slot,
                left: world.now,
                arrives_late: world.made.is_multiple_of(2),
            };
            if !call.arrives_late {
                world.arrived.push(world.now);
            }
            world.pending_calls.push(call);
        }
    }

    fn pass(world: &mut World, time: Duration) {
        world.now += time;
        let now = world.now;
        // Calls without an answer arrive at the latest when their time is over.
        for call in world.pending_calls.extract_if(.., |call| call.left + ATTEMPT <= now) {
            if call.arrives_late {
                world.arrived.push(call.left + ATTEMPT);
            }
        }
    }

    /// Makes it happen; `false` when it cannot.
    fn happen(&mut self, world: &mut World, event: Event) -> bool {
        let now = self.base + world.now;
        match event {
            Event::Step(n) => self.steps(world, n),
            Event::Time => Self::pass(world, MS * 600),
            Event::Answer(n) => {
                let Some(index) = world.pending_calls.iter().position(|call| call.replica == n) else {
                    return false;
                };
                let call = world.pending_calls.remove(index);
                if call.arrives_late {
                    world.arrived.push(world.now);
                }
                world.replicas[n].settle(call.slot.id, now);
            }
            Event::Refund => {
                let unsent = |call: &Call| call.replica == 0 && call.arrives_late;
                let Some(index) = world.pending_calls.iter().position(unsent) else {
                    return false;
                };
                let call = world.pending_calls.remove(index);
                world.replicas[0].refund(call.slot, now);
            }
            Event::Lose => {
                self.store.set(world.now + world.ahead, world.run);
                let step = world.replicas[0]
                    .step(format!("lost-{}", self.looked_at), false, now)
                    .unwrap();
                self.store.run(&step);
                world.replicas[0].on_error(now);
            }
            Event::Kill => {
                for call in world.pending_calls.iter_mut().filter(|call| call.replica == 0) {
                    // It is nobody's now, but it is on its way.
                    call.replica = usize::MAX;
                }
                world.replicas[0] = self.replica(world);
            }
            Event::Flush => self.store.flush(),
            Event::Failover => {
                world.run += 1;
                self.store.load("start");
            }
            Event::Jump => world.ahead += MS * 5000,
        }
        true
    }

    fn check(&mut self, world: &World) {
        let mut arrived = world.arrived.clone();
        arrived.sort_unstable();
        for (calls, window) in LIMITS {
            for pair in arrived.windows(calls as usize + 1) {
                let span = pair[calls as usize].saturating_sub(pair[0]);
                if span < window {
                    self.over = Some(format!("{} calls within {span:?} after {:?}", calls + 1, self.path));
                }
            }
        }
    }

    /// All that can happen within `depth` events.
    fn explore(&mut self, world: &World, events: &[Event], depth: usize) {
        if depth == 0 || self.over.is_some() {
            return;
        }
        let name = format!("depth {depth}");
        self.store.save(&name);
        for &event in events {
            let mut next = world.clone();
            self.store.load(&name);
            self.path.push(event);
            if self.happen(&mut next, event) {
                self.looked_at += 1;
                self.check(&next);
                self.explore(&next, events, depth - 1);
            }
            self.path.pop();
        }
    }
}

/// Explores all orders of `depth` of these events; with a mistake planted in the script, until that
/// is found.
pub(super) fn explore(
    events: &[Event],
    depth: usize,
    prologues: &[&[Event]],
    mistake: Option<(&str, &str)>,
) -> Explorer {
    let mut explorer = Explorer::new(mistake);
    let start = explorer.begin();
    explorer.store.save("start");
    for prologue in prologues {
        let mut world = start.clone();
        explorer.store.load("start");
        explorer.path = prologue.to_vec();
        for event in *prologue {
            // With another rule planted there may be no call to be answered.
            explorer.happen(&mut world, *event);
        }
        explorer.explore(&world, events, depth);
    }
    println!(
        "{} orders, {} calls: {:?}",
        explorer.looked_at, explorer.calls, explorer.over
    );
    explorer
}
