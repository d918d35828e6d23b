//! One lookup, for all equal requests of this replica.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Inner;
use super::backend::{Found, LookupMode, LookupReply};
use super::config::Name;
use super::lease::{Lease, LeaseEvent};
use super::registry::RegistryEntry;
use crate::scan::Request;

/// The outcome of a lookup, for all equal requests in this process.
#[derive(Clone, Debug)]
pub(super) enum LookupOutcome {
    /// An answer.
    Found(Arc<Found>, Via),
    /// This replica has the lease and asks for all replicas.
    Led(Arc<Lease>),
    /// This replica asks for itself only.
    Alone,
}

/// How an answer was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    /// It was stored already.
    Look,
    /// By waiting for a call of another replica.
    Wait,
}

/// After this many failed calls of other replicas, each replica asks for itself: one more call
/// would hardly help, and waiting for one after the other takes long.
const FAILURES: u32 = 2;

/// Added to a lease's remaining time, so that it has expired at the store as well.
const MARGIN: Duration = Duration::from_millis(5);

/// Looks up an answer, and waits while another replica has the lease, until there is an outcome.
/// The caller bounds the wait.
pub(super) async fn lookup(
    inner: Arc<Inner>,
    request: Arc<Request>,
    name: Name,
    mut entry: RegistryEntry,
) -> LookupOutcome {
    let outcome = follow(&inner, &request, &name, &mut entry).await;
    // Removed from the registry only now, when the lease is already in it.
    drop(entry);
    outcome
}

async fn follow(inner: &Arc<Inner>, request: &Request, name: &Name, entry: &mut RegistryEntry) -> LookupOutcome {
    let mut via = Via::Look;
    let mut mode = LookupMode::Answers;
    let mut failures = 0;
    loop {
        let lease = Lease::new(inner, name, entry.urgency());
        entry.looks();
        match inner
            .backend
            .get_or_lease(request.endpoint(), name, Some(lease.token()), mode)
            .await
        {
            LookupReply::Led => return LookupOutcome::Led(lease.granted()),
            LookupReply::Found(found) => {
                lease.not_granted();
                if found.ttl > found.stored.elapsed() {
                    (inner.insert_local)(request, &found);
                    return LookupOutcome::Found(Arc::new(found), via);
                }
                // The answer expired on its way, or is too old by this replica's settings.
                mode = LookupMode::LeasesOnly;
            }
            LookupReply::Undecodable => {
                lease.not_granted();
                // A lookup in this mode returns no value, so the reply makes no sense.
                if mode == LookupMode::LeasesOnly {
                    return LookupOutcome::Alone;
                }
                mode = LookupMode::LeasesOnly;
            }
            LookupReply::Held { left, has_left } => {
                lease.not_granted();
                entry.found_held(has_left);
                via = Via::Wait;
                mode = LookupMode::Answers;
                let event = tokio::select! {
                    event = entry.event() => event,
                    // The leader is gone, or has renewed its lease, or its event was lost.
                    () = sleep(left + MARGIN) => LeaseEvent::Look,
                };
                failures += u32::from(event == LeaseEvent::Failed);
                if event == LeaseEvent::Alone || failures >= FAILURES {
                    return LookupOutcome::Alone;
                }
            }
            LookupReply::Unavailable => {
                lease.not_granted();
                return LookupOutcome::Alone;
            }
            // The lease may have been granted; dropping it gives it back.
            LookupReply::NoReply | LookupReply::Nothing => return LookupOutcome::Alone,
        }
    }
}
