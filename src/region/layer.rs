//! Sends a call to the best host, and to the next one as long as nothing was processed.

use tokio::time::Instant;

use crate::attempt::{Charged, Delivery, Failure, RetryHint, Routed};
use crate::middleware::{Middleware, Next};
use crate::region::fault::classify;
use crate::region::outlier::{CallOutcome, ProgressMonitor};
use crate::region::{Error, HostSelector, SelectedHost};
use crate::scan::{Endpoint, ResponseFault, ResponseKind, UpstreamResponse};

/// Sends a call to the best host. If a host provably got nothing, the next one is tried with the
/// same permit: each host at most once, for at most
/// [`Config::failover_limit`](crate::region::Config::failover_limit) plus the last attempt.
impl Middleware<Charged, Next<Routed>> for HostSelector {
    async fn call(&self, charged: Charged, next: &Next<Routed>) -> Result<UpstreamResponse, Failure> {
        self.measured().await;
        let begun = Instant::now();
        let mut tried = Vec::new();
        let mut failed = None;
        while let Some(choice) = self.pick(&tried, Instant::now()) {
            let deadline = charged.caller.deadline;
            let monitor = ProgressMonitor::new(self.clone(), &choice, deadline, charged.retries);
            let routed = Routed {
                charged: charged.clone(),
                base: choice.base.clone(),
                stall_timeout: monitor.stall_timeout(),
            };
            let result = next.call(routed).await;
            match report(self, &choice, &monitor, charged.request.endpoint(), result) {
                Then::Return(result) => return result,
                Then::OtherHost(failure) if begun.elapsed() >= self.config().failover_limit => return Err(failure),
                Then::OtherHost(failure) => {
                    tracing::debug!(
                        region = &*choice.label,
                        request_id = charged.caller.request_id.as_str(),
                        "not processed; trying the next region"
                    );
                    failed = Some(failure);
                    tried.push(choice.index);
                }
            }
        }
        // All usable hosts were tried; the last failure is returned.
        Err(failed.unwrap_or_else(|| Failure {
            delivery: Delivery::NotSent,
            again: RetryHint::Never,
            answer: None,
            source: Box::new(NoHost),
        }))
    }
}

/// There is no host, which cannot happen: a selector always has one.
#[derive(Debug, thiserror::Error)]
#[error("there is no region to call")]
struct NoHost;

enum Then {
    Return(Result<UpstreamResponse, Failure>),
    OtherHost(Failure),
}

/// Reports how the call went, and returns whether another host may be tried with the same permit.
fn report(
    selector: &HostSelector,
    choice: &SelectedHost,
    monitor: &ProgressMonitor,
    endpoint: Endpoint,
    result: Result<UpstreamResponse, Failure>,
) -> Then {
    let failure = match result {
        Ok(answer) => {
            let kind = ResponseKind::of(endpoint, &answer);
            let pause = monitor.longest_pause();
            let seen = match kind {
                ResponseKind::Answer if answer.status.is_success() => CallOutcome::Success(pause),
                ResponseKind::Answer => CallOutcome::ClientError(pause),
                ResponseKind::Throttled => CallOutcome::Alive,
                ResponseKind::Fault(ResponseFault::Unavailable) => CallOutcome::Unavailable,
                ResponseKind::Fault(_) => CallOutcome::InvalidResponse,
            };
            selector.answered(choice, seen);
            return Then::Return(match kind {
                ResponseKind::Fault(fault) if !fault.may_pass() => {
                    Err(invalid_response(selector, choice, &answer, fault))
                }
                _ => Ok(answer),
            });
        }
        Err(failure) => failure,
    };
    if failure.answer.is_some() {
        // The token was rejected, in whatever form.
        selector.answered(choice, CallOutcome::Alive);
        return Then::Return(Err(failure));
    }
    match classify(&failure, &choice.base) {
        Some(fault) => {
            selector.failed(choice, fault);
            if failure.delivery == Delivery::NotSent {
                Then::OtherHost(failure)
            } else {
                Then::Return(Err(failure))
            }
        }
        // The host is not at fault, for example because a token is missing; another host would not
        // help.
        None => Then::Return(Err(failure)),
    }
}

/// The failure of a call whose response is no answer. Another host, if there is one, may have one.
fn invalid_response(
    selector: &HostSelector,
    choice: &SelectedHost,
    answer: &UpstreamResponse,
    fault: ResponseFault,
) -> Failure {
    let again = if selector.has_other_good(choice) {
        RetryHint::Once
    } else {
        RetryHint::Never
    };
    let error = Error {
        host: choice.base.host_str().unwrap_or_default().to_owned(),
        status: answer.status,
        fault,
    };
    Failure {
        delivery: Delivery::Answered,
        again,
        answer: None,
        source: Box::new(error),
    }
}
