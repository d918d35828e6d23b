//! The lease on a request, which is the right to ask the upstream for all replicas; and the lookups
//! and leases of this replica.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared, ready};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::config::Name;
use super::write_queue::WriteJob;
use super::{Inner, LookupOutcome};
use crate::caller::Urgency;

/// How a lease ended, as published on the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseEvent {
    /// The answer is in the store.
    Completed,
    /// There is no answer; another replica may try.
    Failed,
    /// There is an answer, but it cannot be shared.
    Alone,
    /// The event is unknown: look up again.
    Look,
}

impl LeaseEvent {
    /// The message about a request.
    pub(super) fn message(self, name: &Name) -> String {
        let sign = match self {
            Self::Completed => '+',
            Self::Failed => '-',
            Self::Alone => '!',
            Self::Look => '?',
        };
        format!("{sign}{}", name.as_str())
    }

    /// Parses a message. An unknown sign, of a later version, means that the answer has to be
    /// looked up again.
    fn parse(message: &str) -> Option<(Self, Name)> {
        let mut chars = message.chars();
        let event = match chars.next()? {
            '+' => Self::Completed,
            '-' => Self::Failed,
            '!' => Self::Alone,
            _ => Self::Look,
        };
        Some((event, Name::new(chars.as_str())))
    }
}

/// A lease. It is held by all requests of this replica that wait for its call, and ends when the
/// last of them is gone.
pub(super) struct Lease {
    inner: Arc<Inner>,
    name: Name,
    token: Arc<str>,
    ended: AtomicBool,
    renewal: CancellationToken,
    answered: Notify,
}

impl Lease {
    /// A lease that is about to be requested. From here on it is given back when it is dropped,
    /// because the reply that grants it may be lost.
    pub(super) fn new(inner: &Arc<Inner>, name: &Name, urgency: Urgency) -> Self {
        Self {
            inner: Arc::clone(inner),
            name: name.clone(),
            // A random token, so that no replica ends or renews another replica's lease, and what
            // `get_or_lease.lua` has to know of its holder.
            token: format!("{:032x}:{}", rand::random::<u128>(), urgency.level()).into(),
            ended: AtomicBool::new(false),
            renewal: CancellationToken::new(),
            answered: Notify::new(),
        }
    }

    /// The lease was granted. It is renewed until it ends.
    pub(super) fn granted(self) -> Arc<Self> {
        let lease = Arc::new(self);
        lease.inner.registry.add_lease(&lease);
        let (inner, name, token) = (Arc::clone(&lease.inner), lease.name.clone(), Arc::clone(&lease.token));
        let ended = lease.renewal.clone();
        lease.inner.tasks.spawn_upkeep("lease", async move {
            // The task must not hold the lease itself, which would then never be dropped.
            ended.run_until_cancelled(renew(&inner, &name, &token)).await;
        });
        lease
    }

    /// The lease was not granted.
    pub(super) fn not_granted(self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    /// Resolves when another replica has got an answer, although this one has the lease, or had it
    /// until a more urgent call took it.
    ///
    /// # Cancel safety
    ///
    /// What is answered while nobody waits for it is missed.
    pub(super) async fn answered_elsewhere(&self) {
        self.answered.notified().await;
    }

    /// Ends the lease without an answer.
    pub(super) fn end(&self, event: LeaseEvent) {
        if self.close() {
            self.inner.write_queue.send(WriteJob {
                name: self.name.clone(),
                token: Some(Arc::clone(&self.token)),
                result: Err(event),
            });
        }
    }

    /// Ends the lease with an answer, which must be written under its token; `None` when it has
    /// ended already.
    pub(super) fn complete(&self) -> Option<Arc<str>> {
        self.close().then(|| Arc::clone(&self.token))
    }

    fn close(&self) -> bool {
        let first = !self.ended.swap(true, Ordering::Relaxed);
        if first {
            self.renewal.cancel();
            self.inner.registry.remove_lease(self);
        }
        first
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end(LeaseEvent::Failed);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Renews a lease until it is lost.
async fn renew(inner: &Inner, name: &Name, token: &str) {
    loop {
        // One failed renewal and a late one still leave time for a third.
        tokio::time::sleep(inner.config.lease / 3).await;
        if !inner.backend.renew(name, token).await {
            tracing::debug!(name = name.as_str(), "a lease was lost to another replica");
            return;
        }
    }
}

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
}

impl Lookup {
    fn tell(&self, event: LeaseEvent) {
        self.events.send_modify(|(latest, _)| *latest = event);
    }
}

impl Registry {
    /// The lookup for a request, which is over where this replica has the lease; if there is neither,
    /// a new lookup that `start` makes. A lookup looks again when a more urgent request joins it, because it may wait for a
    /// lease that this one need not wait for.
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
        let lookup = start(RegistryEntry {
            registry: Arc::clone(self),
            name: name.clone(),
            events: receiver,
        })
        .shared();
        if let Some(shared) = lookup.downgrade() {
            entries.lookups.insert(name.clone(), Lookup { shared, events });
        }
        lookup
    }

    /// From now on, equal requests join the lease.
    fn add_lease(&self, lease: &Arc<Lease>) {
        let mut entries = self.entries();
        entries.leases.insert(lease.name.clone(), Arc::downgrade(lease));
    }

    /// The lease on a request.
    pub(super) fn lease(&self, name: &Name) -> Option<Arc<Lease>> {
        self.entries().leases.get(name).and_then(Weak::upgrade)
    }

    /// Removes a lease, unless a later one has replaced it.
    fn remove_lease(&self, lease: &Lease) {
        let mut entries = self.entries();
        if entries
            .leases
            .get(&lease.name)
            .is_some_and(|other| std::ptr::eq(other.as_ptr(), lease))
        {
            entries.leases.remove(&lease.name);
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
            lease.answered.notify_waiters();
        }
        if let Some(lookup) = self.entries().lookups.get(&name) {
            lookup.tell(event);
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
}

impl RegistryEntry {
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
            std::future::pending::<()>().await;
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
        for urgency in [urgent, patient, urgent] {
            drop(registry.join_lookup(&name, urgency, |_| unreachable!("there is one")));
        }
        assert_eq!((waiter.event().await, waiter.urgency()), (LeaseEvent::Look, urgent));
        assert!(!waiter.events.has_changed().unwrap(), "once");
        drop((lookup, waiter));
        assert!(registry.entries().lookups.is_empty());
    }
}
