//! What `/status` shows, and the parts that are looked at for it, for the list of problems, and for
//! the history.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::components::Components;
use super::context::SharedContext;
use super::history::{CallMetrics, History, PerCall};
use super::problems::{Problems, Standing};
use super::reload::Configuration;
use crate::response::Outcome;
use crate::scan::{MergeFinding, Operation, Outcome as Served, SplitError};
use crate::server::{Connections, ErrorRecord};
use crate::telemetry::metrics::{Mode, ModeGauge};
use crate::{admin, queue, quota, region, single_flight, token};

/// What is shown. Clones look at the same gateway.
#[derive(Clone)]
pub(super) struct Status {
    pub(super) sources: Arc<Sources>,
    pub(super) problems: Problems,
    pub(super) history: History,
    pub(super) calls: CallMetrics,
    pub(super) host: Arc<str>,
    pub(super) health: admin::Health,
}

impl Status {
    /// What the gateway is doing now, and what is wrong.
    fn mode(&self) -> (Mode, Vec<Standing>) {
        let problems = self.problems.look();
        let mode = if self.health.state() == admin::State::Draining {
            Mode::Draining
        } else if self.sources.is_store_lost() {
            Mode::StoreLost
        } else if problems.is_empty() {
            Mode::Normal
        } else {
            Mode::Degraded
        };
        (mode, problems)
    }

    /// The whole state at this moment.
    pub(super) fn show(&self) -> Value {
        let (mode, problems) = self.mode();
        let current = self.sources.current();
        let connections = &self.sources.connections;
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": seconds(self.sources.started.elapsed()),
            "mode": mode.as_str(),
            "problems": problems.iter().map(problem).collect::<Vec<_>>(),
            "host": &*self.host,
            "tenant": current.config.credentials.tenant_id,
            "cloud": current.config.defender.cloud.as_str(),
            "quota": self.quota(),
            "queue": self.queue(),
            "regions": current.regions.part.snapshot().iter().map(region).collect::<Vec<_>>(),
            "token": token(&current.token_source.part.snapshot()),
            "cache": current.cache.snapshot(),
            "shared_answers": current.shared_cache.as_ref().map(|cache| cache.part.snapshot()),
            "merge": merging(&current),
            "saved": self.saved(),
            "trouble": self.recent_errors(),
            "connections": {"open": connections.open(), "most": connections.most()},
            "config": self.sources.configuration.show(),
        })
    }

    /// Brings up to date what no event changes in the metrics.
    pub(super) fn measure(&self, mode: &ModeGauge) {
        self.sources.quotas().for_each(quota::Quota::show);
        if let Some(shared_cache) = &self.sources.current().shared_cache {
            shared_cache.part.show();
        }
        let metrics = &self.sources.context.metrics;
        if let Some(queue) = self.sources.queue() {
            metrics.queue.show(&queue);
        }
        metrics.count.callers().rank();
        self.calls.show(self.sources.calls(), self.per_call());
        mode.set(self.mode().0);
    }

    /// That of scan history by definition, which is all there is if all operations count together.
    /// If they do not, also that of each one; the longest pause and the sums of all then stand
    /// above them.
    fn quota(&self) -> Value {
        let quotas: Vec<_> = self.sources.quotas().map(quota::Quota::snapshot).collect();
        let mut shown = quotas.first().map(quota).unwrap_or_default();
        if quotas.len() > 1 {
            let operations = Operation::ALL.into_iter().zip(&quotas);
            let operations = operations.map(|(operation, one)| (operation.declaration().name.to_owned(), quota(one)));
            shown["operations"] = Value::Object(operations.collect());
            let longest = quotas.iter().filter_map(|quota| quota.paused).max();
            shown["paused_until_s"] = longest.map(seconds).into();
            shown["in_flight"] = quotas.iter().map(|quota| quota.in_flight).sum::<usize>().into();
            shown["foreign_calls"] = quotas.iter().map(|quota| quota.foreign).sum::<u64>().into();
        }
        shown
    }

    fn queue(&self) -> Value {
        let Some(snapshot) = self.sources.queue() else {
            return Value::Null;
        };
        let shares = snapshot.shares.iter().map(|share| {
            json!({
                "caller": share.name.as_str(),
                "waiting": share.waiting,
                "served": share.served,
                "position": share.outlook.map(|outlook| outlook.position),
                "next_turn_s": share.outlook.map(|outlook| seconds(outlook.next)),
                "last_turn_s": share.outlook.map(|outlook| seconds(outlook.last)),
            })
        });
        json!({
            "waiting": snapshot.waiting,
            "waiting_with_callers_tokens": self.sources.waiting_with_callers_tokens(),
            "callers": snapshot.callers,
            "predicted_wait_s": snapshot.predicted_wait.map(seconds),
            "shares": shares.collect::<Vec<_>>(),
        })
    }

    /// How many requests were answered, and by what, beside the calls that were made.
    fn saved(&self) -> Value {
        let served = |outcome| self.sources.context.metrics.count.ended(Outcome::Served(outcome));
        // Read first: it is counted last, so that no moment shows more of these than were
        // forwarded.
        let partial = self.sources.context.metrics.count.partial();
        let requests: u64 = Served::ALL.into_iter().map(served).sum();
        let by = Served::ALL.into_iter().map(|outcome| {
            let count = match outcome {
                Served::Forwarded => served(outcome).saturating_sub(partial),
                _ => served(outcome),
            };
            (outcome.as_str().to_owned(), json!(count))
        });
        let by = by.chain([("partial".to_owned(), json!(partial))]);
        json!({
            "requests": requests,
            "upstream_calls": self.sources.calls(),
            "per_call": self.per_call().map(|per_call| json!({"now": tenth(per_call.now), "best": tenth(per_call.best)})),
            "by": by.collect::<serde_json::Map<_, _>>(),
        })
    }

    /// How many requests were answered per call, in the last minutes.
    fn per_call(&self) -> Option<PerCall> {
        let max_ids = self.sources.current().config.merge.max_ids.get();
        self.history.per_call(max_ids)
    }

    fn recent_errors(&self) -> Value {
        let count = &self.sources.context.metrics.count;
        json!({
            "refused": count.ended(Outcome::Refused),
            "failed": count.ended(Outcome::Failed),
            "invalid": count.ended(Outcome::Invalid),
            "gone": count.ended(Outcome::Gone),
            "latest": count.recent_errors().latest().iter().map(incident).collect::<Vec<_>>(),
        })
    }
}

fn problem(standing: &Standing) -> Value {
    let problem = &standing.problem;
    json!({
        "code": problem.code.as_str(),
        "severity": problem.severity.as_str(),
        "since_s": seconds(standing.since.elapsed()),
        "count": problem.count,
        "message": problem.message,
        "advice": problem.advice,
    })
}

fn window(window: &quota::Window) -> Value {
    json!({
        "name": &*window.name,
        "limit": window.limit,
        "window_s": seconds(window.length),
        "used": window.used,
        "remaining": window.remaining,
        "reset_s": seconds(window.reset),
    })
}

fn quota(snapshot: &quota::Snapshot) -> Value {
    json!({
        "windows": snapshot.windows.iter().map(window).collect::<Vec<_>>(),
        "pace": snapshot.pace.as_ref().map(pace),
        "paused_until_s": snapshot.paused.map(seconds),
        "in_flight": snapshot.in_flight,
        "foreign_calls": snapshot.foreign,
        "shared": snapshot.replicas.is_some(),
        "replicas": snapshot.replicas,
        "store_eviction": snapshot.eviction.as_ref().map(|eviction| json!({
            "policy": eviction.policy,
            "may_evict_ledger": eviction.takes_any_key(),
        })),
    })
}

fn pace(state: &quota::PaceState) -> Value {
    json!({
        "tokens": state.tokens,
        "capacity": state.capacity,
        "per_minute": state.per_minute,
        "next_token_s": seconds(state.next_token),
        "refill_s": seconds(state.refill),
        "window": &*state.window,
    })
}

fn region(row: &region::HostStatus) -> Value {
    json!({
        "name": &*row.name,
        "label": &*row.label,
        "url": row.url.as_str().trim_end_matches('/'),
        "healthy": row.healthy,
        "left_for": row.ejection_reason,
        "rtt_ms": row.rtt.map(|rtt| (rtt.as_secs_f64() * 100_000.0).round() / 100.0),
        "selected": row.selected,
    })
}

fn incident(incident: &ErrorRecord) -> Value {
    json!({
        "ago_s": seconds(incident.at.elapsed()),
        "status": incident.status,
        "outcome": incident.outcome.as_str(),
        "reason": incident.reason.as_deref(),
        "caller": incident.caller.as_str(),
        "peer": incident.peer.as_str(),
        "operation": incident.operation,
        "target": &*incident.target,
        "request_id": &*incident.request_id,
    })
}

fn token(snapshot: &token::Snapshot) -> Value {
    let last_error = snapshot.last_error.as_ref().map(|error| {
        json!({
            "code": error.code,
            "message": error.message,
            "advice": error.advice,
            "retry_in_s": seconds(error.retry_in),
        })
    });
    json!({
        "kind": snapshot.kind.as_str(),
        "expires_in_s": snapshot.expires_in.map(seconds),
        "refreshing": snapshot.refreshing,
        "last_error": last_error,
        "warnings": snapshot.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// How requests are merged, and what has been found out about that.
fn merging(current: &Components) -> Value {
    let metrics = current.merging();
    let findings = current
        .merge_evidence()
        .map(|profile| profile.merge_evidence().findings());
    let is_proven = |findings: &Vec<MergeFinding>| findings.iter().any(|finding| finding.record.is_proven());
    let resting = metrics.as_ref().and_then(single_flight::Metrics::resting);
    json!({
        "enabled": metrics.is_some() && findings.as_ref().is_none_or(is_proven),
        "mode": match (&metrics, &findings) {
            (_, Some(_)) => "auto",
            (Some(_), None) => "on",
            (None, None) => "off",
        },
        "evidence": findings.map(|findings| findings.iter().map(finding).collect::<Vec<_>>()),
        "calls": metrics.as_ref().map_or(0, single_flight::Metrics::merged_calls),
        "requests": metrics.as_ref().map_or(0, single_flight::Metrics::merged_requests),
        "rests_for_s": resting.map(|(left, _)| seconds(left)),
        "rests_because": resting.map(|(_, split_error)| split_error.to_string()),
    })
}

fn finding(finding: &MergeFinding) -> Value {
    let record = &finding.record;
    json!({
        "operation": finding.endpoint.name(),
        "version": finding.endpoint.version.as_str(),
        "state": finding.state(),
        "says": finding.to_string(),
        "calls": record.calls,
        "answers": record.answers,
        "ids": record.ids,
        "rows": record.rows,
        "contradictions": record.contradictions,
        "contradiction": record.contradiction.map(SplitError::as_str),
        "pause_s": finding.pause.map(seconds),
    })
}

fn tenth(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// Seconds with three decimals.
pub(super) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

/// Where what is shown comes from.
pub(super) struct Sources {
    pub(super) started: Instant,
    pub(super) context: SharedContext,
    pub(super) connections: Connections,
    pub(super) current: Arc<ArcSwap<Components>>,
    pub(super) configuration: Configuration,
}

impl Sources {
    /// The parts of the configuration that runs.
    pub(super) fn current(&self) -> Guard<Arc<Components>> {
        self.current.load()
    }

    /// One for all operations, or one for each in their order.
    pub(super) fn quotas(&self) -> impl ExactSizeIterator<Item = &quota::Quota> {
        self.context.token_limiters.quotas()
    }

    /// Likewise.
    pub(super) fn queues(&self) -> impl DoubleEndedIterator<Item = &queue::Queue<quota::Quota>> {
        self.context.token_limiters.queues()
    }

    /// All of these queues as one.
    pub(super) fn queue(&self) -> Option<queue::Snapshot> {
        self.queues().map(queue::Queue::snapshot).reduce(queue::Snapshot::with)
    }

    /// How many requests wait to be asked with tokens that callers sent, on queues of their own.
    pub(super) fn waiting_with_callers_tokens(&self) -> usize {
        self.context.token_limiters.waiting_with_callers_tokens()
    }

    /// How many calls have been let leave, with whatever token.
    pub(super) fn calls(&self) -> u64 {
        self.context.token_limiters.calls()
    }

    /// Whether the store does not answer, so that no call leaves, and it is known why: at first it
    /// has not had the time to answer.
    pub(super) fn is_store_lost(&self) -> bool {
        let lost = self.quotas().filter(|quota| quota.unavailable_for().is_some());
        lost.map(quota::Quota::snapshot)
            .any(|lost| lost.store_failure.is_some())
    }
}
