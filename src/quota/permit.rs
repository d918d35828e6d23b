//! Permits that cannot be forgotten.

use std::time::Duration;

use tokio::time::Instant;

use super::handle::either;
use super::local::LocalCharge;
use super::shared::SharedCharge;
use super::throttle_hint::ThrottleHint;
use crate::caller::{Name, Urgency};

/// The right to make one call, charged when it was issued. Dropped before [`Permit::leave`], the
/// slot goes back; dropped after it, the charge stays until the call's timeout, because the call
/// may have arrived.
#[derive(Debug)]
pub struct Permit {
    /// `None` when its end has been told.
    charge: Option<Charge>,
    has_left: bool,
    latest: Instant,
}

/// What a permit is charged as, which is told of the call's end.
#[derive(Debug)]
pub(super) enum Charge {
    /// In this process's ledger.
    Local(LocalCharge),
    /// In the store.
    Shared(SharedCharge),
}

impl Permit {
    /// A permit for a call that must have ended at `latest`.
    pub(super) fn new(charge: Charge, latest: Instant) -> Self {
        Self {
            charge: Some(charge),
            has_left: false,
            latest,
        }
    }

    /// For whom the slot is, when a store decided it.
    pub fn granted_to(&self) -> Option<(Urgency, Name)> {
        match &self.charge {
            Some(Charge::Shared(charge)) => charge.granted_to(),
            Some(Charge::Local(_)) | None => None,
        }
    }

    /// When the call must have ended: the ledger keeps the charge a little longer, and no longer.
    pub fn latest(&self) -> Instant {
        self.latest
    }

    /// The call is about to leave.
    pub fn leave(&mut self) {
        self.has_left = true;
    }

    /// The call was answered, and not with a 429.
    pub fn settle(mut self) {
        if let Some(charge) = self.charge.take() {
            either!(Charge, charge, charge => charge.settle());
        }
    }

    /// Provably no byte of the call was written.
    pub fn refund(mut self) {
        self.has_left = false;
    }

    /// The call was answered with a 429: everybody pauses. Returns for how long, as far as this
    /// process knows.
    pub fn throttled(mut self, answer: ThrottleHint) -> Duration {
        let charge = self.charge.take();
        charge.map_or(
            Duration::ZERO,
            |charge| either!(Charge, charge, charge => charge.throttled(answer)),
        )
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        match self.charge.take() {
            Some(charge) if self.has_left => either!(Charge, charge, charge => charge.lose()),
            Some(charge) => either!(Charge, charge, charge => charge.refund()),
            None => {}
        }
    }
}
