//! Listeners and connections that can misbehave on command.

mod body;
mod host;
mod line;
mod read;
mod reply;
mod tls;

pub(super) use host::{Handler, Host};
pub(super) use read::{Unread, read};
pub(super) use reply::{Manner, Reply};
pub use tls::Tls;
