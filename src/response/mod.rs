//! Turns every outcome into an HTTP response. No other module picks a status for the data listener;
//! hyper answers by itself what is not HTTP.
//!
//! - `table` says which [`Problem`] an error is; [`RequestError`] and [`Panicked`] are
//!   the errors of the HTTP layer itself.
//! - [`Layer`] turns a [`Reply`] or an error into a response with its header fields
//!   (`Cache-Status`, `RateLimit`, `Proxy-Status`, `X-Request-Id`, …).
//!
//! Not here: what is stored, which requests wait, what is logged. Invariant: every request gets
//! exactly one response, and an upstream answer keeps its status, body and content type, except for
//! an `@odata.nextLink`, which leads back to the gateway.

mod answer;
mod error_code;
mod etag;
mod field;
mod header_template;
mod layer;
mod next_link;
mod outcome;
mod problem;
mod request_error;
mod table;

pub use answer::{Answered, Body, Config, RateLimit, Window, Windows};
pub use error_code::ErrorCode;
pub use layer::{Layer, Reply, RequestInfo, ResponsePreferences, Tag};
pub use outcome::{Ended, Outcome};
pub use problem::{Policies, Problem, ProxyStatusError};
pub use request_error::{Panicked, RequestError};

#[cfg(test)]
pub(crate) mod tests;
