//! The lookups and leases of this replica.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared, ready};
use tokio::sync::watch;

use super::config::Name;
use super::follow::LookupOutcome;
use super::lease::{Lease, LeaseEvent};
use crate::caller::Urgency;

/// At most one lookup and one lease for each request. There are never more entries than waiting
/// requests.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    lookups: HashMap<Name, Lookup>,
    leases: HashMap<Name, Weak<Lease>>,
}

#[derive(Debug)]
struct Lookup {
    shared: WeakShared<BoxFuture<'static, LookupOutcome>>,
    /// The events of another replica's lease, with the urgency of the most urgent request that takes
    /// part.
    events: watch::Sender<(LeaseEvent, Urgency)>,
    under_way: Arc<watch::Sender<bool>>,
}

impl Lookup {
    fn tell(&self, event: LeaseEvent) {
        self.events.send_modify(|(latest, _)| *latest = event);
    }
}

impl Registry {
    /// The lookup for a request, which is over where this replica has the lease; if there is neither,
    /// a new lookup that `start` makes. A lookup looks again when a more urgent request joins it,
    /// because it may wait for a lease that this one need not wait for.
    pub(super) fn join_lookup(
        self: &Arc<Self>,
        name: &Name,
        urgency: Urgency,
        start: impl FnOnce(RegistryEntry) -> BoxFuture<'static, LookupOutcome>,
    ) -> Shared<BoxFuture<'static, LookupOutcome>> {
        let mut entries = self.entries();
        if let Some(lease) = entries.leases.get(name).and_then(Weak::upgrade) {
            return ready(LookupOutcome::Led(lease)).boxed().shared();
        }
        if let Some(lookup) = entries.lookups.get(name)
            && let Some(shared) = lookup.shared.upgrade()
        {
            if urgency < lookup.events.borrow().1 {
                lookup.events.send_replace((LeaseEvent::Look, urgency));
            }
            return shared;
        }
        let (events, receiver) = watch::channel((LeaseEvent::Look, urgency));
        let under_way = Arc::new(watch::Sender::new(false));
        let lookup = start(RegistryEntry {
            registry: Arc::clone(self),
            name: name.clone(),
            events: receiver,
            seen: under_way.subscribe(),
            under_way: Arc::clone(&under_way),
        })
        .shared();
        if let Some(shared) = lookup.downgrade() {
            let lookup = Lookup {
                shared,
                events,
                under_way,
            };
            entries.lookups.insert(name.clone(), lookup);
        }
        lookup
    }

    /// Resolves when a lookup waits for another replica's call which is not known to be under way;
    /// never once the lookup is over, whose outcome is there then.
    pub(super) async fn waits_for_no_call(&self, name: &Name) {
        let known = self
            .entries()
            .lookups
            .get(name)
            .map(|lookup| lookup.under_way.subscribe());
        if let Some(mut under_way) = known
            && under_way.wait_for(|is_under_way| !is_under_way).await.is_ok()
        {
            return;
        }
        pending::<()>().await;
    }

    /// From now on, equal requests join the lease.
    pub(super) fn add_lease(&self, lease: &Arc<Lease>) {
        let mut entries = self.entries();
        entries.leases.insert(lease.name().clone(), Arc::downgrade(lease));
    }

    /// The lease on a request.
    pub(super) fn lease(&self, name: &Name) -> Option<Arc<Lease>> {
        self.entries().leases.get(name).and_then(Weak::upgrade)
    }

    /// Removes a lease, unless a later one has replaced it.
    pub(super) fn remove_lease(&self, lease: &Lease) {
        let mut entries = self.entries();
        if entries
            .leases
            .get(lease.name())
            .is_some_and(|other| std::ptr::eq(other.as_ptr(), lease))
        {
            entries.leases.remove(lease.name());
        }
    }

    /// Passes a message about another replica's lease to the lookup that it concerns, and one about
    /// another replica's answer to the lease. One's own answer has ended its lease before.
    pub(super) fn notify(&self, message: &str) {
        let Some((event, name)) = LeaseEvent::parse(message) else {
            return;
        };
        if event == LeaseEvent::Completed
            && let Some(lease) = self.lease(&name)
        {
            lease.is_answered();
        }
        if let Some(lookup) = self.entries().lookups.get(&name) {
            if event == LeaseEvent::Left {
                lookup.under_way.send_replace(true);
            } else {
                lookup.tell(event);
            }
        }
    }

    /// Messages may have been lost, so all lookups have to look up again.
    pub(super) fn notify_all(&self) {
        for lookup in self.entries().lookups.values() {
            lookup.tell(LeaseEvent::Look);
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // No code that holds the lock panics halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lookup's entry, which is removed when this is dropped, whether the lookup finished or not.
/// Events from its creation on are not missed.
pub(super) struct RegistryEntry {
    registry: Arc<Registry>,
    name: Name,
    events: watch::Receiver<(LeaseEvent, Urgency)>,
    /// Whether the other replica's call is known to be under way.
    under_way: Arc<watch::Sender<bool>>,
    seen: watch::Receiver<bool>,
}

impl RegistryEntry {
    /// The store is being asked. What is heard before it answers is later than its answer.
    pub(super) fn looks(&mut self) {
        self.seen.borrow_and_update();
    }

    /// The store says whether the other replica's call is under way.
    pub(super) fn found_held(&self, is_under_way: bool) {
        if is_under_way || !self.seen.has_changed().is_ok_and(|has_changed| has_changed) {
            self.under_way.send_replace(is_under_way);
        }
    }

    /// The urgency of the most urgent request that takes part in the lookup.
    pub(super) fn urgency(&self) -> Urgency {
        self.events.borrow().1
    }

    /// The next event; of several, the latest.
    ///
    /// # Cancel safety
    ///
    /// Safe: the event is still there.
    pub(super) async fn event(&mut self) -> LeaseEvent {
        if self.events.changed().await.is_err() {
            // Another lookup has replaced this one, because no request waits for it any more.
            pending::<()>().await;
        }
        self.events.borrow_and_update().0
    }
}

impl Drop for RegistryEntry {
    fn drop(&mut self) {
        let mut entries = self.registry.entries();
        if entries
            .lookups
            .get(&self.name)
            .is_some_and(|known| known.events.subscribe().same_channel(&self.events))
        {
            entries.lookups.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_waiter_wakes_for_its_key_only_and_misses_nothing() {
        let (registry, name) = (Arc::new(Registry::default()), Name::new("aa"));
        let mut waiter = None;
        let [urgent, patient] = [0, 7].map(|level| Urgency::new(level).unwrap());
        let lookup = registry.join_lookup(&name, patient, |entry| {
            waiter = Some(entry);
            Box::pin(pending())
        });
        let mut waiter = waiter.unwrap();
        registry.notify(&LeaseEvent::Completed.message(&Name::new("bb")));
        registry.notify("");
        assert!(!waiter.events.has_changed().unwrap());
        for event in [LeaseEvent::Completed, LeaseEvent::Failed, LeaseEvent::Alone] {
            registry.notify(&event.message(&name));
            assert_eq!(waiter.event().await, event);
        }
        registry.notify("~aa");
        assert_eq!(waiter.event().await, LeaseEvent::Look);
        registry.notify_all();
        assert_eq!(waiter.event().await, LeaseEvent::Look);
        for urgency in [urgent, patient, urgent] {
            drop(registry.join_lookup(&name, urgency, |_| unreachable!("there is one")));
        }
        assert_eq!((waiter.event().await, waiter.urgency()), (LeaseEvent::Look, urgent));
        assert!(!waiter.events.has_changed().unwrap(), "once");
        drop((lookup, waiter));
        assert!(registry.entries().lookups.is_empty());
    }

    #[tokio::test]
    async fn a_call_is_known_to_be_under_way_until_a_later_look_says_otherwise() {
        let (registry, name) = (Arc::new(Registry::default()), Name::new("aa"));
        let mut entry = None;
        let lookup = registry.join_lookup(&name, Urgency::default(), |made| {
            entry = Some(made);
            Box::pin(pending())
        });
        let mut entry = entry.unwrap();
        let is_under_way = || registry.waits_for_no_call(&name).now_or_never().is_none();
        assert!(!is_under_way(), "nothing is known");
        entry.looks();
        entry.found_held(true);
        assert!(is_under_way());
        entry.looks();
        registry.notify(&LeaseEvent::Left.message(&name));
        entry.found_held(false);
        assert!(is_under_way(), "it has left since");
        entry.looks();
        entry.found_held(false);
        assert!(!is_under_way());
        assert!(!entry.events.has_changed().unwrap(), "nobody has to look for that");
        drop((lookup, entry));
        assert!(is_under_way(), "the outcome is there");
    }
}
