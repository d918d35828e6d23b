//! Listeners and connections that misbehave on request.

mod body;
mod connection;
mod host;
mod read;
mod reply;
mod tls;

pub(super) use host::{Handler, Host};
pub(super) use read::{Unread, read};
pub(super) use reply::{Manner, Reply};
pub use tls::Tls;
