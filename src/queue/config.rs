//! The queue's settings.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::caller::Name;

/// How much of the quota a caller gets beside others who wait: twice the weight, twice the share. 1
/// for callers without an entry.
#[derive(Clone, Debug, Default)]
pub struct Weights(HashMap<Name, NonZeroU32>);

impl Weights {
    /// Weights above this count as this: shares finer than a thousandth would not be noticed.
    pub const MOST: u32 = 1000;

    /// The caller's weight, 1 to [`Weights::MOST`].
    pub fn of(&self, caller: &Name) -> u32 {
        self.0.get(caller).map_or(1, |weight| weight.get().min(Self::MOST))
    }
}

impl FromIterator<(Name, NonZeroU32)> for Weights {
    fn from_iter<I: IntoIterator<Item = (Name, NonZeroU32)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

/// The queue's settings. All values are valid; zero tickets means that nobody may wait.
#[derive(Clone, Debug)]
pub struct Config {
    /// Most tickets in all.
    pub max_requests: usize,
    /// Most tickets of one caller.
    pub max_requests_per_caller: usize,
    /// The longest that a request may ask to wait; no refusal advises a longer one.
    pub longest_wait: Duration,
    /// Shares of named callers.
    pub weights: Weights,
}
