//! Sends a call to the best host, and on to the next one as long as nothing was processed.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt as _};

use crate::attempt::{Again, Delivery, Failure, Outgoing, Routed};
use crate::region::outlier::{CallOutcome, ProgressMonitor};
use crate::region::{Classify, Error, HostSelector, SelectedHost, classify};
use crate::scan::{Answer, Endpoint, ResponseFault, ResponseKind};

/// Puts [`Region`] in front of a service.
#[derive(Clone, Debug)]
pub struct RegionLayer {
    table: HostSelector,
    classify: Classify,
}

impl RegionLayer {
    /// Chooses from `table`, and reports to it how the calls went.
    #[must_use]
    pub fn new(table: HostSelector) -> Self {
        Self { table, classify }
    }

    /// With another judgement of failures, for tests.
    #[must_use]
    pub fn with_classify(self, classify: Classify) -> Self {
        Self { classify, ..self }
    }
}

impl<S> Layer<S> for RegionLayer {
    type Service = Region<S>;

    fn layer(&self, inner: S) -> Region<S> {
        Region {
            inner,
            layer: self.clone(),
        }
    }
}

/// Sends a call to the best host. A host that provably got nothing is followed by the next one, under the same permit: each host at most
/// once, for at most [`Config::failover_limit`](crate::region::Config::failover_limit) plus the last attempt.
#[derive(Clone, Debug)]
pub struct Region<S> {
    inner: S,
    layer: RegionLayer,
}

impl<S> Service<Outgoing> for Region<S>
where
    S: Service<Routed, Response = Answer, Error = Failure> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Answer;
    type Error = Failure;
    type Future = BoxFuture<'static, Result<Answer, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        // Each attempt waits for readiness itself.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, outgoing: Outgoing) -> Self::Future {
        Box::pin(run(self.inner.clone(), self.layer.clone(), outgoing))
    }
}

async fn run<S>(mut inner: S, layer: RegionLayer, outgoing: Outgoing) -> Result<Answer, Failure>
where
    S: Service<Routed, Response = Answer, Error = Failure>,
{
    let table = &layer.table;
    table.measured().await;
    let begun = Instant::now();
    let mut tried = Vec::new();
    let mut failed = None;
    while let Some(choice) = table.pick(&tried, Instant::now()) {
        let deadline = outgoing.caller.deadline;
        let monitor = ProgressMonitor::new(table.clone(), &choice, deadline, outgoing.retries);
        let routed = Routed {
            outgoing: outgoing.clone(),
            base: choice.base.clone(),
            stall_timeout: monitor.stall_timeout(),
        };
        let result = match inner.ready().await {
            Ok(inner) => inner.call(routed).await,
            Err(failure) => Err(failure),
        };
        match report(&layer, &choice, &monitor, outgoing.request.endpoint(), result) {
            Next::Return(result) => return result,
            Next::OtherHost(failure) if begun.elapsed() >= table.config().failover_limit => return Err(failure),
            Next::OtherHost(failure) => {
                tracing::debug!(
                    region = &*choice.label,
                    request_id = outgoing.caller.request_id.as_str(),
                    "not processed; trying the next region"
                );
                failed = Some(failure);
                tried.push(choice.index);
            }
        }
    }
    // All hosts that are worth it were tried; the last failure speaks for them.
    Err(failed.unwrap_or_else(|| Failure {
        delivery: Delivery::Unsent,
        again: Again::Never,
        answer: None,
        source: Box::new(NoHost),
    }))
}

/// There is no host at all, which cannot be: a table is never made without one.
#[derive(Debug, thiserror::Error)]
#[error("there is no region to call")]
struct NoHost;

enum Next {
    Return(Result<Answer, Failure>),
    OtherHost(Failure),
}

/// Tells the table how the call went, and whether it may go elsewhere for free.
fn report(
    layer: &RegionLayer,
    choice: &SelectedHost,
    monitor: &ProgressMonitor,
    endpoint: Endpoint,
    result: Result<Answer, Failure>,
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
            layer.table.answered(choice, seen);
            return Next::Return(match kind {
                ResponseKind::Fault(fault) if !fault.may_pass() => Err(invalid_response(layer, choice, &answer, fault)),
                _ => Ok(answer),
            });
        }
        Err(failure) => failure,
    };
    if failure.answer.is_some() {
        // A token was rejected, in whatever words.
        layer.table.answered(choice, CallOutcome::Alive);
        return Next::Return(Err(failure));
    }
    match (layer.classify)(&failure, &choice.base) {
        Some(fault) => {
            layer.table.failed(choice, fault);
            if failure.delivery == Delivery::Unsent {
                Next::OtherHost(failure)
            } else {
                Next::Return(Err(failure))
            }
        }
        // Not the host's fault, such as a missing token: another host would not help.
        None => Next::Return(Err(failure)),
    }
}

/// The failure of a call whose response is no answer: another host, if there is one, may know better.
fn invalid_response(layer: &RegionLayer, choice: &SelectedHost, answer: &Answer, fault: ResponseFault) -> Failure {
    let again = if layer.table.has_other_good(choice) {
        Again::Once
    } else {
        Again::Never
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
