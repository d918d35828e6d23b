//! Any outcome becomes an HTTP answer here, and only here: this is the one place that picks a status.
//!
//! - [`problem`] is the table from errors to [`Problem`]s; [`Refusal`] and [`Panicked`] are the errors of the HTTP layer itself.
//! - [`Layer`] turns a [`Reply`] or an error into an answer with its fields (`Cache-Status`, `RateLimit`, `Proxy-Status`, `X-Request-Id`, …).
//!
//! Not here: what is stored, who waits, what is logged. Invariant: every request gets exactly one answer, and an answer of the
//! upstream keeps its status, body and content type, except for an `@odata.nextLink`, which leads back to
//! the gateway.

mod answer;
mod describe;
mod etag;
mod field;
mod forwarded;
mod header_template;
mod kind;
mod layer;
mod link;
mod outcome;
mod problem;
mod refusal;
mod table;

pub use answer::{Answered, Body, Config, RateLimit, Window, Windows};
pub use describe::{answers, body, options, shared};
pub use forwarded::{Network, ParseNetworkError};
pub use kind::Kind;
pub use layer::{Asked, Layer, Reply, RequestInfo, Respond, Tag};
pub use outcome::{Ended, Outcome, TokenOwner};
pub use problem::{Fault, Policies, Problem};
pub use refusal::{Panicked, Refusal};
pub use table::problem;

#[cfg(test)]
mod tests;
