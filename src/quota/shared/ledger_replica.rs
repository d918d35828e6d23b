//! A replica's copy of the ledger: for forecasts, and for the day the store forgets.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::member_name::have_other_limits;
use super::messages::{self, LedgerSnapshot, SyncReply};
use crate::clock::earlier;
use crate::quota::forecast::Latency;
use crate::quota::foreign::Foreign;
use crate::quota::state::{QuotaState, ThrottleState};
use crate::quota::{self, Ledger, OtherLimits, Pacer};

/// The copy, in this process's own time. What it does not know exactly it takes to be later, which
/// is the careful side.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct LedgerReplica {
    /// This replica's own name.
    me: String,
    config: quota::Config,
    /// How long a charge is kept whose call is never heard of.
    kept: Duration,
    charges: HashMap<String, ChargeState>,
    pub(super) members: BTreeSet<String>,
    /// The epoch and the change of the membership after which these are the members.
    members_of: String,
    /// Those of them that go by other limits.
    pub(super) other_limits: Option<OtherLimits>,
    /// When the step was asked for that brought the latest news; nothing that happened before it is
    /// missing.
    pub(super) asked: Option<Instant>,
    pub(super) paused_until: Option<Instant>,
    pace: Pacer,
    is_unpaced: bool,
    paced_until: Option<Instant>,
    foreign: Foreign,
    pub(super) latency: Latency,
}

/// The store keeps no more.
const MOST_HOLES: usize = 8;

/// Charges, beyond four times what the windows can hold, and members: a store that tells of more,
/// or of longer names, is none of ours, and must not fill the memory.
const MORE_CHARGES: usize = 10_000;
const MOST_MEMBERS: usize = 10_000;
const LONGEST_NAME: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChargeState {
    /// In flight, at the latest until then.
    Flying(Instant),
    /// Counts as made then.
    Past(Instant),
}

impl LedgerReplica {
    pub(super) fn new(me: String, config: quota::Config, kept: Duration, now: Instant) -> Self {
        // Until the store is heard of: what the bucket holds when a new epoch opens that nobody has a
        // copy for (`assume` in script/ledger.lua).
        let pace = Pacer::new(config.burst, config.first_level(), now);
        Self {
            me,
            config,
            kept,
            charges: HashMap::new(),
            members: BTreeSet::new(),
            members_of: String::new(),
            other_limits: None,
            asked: None,
            paused_until: None,
            pace,
            is_unpaced: false,
            paced_until: None,
            foreign: Foreign::default(),
            latency: Latency::START,
        }
    }

    /// How many charges and members it holds.
    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        (self.charges.len(), self.members.len())
    }

    /// When a call in flight is planned to count, after it was issued.
    pub(super) fn landing(&self) -> Duration {
        let longest = self.config.limits().last();
        longest.map_or(self.latency.bound(), |longest| self.latency.landing(longest))
    }

    /// Our stopwatch stood still for so long. Calls in flight may still arrive.
    pub(super) fn age(&mut self, by: Duration) {
        self.asked = self.asked.map(|asked| earlier(asked, by));
        for known in self.charges.values_mut() {
            if let ChargeState::Past(at) = known {
                *at = earlier(*at, by);
            }
        }
    }

    /// A slot was granted to this replica.
    pub(super) fn grant(&mut self, id: String, now: Instant) {
        self.charges.insert(id, ChargeState::Flying(now + self.kept));
    }

    /// A call of this replica was answered.
    pub(super) fn settle(&mut self, id: &str, now: Instant) {
        if let Some(known) = self.charges.get_mut(id) {
            *known = ChargeState::Past(now);
        }
    }

    /// A call of this replica was not made.
    pub(super) fn refund(&mut self, id: &str) {
        self.charges.remove(id);
    }

    /// Takes in what a step brought, which was asked for at `asked`.
    pub(super) fn hear(&mut self, reply: &SyncReply, asked: Instant, now: Instant) {
        for (id, kind, time) in &reply.news {
            self.hear_of(id, *kind, *time, now);
        }
        if let Some(members) = &reply.members {
            self.members.clear();
            self.join(members);
        }
        // One that has left and come back is in both.
        for name in &reply.left {
            self.members.remove(name);
        }
        self.join(&reply.joined);
        self.count_other_limits(reply, now);
        self.members_of = format!("{} {}", reply.epoch, messages::number(reply.r#gen));
        self.asked = Some(asked);
        self.paused_until = reply.pause.map(|pause| now + messages::span(pause));
        let end = now + messages::span(reply.plan);
        self.is_unpaced = reply.unpaced;
        self.paced_until = reply.paced.map(|paced| now + messages::span(paced));
        self.pace = Pacer::kept(self.config.burst, reply.level, reply.rate, end, now);
        let holes = reply.holes.iter().take(MOST_HOLES);
        let hole = |&(from, to): &(f64, f64)| (now + messages::span(from), now + messages::span(to));
        self.foreign = Foreign::told(reply.foreign, holes.map(hole).collect());
        self.sweep(now);
    }

    /// Whenever the members are others than before.
    fn count_other_limits(&mut self, reply: &SyncReply, now: Instant) {
        if reply.members.is_none() && reply.joined.is_empty() && reply.left.is_empty() {
            return;
        }
        let members = self.members.iter();
        let replicas = members.filter(|name| have_other_limits(name, &self.me)).count();
        let since = self.other_limits.map_or(now, |other| other.since);
        self.other_limits = (replicas > 0).then_some(OtherLimits { replicas, since });
    }

    fn join(&mut self, names: &[String]) {
        let room = MOST_MEMBERS.saturating_sub(self.members.len());
        let known = names.iter().filter(|name| name.len() <= LONGEST_NAME);
        self.members.extend(known.take(room).cloned());
    }

    fn hear_of(&mut self, id: &str, kind: u8, time: f64, now: Instant) {
        let known = match kind {
            messages::GONE => {
                self.charges.remove(id);
                return;
            }
            messages::FLYING => ChargeState::Flying(now + messages::span(time)),
            // Charges that are assumed may count from a moment still to come.
            _ if time < 0.0 => ChargeState::Past(now + messages::span(-time)),
            // A machine that has just booted has no moment that long ago; now is the careful
            // choice.
            _ => ChargeState::Past(now.checked_sub(messages::span(time)).unwrap_or(now)),
        };
        let (most, _) = self.config.memory();
        let has_room = self.charges.len() < most.saturating_mul(4).saturating_add(MORE_CHARGES);
        if (has_room || self.charges.contains_key(id)) && id.len() <= LONGEST_NAME {
            self.charges.insert(id.to_owned(), known);
        }
    }

    /// Ends what nobody was heard of, and forgets what is outside every window.
    fn sweep(&mut self, now: Instant) {
        let (_, longest) = self.config.memory();
        self.charges.retain(|_, known| {
            if let ChargeState::Flying(latest) = *known
                && latest <= now
            {
                *known = ChargeState::Past(latest);
            }
            !matches!(known, ChargeState::Past(at) if *at + longest <= now)
        });
    }

    /// The copy as it goes back to the store: the whole, or what begins with `own`. `None` when
    /// this replica has never heard from the store.
    pub(super) fn show(&mut self, own: Option<&str>, now: Instant) -> Option<LedgerSnapshot> {
        let asked = self.asked?;
        self.sweep(now);
        let charge = |(id, known): (&String, &ChargeState)| match *known {
            ChargeState::Flying(latest) => (id.clone(), messages::FLYING, -messages::age(latest, now)),
            ChargeState::Past(at) => (id.clone(), messages::PAST, messages::age(at, now)),
        };
        let left = |until: Option<Instant>| {
            until
                .filter(|until| *until > now)
                .map(|until| -messages::age(until, now))
        };
        Some(LedgerSnapshot {
            age: messages::age(asked, now),
            members: own.is_none().then(|| self.members.iter().cloned().collect()),
            of: self.members_of.clone(),
            charges: self
                .charges
                .iter()
                .filter(|(id, _)| own.is_none_or(|own| id.starts_with(own)))
                .map(charge)
                .collect(),
            pause: left(self.paused_until),
            paced: left(self.paced_until),
            level: self.pace.level_at(now),
        })
    }

    /// The quota as this replica knows it.
    pub(super) fn quota_state(&self, now: Instant) -> QuotaState {
        let mut past: Vec<Instant> = Vec::new();
        let mut pending_calls: Vec<Instant> = Vec::new();
        for known in self.charges.values() {
            match *known {
                ChargeState::Past(at) => past.push(at),
                ChargeState::Flying(latest) => pending_calls.push(latest.checked_sub(self.kept).unwrap_or(now)),
            }
        }
        past.sort_unstable();
        pending_calls.sort_unstable();
        let mut ledger = Ledger::new(self.config.limits().to_vec(), self.kept);
        for at in past {
            ledger.record(at);
        }
        for issued in pending_calls {
            ledger.issue(issued);
        }
        let mut quota_state = QuotaState::of(ledger, self.pace.clone());
        if let Some(until) = self.paused_until.filter(|until| *until > now) {
            quota_state.throttle = ThrottleState::Paused { until };
        }
        quota_state.latency = self.latency;
        quota_state.foreign = self.foreign.clone();
        quota_state.unpaced_from = self.is_unpaced.then_some(now);
        quota_state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    const SECOND: Duration = Duration::from_secs(1);

    fn copy(now: Instant) -> LedgerReplica {
        let limit = quota::Limit::try_new(NonZeroU32::new(5).unwrap(), SECOND * 10).unwrap();
        let config = quota::Config::try_new(vec![limit], NonZeroU32::new(5).unwrap(), SECOND).unwrap();
        LedgerReplica::new("me".into(), config.remembering(0, Duration::ZERO), SECOND * 3, now)
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_never_heard_of_the_store_is_none() {
        let now = Instant::now();
        assert!(copy(now).show(None, now).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_never_heard_of_counts_until_after_its_timeout() {
        let now = Instant::now() + SECOND * 100;
        let mut copy = copy(now);
        copy.asked = Some(now);
        copy.grant("a".into(), now);
        let charge = |copy: &mut LedgerReplica, later: u32| copy.show(None, now + SECOND * later).unwrap().charges;
        assert_eq!(charge(&mut copy, 1), [("a".to_owned(), messages::FLYING, 2_000_000)]);
        assert_eq!(charge(&mut copy, 5), [("a".to_owned(), messages::PAST, 2_000_000)]);
        assert!(charge(&mut copy, 14).is_empty(), "outside of every window");
        assert!(copy.charges.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_it_knows_has_aged_while_the_machine_was_suspended() {
        let now = Instant::now() + SECOND * 100;
        let mut copy = copy(now);
        copy.asked = Some(now);
        copy.grant("flies".into(), now);
        copy.grant("is past".into(), now);
        copy.settle("is past", now);
        copy.age(SECOND * 4);
        let mut shown = copy.show(None, now).unwrap();
        shown.charges.sort();
        let expected = [
            ("flies".to_owned(), messages::FLYING, 3_000_000),
            ("is past".to_owned(), messages::PAST, 4_000_000),
        ];
        assert_eq!((shown.age, &*shown.charges), (4_000_000, &expected[..]));
    }
}
