//! Configuration in, a running gateway out: builds the parts, starts their tasks, drains them.
//!
//! This is the only place that knows the configuration and the parts at the same time.

mod checks;
mod components;
mod context;
mod gateway;
mod history;
mod hot_swap;
mod merge_memory;
mod one_shot_client;
mod problems;
mod reload;
mod settings;
mod status;
mod token_limiters;

pub use context::{HostEnvironment, RequestMemory};
pub use gateway::{Ended, Error, Gateway};
pub use merge_memory::remembered_merging;
pub use one_shot_client::{NoAnswer, OneShotClient};
pub(crate) use problems::advice_on_forbidden;
pub use reload::{Applied, ConfigSource, ReloadError, Reloader};
pub use settings::{cache_bytes, ledger};
pub use token_limiters::TokenLimiters;
