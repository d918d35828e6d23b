//! The way out without a way in: for commands that make a few calls and leave.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use prometheus_client::registry::Registry;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::components::{Plan, connections, region_client};
use super::context::open_quotas;
use super::{Error, HostEnvironment, settings};
use crate::attempt::FlowDemand;
use crate::caller::{Name, Urgency};
use crate::clock::Wall;
use crate::config::Resolved;
use crate::scan::Endpoint;
use crate::secret::Secret;
use crate::task::Tasks;
use crate::{BoxError, net, quota, region, store, token};

/// The largest answer that is read.
const LARGEST: usize = 64 << 20;

/// Sign-in, regions and quota, as the gateway has them. Calls are sent as they are written, not in
/// canonical form.
pub struct OneShotClient {
    net: net::Client,
    regions: region::HostSelector,
    token_source: token::TokenSource,
    /// One for all operations, or one for each.
    quotas: Vec<quota::Quota>,
    wall: Wall,
    timeout: Duration,
    tasks: Tasks,
}

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The quota has no call to spare before that time is over; nothing was sent.
    #[error("the quota has no call left for now")]
    Quota,
    /// The store that the quota is shared through does not answer; nothing was sent.
    #[error("the store, which knows what is left of the quota, does not answer")]
    Store,
    /// No host is known to be reachable; nothing was sent.
    #[error("no region can be reached")]
    NoRegion,
    /// The call was paid for and failed.
    #[error("the call failed")]
    Failed(#[source] BoxError),
}

impl OneShotClient {
    /// Signs in and measures the regions from now on. Calls of an earlier process are remembered
    /// from the state file, if there is one.
    ///
    /// # Errors
    /// [`Error`] when a file cannot be used or a part refuses its settings.
    pub fn open(config: &Resolved) -> Result<Self, Error> {
        let (tasks, wall, mut registry) = (Tasks::new(), Wall::system(), Registry::default());
        let environment = HostEnvironment::default();
        let plan = Plan::of(config, &environment, &settings::shares(config, environment.machine))?;
        let net = connections(&plan.net, &environment)?;
        let regions = region::HostSelector::new(plan.regions, region::Metrics::register(&mut registry));
        let store = settings::store(config).map(store::Client::from);
        let quotas = open_quotas(config, plan.attempt, &wall, &tasks, store.as_ref(), &mut registry)?;
        let [exchange, imds] = settings::exchanges(&net, &config.credentials);
        let token_source = token::TokenSource::start(
            plan.token,
            exchange,
            imds,
            wall.clone(),
            &tasks,
            token::Metrics::register(&mut registry),
        );
        let net = region_client(&net, config);
        regions.watch(&tasks, net.connector().clone());
        Ok(Self {
            net,
            regions,
            token_source,
            quotas,
            wall,
            timeout: config.defender.timeout,
            tasks,
        })
    }

    /// Sign-in.
    pub fn token_source(&self) -> &token::TokenSource {
        &self.token_source
    }

    /// The regions, once every one has been measured or was found unreachable, at most after
    /// `patience`.
    pub async fn measured(&self, patience: Duration) -> Vec<region::HostStatus> {
        let all = async {
            let known = |row: &region::HostStatus| row.rtt.is_some() || !row.healthy;
            while !self.regions.snapshot().iter().all(known) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        // Those that have not answered by then are shown as such.
        let _ = timeout(patience, all).await;
        self.regions.snapshot()
    }

    /// What is left of the quota.
    pub fn quota(&self) -> quota::Snapshot {
        self.quotas[0].snapshot()
    }

    /// Makes one call, paid for like any other, to the nearest region: `body` as it is, with
    /// `query` if that is not empty. Waits for its slot until `until` at most.
    ///
    /// # Errors
    /// [`NoAnswer`]. The caller must not go on after a 429: the pause that it orders is kept, as in
    /// the gateway.
    pub async fn ask(
        &self,
        bearer: &Secret,
        query: &str,
        body: Bytes,
        until: Instant,
    ) -> Result<Response<Bytes>, NoAnswer> {
        let row = self
            .regions
            .snapshot()
            .into_iter()
            .find(|row| row.selected && row.healthy);
        let mut url = (*row.ok_or(NoAnswer::NoRegion)?.url).clone();
        url.set_path(&Endpoint::HISTORY.template());
        url.set_query(Some(query).filter(|query| !query.is_empty()));
        let request = Request::post(url.as_str())
            .header(header::AUTHORIZATION, format!("Bearer {}", bearer.expose()))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header(header::ACCEPT_ENCODING, "identity")
            .header(
                header::USER_AGENT,
                concat!("defender-gateway/", env!("CARGO_PKG_VERSION")),
            )
            .body(body)
            .map_err(|error| NoAnswer::Failed(error.into()))?;
        let mut permit = self.slot(until).await?;
        let limits = net::Limits {
            head: self.timeout,
            whole: self.timeout,
            body_bytes: LARGEST,
        };
        permit.leave();
        match self.net.send(request, limits).await {
            Ok(answer) => {
                if answer.status() == http::StatusCode::TOO_MANY_REQUESTS {
                    let throttled = quota::ThrottleHint::read(answer.headers(), answer.body(), self.wall.now());
                    permit.throttled(throttled);
                } else {
                    permit.settle();
                }
                Ok(answer)
            }
            // It may have arrived: the charge stays.
            Err(error) => Err(NoAnswer::Failed(error.into())),
        }
    }

    async fn slot(&self, until: Instant) -> Result<quota::Permit, NoAnswer> {
        let quota = &self.quotas[0];
        // A quota that is shared hands out slots only to those who ask for them.
        quota.demand(&vec![FlowDemand {
            urgency: Urgency::default(),
            caller: Name::new("probe"),
            weight: 1,
            waiting: 1,
            deadlines: vec![until],
            returning: 0,
            kept: 0,
            dues: [].into(),
            asks_again: false,
            position: None,
        }]);
        let slot = async {
            loop {
                match quota.take(Instant::now()) {
                    Ok(permit) => return Some(permit),
                    Err(Some(at)) if at > until => return None,
                    Err(at) => tokio::select! {
                        () = sleep_until(at.unwrap_or(until)) => {}
                        () = quota.changed() => {}
                    },
                }
            }
        };
        let slot = timeout_at(until, slot).await.ok().flatten();
        quota.demand(&Vec::new());
        slot.ok_or_else(|| match quota.unavailable_for() {
            Some(_) => NoAnswer::Store,
            None => NoAnswer::Quota,
        })
    }

    /// Ends sign-in and measurements.
    pub async fn close(self) {
        drop(self.token_source);
        self.tasks.finish(Duration::from_secs(1)).await;
    }
}
