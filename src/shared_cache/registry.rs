//! The lookups and leases of this replica.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::watch;

use super::config::Name;
use super::lease::{Lease, LeaseEvent};
use super::lookup::LookupOutcome;

/// A lookup that all equal requests of this process share.
pub(super) type SharedLookup = Shared<BoxFuture<'static, LookupOutcome>>;

/// At most one lookup and one lease for each request. There are never more entries than waiting
/// requests.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    lookups: HashMap<Name, Lookup>,
    leases: HashMap<Name, Weak<Lease>>,
    next: u64,
}

#[derive(Debug)]
struct Lookup {
    number: u64,
    shared: WeakShared<BoxFuture<'static, LookupOutcome>>,
    /// The events of another replica's lease.
    events: watch::Sender<LeaseEvent>,
}

/// How a request takes part in a lookup.
#[derive(Debug)]
pub(super) enum LookupRole {
    /// This replica has the lease: the call is, or will be, under way below.
    Led(Arc<Lease>),
    /// A lookup is under way.
    Pending(SharedLookup),
}

impl Registry {
    /// The lease on a request or the lookup for it; if there is neither, a new lookup that `start`
    /// makes.
    pub(super) fn join_lookup(
        self: &Arc<Self>,
        name: &Name,
        start: impl FnOnce(RegistryEntry) -> BoxFuture<'static, LookupOutcome>,
    ) -> LookupRole {
        let mut entries = self.entries();
        if let Some(lease) = entries.leases.get(name).and_then(Weak::upgrade) {
            return LookupRole::Led(lease);
        }
        if let Some(lookup) = entries.lookups.get(name).and_then(|known| known.shared.upgrade()) {
            return LookupRole::Pending(lookup);
        }
        let number = entries.next;
        entries.next += 1;
        let (events, receiver) = watch::channel(LeaseEvent::Look);
        let lookup = start(RegistryEntry {
            registry: Arc::clone(self),
            name: name.clone(),
            number,
            events: receiver,
        })
        .shared();
        if let Some(weak) = lookup.downgrade() {
            let new = Lookup {
                number,
                shared: weak,
                events,
            };
            entries.lookups.insert(name.clone(), new);
        }
        LookupRole::Pending(lookup)
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

    /// Passes a message about another replica's lease to the lookup that it concerns.
    pub(super) fn notify(&self, message: &str) {
        if let Some((event, name)) = LeaseEvent::parse(message)
            && let Some(lookup) = self.entries().lookups.get(&name)
        {
            lookup.events.send_replace(event);
        }
    }

    /// Messages may have been lost, so all lookups have to look up again.
    pub(super) fn notify_all(&self) {
        for lookup in self.entries().lookups.values() {
            lookup.events.send_replace(LeaseEvent::Look);
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
    number: u64,
    events: watch::Receiver<LeaseEvent>,
}

impl RegistryEntry {
    /// The next event; of several, the latest.
    ///
    /// # Cancel safety
    ///
    /// Safe: the event is still there.
    pub(super) async fn event(&mut self) -> LeaseEvent {
        if self.events.changed().await.is_err() {
            // Another lookup has replaced this one, because no request waits for it any more.
            std::future::pending::<()>().await;
        }
        *self.events.borrow_and_update()
    }
}

impl Drop for RegistryEntry {
    fn drop(&mut self) {
        let mut entries = self.registry.entries();
        if entries
            .lookups
            .get(&self.name)
            .is_some_and(|known| known.number == self.number)
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
        let role = registry.join_lookup(&name, |entry| {
            waiter = Some(entry);
            Box::pin(std::future::pending())
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
        drop((role, waiter));
        assert!(registry.entries().lookups.is_empty());
    }
}
