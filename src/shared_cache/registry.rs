//! The questions that this replica looks for, or has a lease on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};

use super::lease::Lease;
use super::lookup::Outcome;
use crate::scan::Key;

/// A look that everybody in this process shares who asks the same.
pub(super) type Inquiry = Shared<BoxFuture<'static, Outcome>>;

/// At most one look and one lease for each question. There are never more than there are requests waiting.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<Questions>);

#[derive(Debug, Default)]
struct Questions {
    inquiries: HashMap<Key, (u64, WeakShared<BoxFuture<'static, Outcome>>)>,
    leases: HashMap<Key, Weak<Lease>>,
    next: u64,
}

/// What is known about a question.
#[derive(Debug)]
pub(super) enum LookupRole {
    /// This replica has the lease: the call is, or will be, under way below.
    Led(Arc<Lease>),
    /// Somebody is looking.
    Asking(Inquiry),
}

impl Registry {
    /// The lease on a question or the look for it; one that `start` makes when there is neither.
    pub(super) fn stand(
        self: &Arc<Self>,
        key: &Key,
        start: impl FnOnce(RegistryEntry) -> BoxFuture<'static, Outcome>,
    ) -> LookupRole {
        let mut questions = self.questions();
        if let Some(lease) = questions.leases.get(key).and_then(Weak::upgrade) {
            return LookupRole::Led(lease);
        }
        if let Some(lookup) = questions.inquiries.get(key).and_then(|(_, lookup)| lookup.upgrade()) {
            return LookupRole::Asking(lookup);
        }
        let number = questions.next;
        questions.next += 1;
        let lookup = start(RegistryEntry {
            registry: Arc::clone(self),
            key: key.clone(),
            number,
        })
        .shared();
        if let Some(weak) = lookup.downgrade() {
            questions.inquiries.insert(key.clone(), (number, weak));
        }
        LookupRole::Asking(lookup)
    }

    /// From now on, whoever asks goes along with the lease.
    pub(super) fn lead(&self, lease: &Arc<Lease>) {
        let mut questions = self.questions();
        questions.leases.insert(lease.key().clone(), Arc::downgrade(lease));
    }

    /// The lease on a question.
    pub(super) fn lease(&self, key: &Key) -> Option<Arc<Lease>> {
        self.questions().leases.get(key).and_then(Weak::upgrade)
    }

    /// Takes a lease off, unless a later one has taken its place.
    pub(super) fn forget(&self, lease: &Lease) {
        let mut questions = self.questions();
        if questions
            .leases
            .get(lease.key())
            .is_some_and(|other| std::ptr::eq(other.as_ptr(), lease))
        {
            questions.leases.remove(lease.key());
        }
    }

    fn questions(&self) -> MutexGuard<'_, Questions> {
        // Nothing in here panics halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A look's place on the board, which it leaves when it is dropped, finished or not.
pub(super) struct RegistryEntry {
    registry: Arc<Registry>,
    key: Key,
    number: u64,
}

impl Drop for RegistryEntry {
    fn drop(&mut self) {
        let mut questions = self.registry.questions();
        if questions
            .inquiries
            .get(&self.key)
            .is_some_and(|(number, _)| *number == self.number)
        {
            questions.inquiries.remove(&self.key);
        }
    }
}
