//! Sends a call to the best host, and on to the next one as long as nothing was sent.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt as _};
use url::Url;

use crate::attempt::{Again, Failure, Fate, Outgoing, Routed};
use crate::region::{Choice, Classify, Table, classify};
use crate::scan::Answer;

/// Puts [`Region`] in front of a service.
#[derive(Clone, Debug)]
pub struct RegionLayer {
    table: Table,
    classify: Classify,
}

impl RegionLayer {
    /// Chooses from `table`, and reports to it how the calls went.
    #[must_use]
    pub fn new(table: Table) -> Self {
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
    let mut path = Path::new(table, outgoing.route.avoided());
    let mut failed = None;
    let mut now = begun;
    while let Some(choice) = path.next(table, now) {
        outgoing.route.turn(&choice.base, now);
        let routed = Routed {
            outgoing: outgoing.clone(),
            base: choice.base.clone(),
        };
        let result = match inner.ready().await {
            Ok(inner) => inner.call(routed).await,
            Err(failure) => Err(failure),
        };
        match report(&layer, &choice, &result) {
            Next::Return => return result,
            Next::OtherHost if begun.elapsed() >= table.config().failover_limit => return result,
            Next::OtherHost => {
                now = Instant::now();
                tracing::debug!(
                    region = &*choice.label,
                    request_id = outgoing.caller.request_id.as_str(),
                    "not sent; trying the next region"
                );
                failed = Some(result);
            }
        }
    }
    match failed {
        // All hosts that are worth it were tried; the last failure speaks for them.
        Some(result) => result,
        None => Err(Failure {
            fate: Fate::Unsent,
            again: Again::Never,
            answer: None,
            source: Box::new(NoHost),
        }),
    }
}

/// No host that nothing is known against besides the one to avoid: for a second attempt that is only worth it there. Without one to
/// avoid there always is a host, because a table is never made without one.
#[derive(Debug, thiserror::Error)]
#[error("there is no other region to call")]
struct NoHost;

/// The hosts that one call goes to, in turn.
struct Path {
    tried: Vec<usize>,
    /// The latest one, of those that are not in the list yet: mostly the only one.
    last: Option<usize>,
    avoids: bool,
}

impl Path {
    fn new(table: &Table, avoided: Option<&Url>) -> Self {
        Self {
            tried: avoided.and_then(|base| table.index_of(base)).into_iter().collect(),
            last: None,
            avoids: avoided.is_some(),
        }
    }

    fn next(&mut self, table: &Table, now: Instant) -> Option<Choice> {
        self.tried.extend(self.last.take());
        let choice = if self.avoids {
            table.pick_good(&self.tried, now)
        } else {
            table.pick(&self.tried, now)
        }?;
        self.last = Some(choice.index);
        Some(choice)
    }
}

enum Next {
    Return,
    OtherHost,
}

/// Tells the table how the call went, and whether it may go elsewhere for free.
fn report(layer: &RegionLayer, choice: &Choice, result: &Result<Answer, Failure>) -> Next {
    let failure = match result {
        Ok(answer) => {
            layer.table.answered(choice, answer.status);
            return Next::Return;
        }
        Err(failure) => failure,
    };
    if let Some(answer) = &failure.answer {
        layer.table.answered(choice, answer.status);
        return Next::Return;
    }
    match (layer.classify)(failure, &choice.base) {
        Some(fault) => {
            layer.table.failed(choice, fault);
            if failure.fate == Fate::Unsent {
                Next::OtherHost
            } else {
                Next::Return
            }
        }
        // Not the host's fault, such as a missing token: another host would not help.
        None => Next::Return,
    }
}
