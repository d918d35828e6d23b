//! May this entry answer this caller? Pure.

use crate::cache::Config;
use crate::cache::entry::Age;
use crate::caller::Freshness;
use crate::scan::Forward;

/// What a stored answer is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Serve it.
    Fresh,
    /// Serve it, and renew it if there is quota to spare.
    Stale(Reason),
    /// Ask, and serve it only if no better answer can be had.
    InReserve(Forward),
    /// Ask.
    Unusable(Forward),
}

/// Why a stale answer may be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The caller said `max-stale`.
    Wanted,
    /// It is within `stale_while_revalidate`.
    WhileRevalidating,
    /// It is within `stale_if_error`, and the last attempt to renew it failed.
    IfError,
}

impl Reason {
    /// The `detail` of `Cache-Status`.
    pub(super) fn detail(self) -> Option<&'static str> {
        match self {
            Self::Wanted => None,
            Self::WhileRevalidating => Some("swr"),
            Self::IfError => Some("stale-if-error"),
        }
    }
}

/// Whether the last attempt to renew an entry failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Good,
    Failing,
}

/// The verdict on an entry of this age.
pub(super) fn evaluate(config: &Config, wanted: &Freshness, age: Age, health: Health) -> Verdict {
    let remaining = age.remaining();
    // RFC 9211 §2.2: `request` when a fresh answer was there but the request did not allow it.
    let forward = if remaining.is_some() {
        Forward::Request
    } else {
        Forward::Stale
    };
    let too_old = wanted.max_age.is_some_and(|limit| age.age > limit);
    if wanted.no_cache || too_old {
        return Verdict::Unusable(forward);
    }
    if let Some(remaining) = remaining {
        return match wanted.min_fresh {
            Some(least) if remaining < least => Verdict::Unusable(forward),
            _ => Verdict::Fresh,
        };
    }
    let staleness = age.staleness();
    match wanted.max_stale {
        // RFC 9111 §5.2.1: a caller who states an age or a remaining freshness does not want stale answers unless `max-stale` says so.
        None if wanted.max_age.is_some() => Verdict::Unusable(forward),
        _ if wanted.min_fresh.is_some_and(|least| !least.is_zero()) => Verdict::Unusable(forward),
        Some(limit) if staleness <= limit => Verdict::Stale(Reason::Wanted),
        Some(_) => Verdict::Unusable(forward),
        None if staleness <= config.stale_while_revalidate => Verdict::Stale(Reason::WhileRevalidating),
        None if staleness > config.stale_if_error => Verdict::Unusable(forward),
        None if health == Health::Failing => Verdict::Stale(Reason::IfError),
        None => Verdict::InReserve(forward),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const CONFIG: Config = Config {
        ttl: Duration::from_secs(30),
        finished_ttl: Duration::from_hours(6),
        stale_while_revalidate: Duration::from_mins(1),
        stale_if_error: Duration::from_mins(10),
        prefetch: crate::cache::Prefetch::Off,
        max_size: 1 << 20,
        max_held: 2 << 20,
    };

    fn at(seconds: u64, wanted: Freshness) -> Verdict {
        let age = Age {
            age: Duration::from_secs(seconds),
            ttl: CONFIG.ttl,
        };
        evaluate(&CONFIG, &wanted, age, Health::Good)
    }

    #[test]
    fn an_entry_goes_from_fresh_to_stale_to_reserve_to_nothing() {
        let any = Freshness::default();
        assert_eq!(at(29, any), Verdict::Fresh);
        assert_eq!(at(30, any), Verdict::Stale(Reason::WhileRevalidating));
        assert_eq!(at(90, any), Verdict::Stale(Reason::WhileRevalidating));
        assert_eq!(at(91, any), Verdict::InReserve(Forward::Stale));
        assert_eq!(at(630, any), Verdict::InReserve(Forward::Stale));
        assert_eq!(at(631, any), Verdict::Unusable(Forward::Stale));
        let age = Age {
            age: Duration::from_secs(91),
            ttl: CONFIG.ttl,
        };
        assert_eq!(
            evaluate(&CONFIG, &any, age, Health::Failing),
            Verdict::Stale(Reason::IfError)
        );
    }

    #[test]
    fn the_callers_wishes_are_obeyed() {
        let no_cache = Freshness {
            no_cache: true,
            max_stale: Some(Duration::from_secs(1000)),
            ..Freshness::default()
        };
        assert_eq!(at(1, no_cache), Verdict::Unusable(Forward::Request));
        assert_eq!(at(40, no_cache), Verdict::Unusable(Forward::Stale));

        let max_age = |n| Freshness {
            max_age: Some(Duration::from_secs(n)),
            ..Freshness::default()
        };
        assert_eq!(at(10, max_age(10)), Verdict::Fresh);
        assert_eq!(at(11, max_age(10)), Verdict::Unusable(Forward::Request));
        assert_eq!(at(40, max_age(100)), Verdict::Unusable(Forward::Stale));

        let min_fresh = |n| Freshness {
            min_fresh: Some(Duration::from_secs(n)),
            ..Freshness::default()
        };
        assert_eq!(at(20, min_fresh(10)), Verdict::Fresh);
        assert_eq!(at(21, min_fresh(10)), Verdict::Unusable(Forward::Request));
        assert_eq!(at(40, min_fresh(10)), Verdict::Unusable(Forward::Stale));

        let max_stale = |n| Freshness {
            max_stale: Some(Duration::from_secs(n)),
            max_age: Some(Duration::from_secs(1000)),
            ..Freshness::default()
        };
        assert_eq!(at(40, max_stale(10)), Verdict::Stale(Reason::Wanted));
        assert_eq!(at(41, max_stale(10)), Verdict::Unusable(Forward::Stale));
    }
}
