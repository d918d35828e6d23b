//! The name of a replica among those that share the quota. It ends with a digest of the limits that
//! the replica goes by: as the names of all members are known to each of them, so is who goes by
//! other limits, and the store has nothing to count.

use ring::digest::{SHA256, digest};

use crate::quota::Config;

/// Between the parts of a name. Versions that do not tell their limits have no further part.
const SEPARATOR: char = '-';

/// A name that nobody else has.
pub(super) fn new(config: &Config) -> String {
    format!("{}{SEPARATOR}{}", super::random(), terms(config))
}

/// Whether these names say that their replicas go by different limits. One that says nothing of
/// its limits is not known to have others.
pub(super) fn have_other_limits(one: &str, other: &str) -> bool {
    let terms = |name: &'_ str| name.split(SEPARATOR).nth(1).map(str::to_owned);
    matches!((terms(one), terms(other)), (Some(one), Some(other)) if one != other)
}

/// What all replicas have to agree on for the quota to be what each was told.
fn terms(config: &Config) -> String {
    let limits = config.limits.iter();
    let limits = limits.map(|limit| format!("{}/{}", limit.calls(), limit.window().as_micros()));
    let text = format!(
        "{} {} {}",
        limits.collect::<Vec<_>>().join(","),
        config.burst,
        config.pacing.as_str()
    );
    let digest = digest(&SHA256, text.as_bytes());
    let first = digest.as_ref().first_chunk().copied().map_or(0, u32::from_be_bytes);
    format!("{first:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;
    use std::time::Duration;

    use crate::quota::{Limit, Pacing, UnknownPast};

    fn config(calls: u32, burst: u32) -> Config {
        let limit = Limit::try_new(NonZeroU32::new(calls).unwrap(), Duration::from_mins(1)).unwrap();
        Config::try_new(vec![limit], NonZeroU32::new(burst).unwrap(), Duration::from_secs(1)).unwrap()
    }

    #[test]
    fn names_tell_limits_burst_and_pacing_apart_and_nothing_else() {
        let own = new(&config(100, 10));
        let is_other = |config: &Config| have_other_limits(&own, &new(config));
        assert!(!is_other(&config(100, 10)), "{own}");
        assert_ne!(own, new(&config(100, 10)));
        assert!(!is_other(&config(100, 10).unknown_past(UnknownPast::Full)));
        assert!(is_other(&config(101, 10)) && is_other(&config(100, 11)));
        assert!(is_other(&config(100, 10).pacing(Pacing::None)));
        // Kept by the names of versions to come.
        assert!(own.ends_with("-ba00d58d"), "{own}");
    }

    #[test]
    fn who_does_not_tell_its_limits_is_not_known_to_have_others() {
        for (one, other) in [
            ("0123456789abcdef", "0-1"),
            ("0-1", "0123456789abcdef"),
            ("", "a"),
            ("0-1", "2-1-9"),
        ] {
            assert!(!have_other_limits(one, other), "{one} {other}");
        }
        assert!(have_other_limits("0-1", "0-2-9"));
    }
}
