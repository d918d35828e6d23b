//! Sends a call to the best host, and to the next one as long as nothing was processed.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt as _};

use crate::attempt::{Charged, Delivery, Failure, RetryHint, Routed};
use crate::region::fault::classify;
use crate::region::outlier::{CallOutcome, ProgressMonitor};
use crate::region::{Error, HostSelector, SelectedHost};
use crate::scan::{Endpoint, ResponseFault, ResponseKind, UpstreamResponse};

/// Puts [`Region`] in front of a service.
#[derive(Clone, Debug)]
pub struct RegionLayer {
    selector: HostSelector,
}

impl RegionLayer {
    /// A layer that picks hosts from `selector`, and reports to it how the calls went.
    pub fn new(selector: HostSelector) -> Self {
        Self { selector }
    }
}

impl<S> Layer<S> for RegionLayer {
    type Service = Region<S>;

    fn layer(&self, inner: S) -> Region<S> {
        Region {
            inner,
            selector: self.selector.clone(),
        }
    }
}

/// Sends a call to the best host. If a host provably got nothing, the next one is tried with the
/// same permit: each host at most once, for at most
/// [`Config::failover_limit`](crate::region::Config::failover_limit) plus the last attempt.
#[derive(Clone, Debug)]
pub struct Region<S> {
    inner: S,
    selector: HostSelector,
}

impl<S> Service<Charged> for Region<S>
where
    S: Service<Routed, Response = UpstreamResponse, Error = Failure> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = UpstreamResponse;
    type Error = Failure;
    type Future = BoxFuture<'static, Result<UpstreamResponse, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        // Each attempt waits for readiness itself.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, charged: Charged) -> Self::Future {
        Box::pin(run(self.inner.clone(), self.selector.clone(), charged))
    }
}

async fn run<S>(mut inner: S, selector: HostSelector, charged: Charged) -> Result<UpstreamResponse, Failure>
where
    S: Service<Routed, Response = UpstreamResponse, Error = Failure>,
{
    selector.measured().await;
    let begun = Instant::now();
    let mut tried = Vec::new();
    let mut failed = None;
    while let Some(choice) = selector.pick(&tried, Instant::now()) {
        let deadline = charged.caller.deadline;
        let monitor = ProgressMonitor::new(selector.clone(), &choice, deadline, charged.retries);
        let routed = Routed {
            charged: charged.clone(),
            base: choice.base.clone(),
            stall_timeout: monitor.stall_timeout(),
        };
        let result = match inner.ready().await {
            Ok(inner) => inner.call(routed).await,
            Err(failure) => Err(failure),
        };
        match report(&selector, &choice, &monitor, charged.request.endpoint(), result) {
            Next::Return(result) => return result,
            Next::OtherHost(failure) if begun.elapsed() >= selector.config().failover_limit => return Err(failure),
            Next::OtherHost(failure) => {
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

/// There is no host, which cannot happen: a selector always has one.
#[derive(Debug, thiserror::Error)]
#[error("there is no region to call")]
struct NoHost;

enum Next {
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
) -> Next {
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
            return Next::Return(match kind {
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
        return Next::Return(Err(failure));
    }
    match classify(&failure, &choice.base) {
        Some(fault) => {
            selector.failed(choice, fault);
            if failure.delivery == Delivery::NotSent {
                Next::OtherHost(failure)
            } else {
                Next::Return(Err(failure))
            }
        }
        // The host is not at fault, for example because a token is missing; another host would not
        // help.
        None => Next::Return(Err(failure)),
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
