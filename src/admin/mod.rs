//! The admin listener: health for the kubelet, metrics for the scraper, status for people.
//!
//! Not here: what the figures mean; [`View`] brings them, so that this module knows no part. It is
//! served by [`server::Bound`](crate::server::Bound) with limits of its own ([`listener`]), best on
//! a thread of its own: a probe must be answered while the data side is saturated. Invariants: it
//! shows no secret; nothing but `POST /quitquitquit` changes anything, and that only from this
//! machine, when it is switched on.

mod content_negotiation;
mod health;
mod page;
mod rebinding;
mod route;
mod service;
mod view;

pub use health::{Check, Health, State};
pub use service::{Admin, listener};
pub use view::View;

#[cfg(test)]
mod tests;
