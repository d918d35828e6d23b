//! The lookups and leases of this replica.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};

use super::lease::Lease;
use super::lookup::LookupOutcome;
use crate::scan::Key;

/// A lookup that all equal requests of this process share.
pub(super) type SharedLookup = Shared<BoxFuture<'static, LookupOutcome>>;

/// At most one lookup and one lease for each request. There are never more entries than waiting
/// requests.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    lookups: HashMap<Key, (u64, WeakShared<BoxFuture<'static, LookupOutcome>>)>,
    leases: HashMap<Key, Weak<Lease>>,
    next: u64,
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
        key: &Key,
        start: impl FnOnce(RegistryEntry) -> BoxFuture<'static, LookupOutcome>,
    ) -> LookupRole {
        let mut entries = self.entries();
        if let Some(lease) = entries.leases.get(key).and_then(Weak::upgrade) {
            return LookupRole::Led(lease);
        }
        if let Some(lookup) = entries.lookups.get(key).and_then(|(_, lookup)| lookup.upgrade()) {
            return LookupRole::Pending(lookup);
        }
        let number = entries.next;
        entries.next += 1;
        let lookup = start(RegistryEntry {
            registry: Arc::clone(self),
            key: key.clone(),
            number,
        })
        .shared();
        if let Some(weak) = lookup.downgrade() {
            entries.lookups.insert(key.clone(), (number, weak));
        }
        LookupRole::Pending(lookup)
    }

    /// From now on, equal requests join the lease.
    pub(super) fn add_lease(&self, lease: &Arc<Lease>) {
        let mut entries = self.entries();
        entries.leases.insert(lease.key().clone(), Arc::downgrade(lease));
    }

    /// The lease on a request.
    pub(super) fn lease(&self, key: &Key) -> Option<Arc<Lease>> {
        self.entries().leases.get(key).and_then(Weak::upgrade)
    }

    /// Removes a lease, unless a later one has replaced it.
    pub(super) fn remove_lease(&self, lease: &Lease) {
        let mut entries = self.entries();
        if entries
            .leases
            .get(lease.key())
            .is_some_and(|other| std::ptr::eq(other.as_ptr(), lease))
        {
            entries.leases.remove(lease.key());
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // No code that holds the lock panics halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lookup's entry, which is removed when this is dropped, whether the lookup finished or not.
pub(super) struct RegistryEntry {
    registry: Arc<Registry>,
    key: Key,
    number: u64,
}

impl Drop for RegistryEntry {
    fn drop(&mut self) {
        let mut entries = self.registry.entries();
        if entries
            .lookups
            .get(&self.key)
            .is_some_and(|(number, _)| *number == self.number)
        {
            entries.lookups.remove(&self.key);
        }
    }
}
