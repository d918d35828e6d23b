//! What is wrong with the store, and among the replicas that share the quota through it.

use std::time::Duration;

use tokio::time::Instant;

use super::{Code, Problem};
use crate::app::components::Components;
use crate::app::status::Sources;
use crate::{quota, store};

/// Within a rollout replicas go by different limits, and it is over by then.
const ROLLOUT: Duration = Duration::from_mins(5);

pub(super) fn store(sources: &Sources, current: &Components) -> Vec<Problem> {
    let mut found = Vec::new();
    let shared_cache = current.shared_cache.as_ref();
    if sources.is_store_lost() {
        let reason = sources.quotas().find_map(|quota| quota.snapshot().store_failure);
        let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
        found.push(Problem::new(
            Code::StoreLost,
            format!(
                "the store that replicas share does not answer as it should{reason}: no call is made, and only what is cached is \
                 answered"
            ),
            "check that the store at store.url runs, can be reached from here, lets this gateway in and takes writes, and that all \
             gateways there have one version",
        ));
    } else if shared_cache.is_some_and(|member| !member.part.snapshot().up) {
        found.push(Problem::new(
            Code::StoreSlow,
            "the store that replicas share answers too late, or takes no answers: none are shared between replicas; calls are made",
            "see whether the store at store.url has memory left and lets this gateway write answers, and what keeps it or the way to it, \
             or raise store.answer_timeout",
        ));
    }
    let unheard = sources.context.store.as_ref().and_then(store::Client::hears_nothing);
    if let Some(reason) = unheard.filter(|_| !sources.is_store_lost()) {
        found.push(Problem::new(
            Code::StoreUnheard,
            format!("the shared store's messages do not come, and requests wait longer than they need: {reason}"),
            "let the gateway's user subscribe to its channels, and a second connection through to the store",
        ));
    }
    if let Some(eviction) = sources.quotas().find_map(|quota| quota.snapshot().eviction)
        && eviction.takes_any_key()
    {
        found.push(Problem::new(
            Code::StoreEvicting,
            format!(
                "the store removes any key when its memory is full (maxmemory-policy {}), the record of calls too",
                eviction.policy
            ),
            "set the store's maxmemory-policy to noeviction or volatile-lru, or use a store of its own",
        ));
    }
    found
}

/// Whether other replicas still go by other limits than this one.
pub(super) fn limits(sources: &Sources, now: Instant) -> Option<Problem> {
    // Who the replicas are is not known then.
    if sources.is_store_lost() {
        return None;
    }
    let differing = sources.quotas().find_map(|quota| differing(&quota.snapshot(), now));
    let (replicas, all, own) = differing?;
    Some(
        Problem::new(
            Code::LimitsDiffer,
            format!(
                "{replicas} of the {all} replicas that share the quota go by other limits, burst or pacing than this one ({own}): each \
                 goes by its own, so together they make as many calls as the largest limits allow"
            ),
            "give all replicas that share the quota the same quota.limits, quota.burst and quota.pacing, and restart those with other ones",
        )
        .counting(replicas as u64),
    )
}

/// How many go by other limits, of how many, and what ours are.
fn differing(quota: &quota::Snapshot, now: Instant) -> Option<(usize, usize, String)> {
    let other = quota.other_limits?;
    let limit = |window: &quota::Window| format!("{} in {}", window.limit, window.name);
    let own = quota.windows.iter().map(limit).collect::<Vec<_>>().join(", ");
    (now.saturating_duration_since(other.since) >= ROLLOUT).then(|| (other.replicas, quota.replicas.unwrap_or(1), own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    use crate::clock::Wall;

    #[tokio::test(start_paused = true)]
    async fn limits_may_differ_for_as_long_as_a_rollout_takes() {
        let limit = quota::Limit::try_new(NonZeroU32::new(100).unwrap(), Duration::from_mins(1)).unwrap();
        let config = quota::Config::try_new(vec![limit], NonZeroU32::MIN, Duration::from_secs(1)).unwrap();
        let quota = quota::Quota::ephemeral(&config, Wall::system(), quota::Metrics::default());
        let since = Instant::now();
        let look = |other_limits, after| {
            let snapshot = quota::Snapshot {
                replicas: Some(5),
                other_limits,
                ..quota.snapshot()
            };
            differing(&snapshot, since + after)
        };
        let other = Some(quota::OtherLimits { replicas: 2, since });
        assert_eq!(look(None, ROLLOUT), None);
        assert_eq!(look(other, ROLLOUT / 2), None);
        assert_eq!(look(other, ROLLOUT), Some((2, 5, "100 in 1m".into())));
    }
}
