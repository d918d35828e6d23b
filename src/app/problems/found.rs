//! The conditions of the problems. Each looks at one part; none changes anything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::defender::{roles, upstream};
use super::{Code, Problem, sharing};
use crate::app::components::Components;
use crate::app::reload::Configuration;
use crate::app::status::Sources;
use crate::{queue, quota, server, token};

/// How long sign-in may take before a missing token is a problem without having failed.
const FIRST_TOKEN: Duration = Duration::from_secs(10);

/// A ledger, and who waits for it.
struct State {
    quota: quota::Snapshot,
    waiting: u64,
    /// Requests that were refused for want of slots, since the start.
    refused: u64,
}

impl State {
    fn is_spent(&self) -> bool {
        self.quota.windows.iter().any(|window| window.remaining == 0)
    }

    /// Whether calls have to wait for the pace. While a shared store puts together what replicas
    /// remember, there is nothing yet that could be spread.
    fn is_paced(&self) -> bool {
        let is_used = self.quota.windows.iter().any(|window| window.remaining < window.limit);
        is_used && self.quota.pace.as_ref().is_some_and(|pace| pace.whole_tokens() == 0)
    }
}

/// How many requests had been refused when it was last looked.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    for_slots: AtomicU64,
    for_memory: AtomicU64,
}

/// What is wrong now, where some is known to have been.
pub(super) fn find(
    sources: &Sources,
    earlier: &Earlier,
    is_known: impl Fn(Code) -> bool,
    now: Instant,
) -> Vec<Problem> {
    let current = sources.current();
    let snapshot = current.token_source.part.snapshot();
    let mut found = Vec::new();
    found.extend(sign_in(sources, &snapshot, now));
    found.extend(roles(&snapshot));
    found.extend(certificate(&snapshot));
    found.extend(upstream(&current.calls.recent().snapshot(), snapshot.roles, is_known));
    found.extend(regions(&current.regions.part.snapshot()));
    found.extend(sharing::store(sources, &current));
    found.extend(sharing::limits(sources, now));
    found.extend(state_file(sources));
    found.extend(slots(&states(sources), &earlier.for_slots));
    found.extend(memory(sources, &earlier.for_memory));
    found.extend(connections(&sources.connections));
    found.extend(configuration(&sources.configuration));
    found.extend(merging(&current));
    found
}

fn sign_in(sources: &Sources, snapshot: &token::Snapshot, now: Instant) -> Option<Problem> {
    let error = snapshot.last_error.as_ref();
    let left = snapshot.expires_in.map(|left| left.as_secs());
    let (code, message, advice) = match (left, error) {
        (Some(_), None) => return None,
        (None, None) if now.saturating_duration_since(sources.started) < FIRST_TOKEN => return None,
        (Some(left), Some(error)) => {
            let (code, message) = (&error.code, &error.message);
            let message =
                format!("the token cannot be renewed: {code}: {message}; the one at hand lasts another {left} s");
            (Code::SignInFailing, message, error.advice)
        }
        (None, Some(error)) => {
            let message = format!("there is no valid token: {}: {}", error.code, error.message);
            (Code::NoToken, message, error.advice)
        }
        (None, None) => (
            Code::NoToken,
            "there is no valid token: sign-in has not answered yet".into(),
            match snapshot.kind {
                token::Kind::ManagedIdentity => {
                    "check that the metadata service, which issues the identity's tokens, can be reached from here; pods may be kept \
                     from it by the node pool or a NetworkPolicy"
                }
                _ => "check that the sign-in address (credentials.authority) can be reached from here",
            },
        ),
    };
    Some(Problem::new(code, message, advice))
}

/// Whether a restart would forget calls, or another gateway makes calls that are not seen here.
fn state_file(sources: &Sources) -> Option<Problem> {
    let Some(reason) = sources.quotas().find_map(quota::Quota::unwritten) else {
        return sources.quotas().any(quota::Quota::is_file_shared).then(|| {
            Problem::new(
                Code::StateFile,
                "another process has been using quota.state_file for minutes: neither sees the other's calls, so both together may \
                 make more than Defender allows",
                "give each gateway a file and an app registration of its own, or a shared store; or stop the other one",
            )
        });
    };
    Some(Problem::new(
        Code::StateFile,
        format!(
            "quota.state_file cannot be written ({reason}): a restart now would forget calls that still count, and Defender would \
             refuse as many"
        ),
        "make room on its disk, or give its folder back to the gateway; all calls are written as soon as that works",
    ))
}

fn certificate(snapshot: &token::Snapshot) -> Option<Problem> {
    let expiry = |warning: &token::Warning| match warning {
        token::Warning::CertificateExpiry { at } => Some(*at),
        _ => None,
    };
    let at = snapshot.warnings.iter().find_map(expiry)?;
    Some(Problem::new(
        Code::CertificateExpiring,
        format!("the sign-in certificate is good until {at:.0}: then no token can be renewed"),
        "register a new one on the app registration, and then replace the file; the gateway reads it by itself",
    ))
}

/// Whether callers have to wait or are refused, and why.
fn slots(states: &[State], earlier: &AtomicU64) -> Option<Problem> {
    // In a pause too, so that what it refused is not held against the quota when it is over.
    let refused = states.iter().map(|state| state.refused).sum::<u64>();
    let lately = refused.saturating_sub(earlier.swap(refused, Ordering::Relaxed));
    let waiting: u64 = states.iter().map(|state| state.waiting).sum();
    if let Some(left) = states.iter().filter_map(|state| state.quota.paused).max() {
        return Some(
            Problem::new(
                Code::Paused,
                format!(
                    "Defender answered 429 and ordered a pause: no call for another {} s, {waiting} waiting",
                    left.as_secs().max(1),
                ),
                "find out who else uses this app registration; the gateway goes on by itself after the pause",
            )
            .counting(waiting),
        );
    }
    // The first of those whose callers wait for want of slots; if requests were refused, any that
    // is short. Where none is, the slots are merely promised to others, or a pause has just ended.
    // While the store is lost, that is the problem.
    let known = states.iter().filter(|state| state.quota.unavailable_for.is_none());
    let mut short = known.filter(|state| state.is_spent() || state.is_paced());
    let state = short
        .clone()
        .find(|state| state.waiting > 0)
        .or_else(|| short.next().filter(|_| lately > 0))?;
    let windows = state.quota.left();
    let problem = match &state.quota.pace {
        Some(pace) if !state.is_spent() => Problem::new(
            Code::Paced,
            format!(
                "callers ask for more than the {} window allows, so its calls are spread: {:.0} a minute, {windows}; {waiting} \
                 waiting, {refused} refused since the start",
                pace.window, pace.per_minute
            ),
            "ask less often or for more at a time, raise cache.ttl, or let calls leave until the window is spent \
             (quota.pacing = \"none\")",
        ),
        _ => Problem::new(
            Code::QuotaSpent,
            format!(
                "callers ask for more than Defender's quota allows: {windows}; {waiting} waiting, {refused} refused since the start"
            ),
            "ask less often or for more at a time, or raise cache.ttl",
        ),
    };
    Some(problem.counting(lately + waiting))
}

fn states(sources: &Sources) -> Vec<State> {
    let token_limiters = sources.quotas().zip(sources.queues());
    let state = |(quota, queue): (&quota::Quota, &queue::Queue<quota::Quota>)| State {
        quota: quota.snapshot(),
        waiting: queue.waiting() as u64,
        refused: queue.refused_for_slots(),
    };
    token_limiters.map(state).collect()
}

fn memory(sources: &Sources, earlier: &AtomicU64) -> Option<Problem> {
    let refused = sources.context.metrics.count.exhausted().get();
    let lately = refused.saturating_sub(earlier.swap(refused, Ordering::Relaxed));
    (lately > 0).then(|| {
        Problem::new(
            Code::MemoryFull,
            format!("requests are refused because others use all memory there is for them: {refused} since the start"),
            "give the gateway more memory, or have callers ask for less at a time and read their answers at once",
        )
        .counting(lately)
    })
}

fn connections(connections: &server::Connections) -> Option<Problem> {
    let (open, most) = (connections.open(), connections.most());
    (open >= most).then(|| {
        Problem::new(
            Code::ConnectionsFull,
            format!("{open} callers' connections are open, as many as may be: idle ones make way, further ones wait"),
            "have callers reuse connections, or give the gateway more memory and open files",
        )
        .counting(u64::from(open))
    })
}

fn configuration(configuration: &Configuration) -> Vec<Problem> {
    let (refusal, pending) = configuration.standing();
    let refused = refusal.map(|refusal| {
        let error = refusal.error;
        Problem::new(
            Code::ConfigRefused,
            format!("the configuration as it is written is refused, and the one before runs on: {error}"),
            if refusal.is_fatal {
                "correct it, with `defender-gateway check`; a restart now would fail"
            } else {
                "do what sign-in wants, or put the credentials before back; the gateway tries again by itself, \
                 and a restart would leave the gateway without a token"
            },
        )
    });
    let pending = (!pending.is_empty()).then(|| {
        Problem::new(
            Code::ConfigPending,
            format!(
                "the configuration has changed, and waits for a restart: {}",
                pending.join(", ")
            ),
            "restart the gateway",
        )
        .counting(pending.len() as u64)
    });
    refused.into_iter().chain(pending).collect()
}

fn regions(rows: &[crate::region::HostStatus]) -> Option<Problem> {
    let lost: Vec<_> = rows.iter().filter(|row| !row.healthy).collect();
    if lost.is_empty() {
        return None;
    }
    let told = |row: &&crate::region::HostStatus| match row.ejection_reason {
        Some(why) => format!("{} ({why})", row.label),
        None => row.label.to_string(),
    };
    let names = lost.iter().map(told).collect::<Vec<_>>().join(", ");
    let (code, message) = if lost.len() == rows.len() {
        (Code::NoRegion, format!("none of Defender's hosts can be used: {names}"))
    } else {
        let (lost, all) = (lost.len(), rows.len());
        (
            Code::RegionLost,
            format!("{lost} of {all} of Defender's hosts are avoided: {names}"),
        )
    };
    let advice = "look at the way out from here (DNS, firewall, proxy) and at Microsoft's service health; the gateway tries them again by \
                  itself";
    Some(Problem::new(code, message, advice).counting(lost.len() as u64))
}

fn merging(current: &Components) -> Option<Problem> {
    let (left, split_error) = current.merging()?.resting()?;
    Some(Problem::new(
        Code::MergeResting,
        format!(
            "requests are not merged for another {} s: {split_error}",
            left.as_secs()
        ),
        "nothing is lost but calls; if it happens again and again, set merge.enabled = \"auto\" or false",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ledger with so many calls left, in whose queue nobody waits.
    fn state(remaining: usize, paused: Option<Duration>, refused: u64) -> State {
        let window = quota::Window {
            name: "1m".into(),
            limit: 100,
            length: Duration::from_mins(1),
            used: 100 - remaining,
            remaining,
            reset: Duration::from_secs(9),
        };
        State {
            quota: quota::Snapshot {
                windows: vec![window],
                pace: None,
                steady_until: Instant::now(),
                paused,
                probing: false,
                unavailable_for: None,
                foreign: 0,
                in_flight: 0,
                calls: 0,
                replicas: None,
                other_limits: None,
                eviction: None,
                store_failure: None,
            },
            waiting: 0,
            refused,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_pause_refused_is_not_held_against_the_quota_afterwards() {
        let earlier = AtomicU64::new(0);
        let look = |state| slots(&[state], &earlier).map(|problem| (problem.code, problem.count));
        assert_eq!(
            look(state(90, Some(Duration::from_mins(1)), 50)),
            Some((Code::Paused, 0))
        );
        assert_eq!(look(state(0, None, 50)), None);
        assert_eq!(look(state(0, None, 52)), Some((Code::QuotaSpent, 2)));
        assert_eq!(look(state(90, None, 60)), None, "the window has room");
    }
}
