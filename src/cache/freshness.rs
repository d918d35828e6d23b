//! The settings of the cache, and whether an entry may answer a request by them: RFC 9111's
//! freshness, and RFC 5861's stale-while-revalidate and stale-if-error. All functions are pure.

use std::time::Duration;

use crate::caller::CacheDirectives;
use crate::scan::{ForwardReason, Merging};

/// The cache's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long an answer is fresh. Without prefetching each entry's own time is up to a tenth
    /// shorter, so that answers fetched together do not all have to be refreshed together. Zero
    /// switches the cache off.
    pub ttl: Duration,
    /// How long the history of a finished session is fresh; no shorter than `ttl`.
    pub finished_ttl: Duration,
    /// How long after that a stale answer is served at once, while a new one is fetched from spare
    /// quota, if there is any.
    pub stale_while_revalidate: Duration,
    /// How long after its freshness a stale answer is served when no new one can be fetched.
    pub stale_if_error: Duration,
    /// When requests are merged: then calls with spare room refresh ids that are often asked for,
    /// so the cache counts how often they are.
    pub prefetch: Merging,
    /// Memory for entries, their keys and bookkeeping included, in bytes.
    pub max_size: u64,
    /// Memory for the bodies of entries and the rows of ids, with former ones that callers are still
    /// reading or waiting with, in bytes; more than `max_size`.
    pub max_held: usize,
}

impl Config {
    /// How long an error about the request (400, 404) is stored, at most: long enough that a tool
    /// in a loop costs some six calls a minute, and short enough that a new definition is found
    /// soon.
    pub const NEGATIVE_TTL: Duration = Duration::from_secs(10);

    /// After this long no stored answer can be served any more.
    pub(super) fn kept(&self) -> Duration {
        self.ttl
            .max(self.finished_ttl)
            .saturating_add(self.longest_staleness())
            .min(Duration::from_hours(24 * 365))
    }

    /// This long after its freshness no entry can be served any more.
    pub(super) fn longest_staleness(&self) -> Duration {
        self.stale_while_revalidate.max(self.stale_if_error)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(30),
            finished_ttl: Duration::from_hours(6),
            stale_while_revalidate: Duration::from_mins(1),
            stale_if_error: Duration::from_mins(10),
            prefetch: Merging::Off,
            max_size: 64 << 20,
            max_held: 80 << 20,
        }
    }
}

/// How old an entry is, and how long it is fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Age {
    pub(super) age: Duration,
    pub(super) ttl: Duration,
}

impl Age {
    /// How much longer the entry is fresh; `None` once it is stale.
    pub(super) fn remaining(self) -> Option<Duration> {
        self.ttl.checked_sub(self.age).filter(|left| !left.is_zero())
    }

    /// How long the entry has been stale.
    pub(super) fn staleness(self) -> Duration {
        self.age.saturating_sub(self.ttl)
    }

    /// The `ttl` of `Cache-Status`: whole seconds, rounded down, so that a stale entry never shows
    /// 0.
    pub(super) fn ttl_seconds(self) -> i64 {
        let whole = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        match self.remaining() {
            Some(left) => whole(left),
            None => -whole(self.staleness()).saturating_add(1),
        }
    }
}

/// What a stored answer may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evaluation {
    /// It is served.
    Fresh,
    /// It is served, and refreshed if there is spare quota.
    Stale(StaleReason),
    /// A new answer is fetched; the stored one is served only if that fails.
    StaleIfError(ForwardReason),
    /// A new answer is fetched.
    Unusable(ForwardReason),
}

/// Why a stale answer may be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StaleReason {
    /// The caller sent `max-stale`.
    Requested,
    /// It is within `stale_while_revalidate`.
    WhileRevalidating,
    /// It is within `stale_if_error`, and the last refresh failed.
    IfError,
}

impl StaleReason {
    /// The `detail` of `Cache-Status`.
    pub(super) fn detail(self) -> Option<&'static str> {
        match self {
            Self::Requested => None,
            Self::WhileRevalidating => Some("swr"),
            Self::IfError => Some("stale-if-error"),
        }
    }
}

/// Whether the last refresh of an entry failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefreshHealth {
    Good,
    Failing,
}

/// Evaluates an entry of this age.
pub(super) fn evaluate(config: &Config, directives: &CacheDirectives, age: Age, health: RefreshHealth) -> Evaluation {
    let remaining = age.remaining();
    // RFC 9211 §2.2: `request` when a fresh answer was there but the request did not allow it.
    let forward = if remaining.is_some() {
        ForwardReason::Request
    } else {
        ForwardReason::Stale
    };
    let too_old = directives.max_age.is_some_and(|limit| age.age > limit);
    if directives.no_cache || too_old {
        return Evaluation::Unusable(forward);
    }
    if let Some(remaining) = remaining {
        return match directives.min_fresh {
            Some(least) if remaining < least => Evaluation::Unusable(forward),
            _ => Evaluation::Fresh,
        };
    }
    let staleness = age.staleness();
    match directives.max_stale {
        // RFC 9111 §5.2.1: a caller that asks for a maximum age or a minimum freshness wants no
        // stale answer, unless `max-stale` allows it.
        None if directives.max_age.is_some() => Evaluation::Unusable(forward),
        _ if directives.min_fresh.is_some_and(|least| !least.is_zero()) => Evaluation::Unusable(forward),
        Some(limit) if staleness <= limit => Evaluation::Stale(StaleReason::Requested),
        Some(_) => Evaluation::Unusable(forward),
        None if staleness <= config.stale_while_revalidate => Evaluation::Stale(StaleReason::WhileRevalidating),
        None if staleness > config.stale_if_error => Evaluation::Unusable(forward),
        None if health == RefreshHealth::Failing => Evaluation::Stale(StaleReason::IfError),
        None => Evaluation::StaleIfError(forward),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CONFIG: Config = Config {
        ttl: Duration::from_secs(30),
        finished_ttl: Duration::from_hours(6),
        stale_while_revalidate: Duration::from_mins(1),
        stale_if_error: Duration::from_mins(10),
        prefetch: Merging::Off,
        max_size: 1 << 20,
        max_held: 2 << 20,
    };

    fn at(seconds: u64, directives: CacheDirectives) -> Evaluation {
        let age = Age {
            age: Duration::from_secs(seconds),
            ttl: CONFIG.ttl,
        };
        evaluate(&CONFIG, &directives, age, RefreshHealth::Good)
    }

    #[test]
    fn an_entry_goes_from_fresh_to_stale_to_stale_if_error_to_unusable() {
        let any = CacheDirectives::default();
        assert_eq!(at(29, any), Evaluation::Fresh);
        assert_eq!(at(30, any), Evaluation::Stale(StaleReason::WhileRevalidating));
        assert_eq!(at(90, any), Evaluation::Stale(StaleReason::WhileRevalidating));
        assert_eq!(at(91, any), Evaluation::StaleIfError(ForwardReason::Stale));
        assert_eq!(at(630, any), Evaluation::StaleIfError(ForwardReason::Stale));
        assert_eq!(at(631, any), Evaluation::Unusable(ForwardReason::Stale));
        let age = Age {
            age: Duration::from_secs(91),
            ttl: CONFIG.ttl,
        };
        assert_eq!(
            evaluate(&CONFIG, &any, age, RefreshHealth::Failing),
            Evaluation::Stale(StaleReason::IfError)
        );
    }

    #[test]
    fn the_callers_directives_are_obeyed() {
        let no_cache = CacheDirectives {
            no_cache: true,
            max_stale: Some(Duration::from_secs(1000)),
            ..CacheDirectives::default()
        };
        assert_eq!(at(1, no_cache), Evaluation::Unusable(ForwardReason::Request));
        assert_eq!(at(40, no_cache), Evaluation::Unusable(ForwardReason::Stale));

        let max_age = |n| CacheDirectives {
            max_age: Some(Duration::from_secs(n)),
            ..CacheDirectives::default()
        };
        assert_eq!(at(10, max_age(10)), Evaluation::Fresh);
        assert_eq!(at(11, max_age(10)), Evaluation::Unusable(ForwardReason::Request));
        assert_eq!(at(40, max_age(100)), Evaluation::Unusable(ForwardReason::Stale));

        let min_fresh = |n| CacheDirectives {
            min_fresh: Some(Duration::from_secs(n)),
            ..CacheDirectives::default()
        };
        assert_eq!(at(20, min_fresh(10)), Evaluation::Fresh);
        assert_eq!(at(21, min_fresh(10)), Evaluation::Unusable(ForwardReason::Request));
        assert_eq!(at(40, min_fresh(10)), Evaluation::Unusable(ForwardReason::Stale));

        let max_stale = |n| CacheDirectives {
            max_stale: Some(Duration::from_secs(n)),
            max_age: Some(Duration::from_secs(1000)),
            ..CacheDirectives::default()
        };
        assert_eq!(at(40, max_stale(10)), Evaluation::Stale(StaleReason::Requested));
        assert_eq!(at(41, max_stale(10)), Evaluation::Unusable(ForwardReason::Stale));
    }

    #[test]
    fn the_ttl_shown_is_never_zero_for_a_stale_entry() {
        let age = |age_ms, ttl_ms| {
            Age {
                age: Duration::from_millis(age_ms),
                ttl: Duration::from_millis(ttl_ms),
            }
            .ttl_seconds()
        };
        assert_eq!(age(0, 30_000), 30);
        assert_eq!(age(8_200, 29_900), 21);
        assert_eq!(age(29_999, 30_000), 0);
        assert_eq!(age(30_000, 30_000), -1);
        assert_eq!(age(37_500, 30_000), -8);
    }
}
