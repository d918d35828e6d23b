//! `[defender]`: the upstream, and the connection to it.

mod proxy;
mod region;
mod resolved;

pub(super) use self::resolved::KEYS;
pub(in crate::config) use self::resolved::cloud;
pub use proxy::Proxy;
pub use region::Pin;
pub use resolved::Defender;
