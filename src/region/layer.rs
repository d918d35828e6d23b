//! Sends a call to the best host, and to the next one as long as nothing was processed; what a
//! failed call says about its host.

use http::StatusCode;
use tokio::time::Instant;
use url::{Position, Url};

use crate::attempt::{Charged, Delivery, Failure, RetryHint, Routed};
use crate::middleware::{Middleware, Next};
use crate::net;
use crate::region::outlier::{CallOutcome, ProgressMonitor};
use crate::region::{HostSelector, SelectedHost};
use crate::scan::{Endpoint, ResponseFault, ResponseKind, UpstreamResponse};
use crate::telemetry::log;

/// Sends a call to the best host. If a host provably got nothing, the next one is tried with the
/// same permit: each host at most once, for at most
/// [`Config::failover_limit`](crate::region::Config::failover_limit) plus the last attempt.
impl Middleware<Charged, Next<Routed>> for HostSelector {
    async fn call(&self, charged: Charged, next: &Next<Routed>) -> Result<UpstreamResponse, Failure> {
        self.measured().await;
        let begun = Instant::now();
        let mut tried = Vec::new();
        let mut failed = None;
        while let Some(choice) = self.pick(&charged.request, &tried, Instant::now()) {
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
                Then::OtherHost(failure) if begun.elapsed() >= self.shared.config.failover_limit => {
                    return Err(failure);
                }
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
            let outcome = match kind {
                ResponseKind::Answer if answer.status.is_success() => CallOutcome::Success(pause),
                // What checks tokens in front of Defender's code does not look at the request.
                ResponseKind::Answer if answer.status == StatusCode::UNAUTHORIZED => CallOutcome::Alive,
                ResponseKind::Answer => CallOutcome::ClientError(pause),
                ResponseKind::Throttled => CallOutcome::Alive,
                ResponseKind::Fault(ResponseFault::Unavailable) => CallOutcome::Unavailable,
                ResponseKind::Fault(_) => CallOutcome::InvalidResponse,
            };
            selector.report(choice, outcome);
            return Then::Return(match kind {
                ResponseKind::Fault(fault) if !fault.may_pass() => {
                    Err(elsewhere(selector, choice, invalid_response(choice, &answer, fault)))
                }
                _ => Ok(answer),
            });
        }
        Err(failure) => failure,
    };
    if failure.answer.is_some() {
        // The token was rejected, in whatever form.
        selector.report(choice, CallOutcome::Alive);
        return Then::Return(Err(failure));
    }
    let Some(outcome) = classify(&failure, &choice.base) else {
        // The host is not at fault, for example because a token is missing; another host would not
        // help.
        return Then::Return(Err(failure));
    };
    selector.report(choice, outcome);
    match (failure.delivery, outcome) {
        (Delivery::NotSent, _) => Then::OtherHost(failure),
        // Another connection to the same host may be better.
        (_, CallOutcome::Unavailable) => Then::Return(Err(failure)),
        _ => Then::Return(Err(elsewhere(selector, choice, failure))),
    }
}

/// The failure of a call to a host that would fail again: it is worth another attempt only if that
/// would be made at another host.
fn elsewhere(selector: &HostSelector, choice: &SelectedHost, failure: Failure) -> Failure {
    if selector.lock().has_other_good(choice.index, Instant::now()) {
        return failure;
    }
    Failure {
        again: RetryHint::Never,
        ..failure
    }
}

/// The failure of a call whose response is no answer.
fn invalid_response(choice: &SelectedHost, answer: &UpstreamResponse, fault: ResponseFault) -> Failure {
    let error = Error {
        host: choice.base.host_str().unwrap_or_default().to_owned(),
        status: answer.status,
        fault,
    };
    Failure {
        delivery: Delivery::Answered,
        again: RetryHint::Once,
        answer: None,
        source: Box::new(error),
    }
}

/// A host's response was no answer of Defender's: a fault of the upstream, or a wrong region
/// address.
#[derive(Debug, thiserror::Error)]
#[error("the response of {host} with the status {status} is no answer of Defender's")]
pub struct Error {
    pub host: String,
    /// The response's status.
    pub status: StatusCode,
    #[source]
    pub fault: ResponseFault,
}

/// What a failure at the host with this base address says about it; `None` when the host is not at
/// fault.
///
/// Only a network error *at this host* counts: a failure of the sign-in, which arrives in the same
/// way, says nothing about a region.
fn classify(failure: &Failure, base: &Url) -> Option<CallOutcome> {
    let mut causes = log::causes(failure.source.as_ref());
    if let Some(error) = causes.find_map(|cause| cause.downcast_ref::<net::Error>()) {
        return match error.kind() {
            _ if error.authority() != authority(base) => None,
            net::Kind::Connect(error) if error.is_local() => None,
            net::Kind::Connect(_) => Some(CallOutcome::NotConnected),
            // The host answered. It was this gateway that had no memory for the answer, or reads
            // none that is so long, and another host's would be as long.
            net::Kind::NoMemory(_) | net::Kind::BodyTooLarge { .. } => None,
            net::Kind::Lost(_) | net::Kind::BodyLost(_) => Some(CallOutcome::Unavailable),
            net::Kind::HeadTimeout | net::Kind::BodyTimeout => Some(CallOutcome::NoAnswer),
            net::Kind::NotSent(_) | net::Kind::NotProcessed(_) | net::Kind::Unsendable => Some(CallOutcome::NotTaken),
        };
    }
    // The response was no answer: a redirect, a status without a meaning, or an encoding that was
    // not asked for.
    (failure.delivery == Delivery::Answered && failure.answer.is_none()).then_some(CallOutcome::InvalidResponse)
}

/// `host:port`, as in [`net::Error::authority`].
fn authority(base: &Url) -> String {
    let host = &base[Position::BeforeHost..Position::AfterHost];
    format!("{host}:{}", base.port_or_known_default().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::BoxError;
    use crate::attempt::RetryHint;
    use crate::net::testing::{Names, client, listen, no_memory, quick, refused};

    fn failure(delivery: Delivery, source: BoxError) -> Failure {
        Failure {
            delivery,
            again: RetryHint::Never,
            answer: None,
            source,
        }
    }

    #[tokio::test]
    async fn only_a_failure_at_the_host_itself_counts_and_the_port_belongs_to_it() {
        let closing = listen(|stream| async move { drop(stream) });
        let names = Names::new([("gone.test", refused().await), ("closing.test", closing.await)]);
        let limits = net::Limits {
            head: Duration::from_secs(1),
            whole: Duration::from_secs(1),
            body_bytes: 10,
        };
        for (host, delivery, outcome) in [
            ("gone.test", Delivery::NotSent, CallOutcome::NotConnected),
            ("closing.test", Delivery::Unknown, CallOutcome::Unavailable),
        ] {
            let request = http::Request::get(format!("http://{host}:8443/"))
                .body(bytes::Bytes::new())
                .unwrap();
            let error = client(&quick(), &names).send(request, limits).await.unwrap_err();
            let failure = failure(delivery, error.into());
            let judged = |base: &str| classify(&failure, &base.parse().unwrap());
            assert_eq!(judged(&format!("http://{host}:8443")), Some(outcome));
            assert_eq!(judged(&format!("http://{host}:8444")), None);
            assert_eq!(judged("https://login.test"), None);
        }
    }

    #[tokio::test]
    async fn an_answer_that_this_gateway_does_not_read_is_no_fault_of_the_host() {
        let long = listen(|mut stream| async move {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n0123";
            let _ = stream.write_all(answer).await;
            // Until the client hangs up.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        });
        let names = Names::new([("long.test", long.await)]);
        let limits = net::Limits {
            head: Duration::from_secs(10),
            whole: Duration::from_secs(10),
            body_bytes: 10,
        };
        let request = http::Request::get("http://long.test:8443/")
            .body(bytes::Bytes::new())
            .unwrap();
        let error = client(&quick(), &names).send(request, limits).await.unwrap_err();
        assert!(matches!(error.kind(), net::Kind::BodyTooLarge { .. }), "{error:?}");
        for error in [error, no_memory("long.test:8443")] {
            let failure = failure(Delivery::Answered, error.into());
            assert_eq!(classify(&failure, &"http://long.test:8443".parse().unwrap()), None);
        }
    }

    #[test]
    fn an_answer_that_was_none_counts_and_a_missing_token_does_not() {
        let base = "https://eu.test".parse().unwrap();
        assert_eq!(
            classify(&failure(Delivery::Answered, "redirect".into()), &base),
            Some(CallOutcome::InvalidResponse)
        );
        assert_eq!(classify(&failure(Delivery::NotSent, "no token".into()), &base), None);
    }
}
