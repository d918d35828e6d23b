//! What a failed call says about its host.

use http::StatusCode;
use url::{Position, Url};

use crate::attempt::{Delivery, Failure};
use crate::net;
use crate::scan::ResponseFault;
use crate::telemetry::log;

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

/// A failure of the host, or of the network on the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No connection: the host is ejected at once.
    Connection,
    /// It connected, but sent no usable answer: it is ejected when that happens too often.
    BadAnswer,
}

/// What a failure at the host with this base address says about it; `None` when the host is not at
/// fault.
///
/// Only a network error *at this host* counts: a failure of the sign-in, which arrives in the same
/// way, says nothing about a region.
pub(super) fn classify(failure: &Failure, base: &Url) -> Option<Fault> {
    let mut causes = log::causes(failure.source.as_ref());
    if let Some(error) = causes.find_map(|cause| cause.downcast_ref::<net::Error>()) {
        return match error.kind() {
            _ if error.authority() != authority(base) => None,
            net::Kind::Connect(_) => Some(Fault::Connection),
            // The host answered. It was this gateway that had no memory for the answer, or reads
            // none that is so long, and another host's would be as long.
            net::Kind::NoMemory(_) | net::Kind::BodyTooLarge { .. } => None,
            _ => Some(Fault::BadAnswer),
        };
    }
    // The response was no answer: a redirect, or an encoding that was not asked for.
    (failure.delivery == Delivery::Answered && failure.answer.is_none()).then_some(Fault::BadAnswer)
}

/// `host:port`, as in [`net::Error::authority`].
fn authority(base: &Url) -> String {
    let host = &base[Position::BeforeHost..Position::AfterHost];
    format!("{host}:{}", base.port_or_known_default().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BoxError;
    use crate::attempt::RetryHint;
    use crate::net::testing::{Names, client, listen, no_memory, quick, refused};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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
        for (host, delivery, fault) in [
            ("gone.test", Delivery::NotSent, Fault::Connection),
            ("closing.test", Delivery::Unknown, Fault::BadAnswer),
        ] {
            let request = http::Request::get(format!("http://{host}:8443/"))
                .body(bytes::Bytes::new())
                .unwrap();
            let error = client(&quick(), &names).send(request, limits).await.unwrap_err();
            let failure = failure(delivery, error.into());
            let judged = |base: &str| classify(&failure, &base.parse().unwrap());
            assert_eq!(judged(&format!("http://{host}:8443")), Some(fault));
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
            Some(Fault::BadAnswer)
        );
        assert_eq!(classify(&failure(Delivery::NotSent, "no token".into()), &base), None);
    }
}
