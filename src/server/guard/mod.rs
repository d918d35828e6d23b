//! Who is addressed, and on whose behalf: keeps out misrouted requests, DNS rebinding and the browsers of other sites.
//!
//! Not here: authentication. Whoever reaches the listener may ask; the guard only makes sure that a web page does not reach it.
//! Invariant: below it, every request names exactly one host, and that host is this gateway.

mod host;
mod layer;
mod origin;

pub use host::{Host, Hosts};
pub use layer::{Guard, Layer};

pub(crate) use origin::refuse_cross_site;
