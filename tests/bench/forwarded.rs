//! The path of a call that goes upstream, without sockets.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tower::{Service, ServiceBuilder, service_fn};

use crate::support;
use defender_gateway::testing::attempt::{Charged, Failure, Scarcity};
use defender_gateway::testing::caller::{CacheDirectives, Caller, Name, RequestId, Urgency};
use defender_gateway::testing::clock::Wall;
use defender_gateway::testing::middleware::{Next, layer};
use defender_gateway::testing::scan::{self, Call, ServedResponse, UpstreamResponse};
use defender_gateway::testing::task::Tasks;
use defender_gateway::testing::telemetry::trace::Trace;
use defender_gateway::testing::{BoxError, queue, quota, single_flight, upstream};

/// An answer of one row for each id, as the upstream writes it.
pub(crate) fn rows(request: &scan::Request) -> UpstreamResponse {
    let row = |id| {
        format!(
            r#"{{"orgId":"{id}","scanDefinitionId":"{id}","ipRange":"10.0.0.0/24","scanStatus":"Finished","lastScanTime":"2026-03-01T04:05:06Z","LastScanned":"2026-03-01T04:05:06.1234567Z","numberOfSuccessfullyScannedTargets":12,"numberOfTargets":256}}"#
        )
    };
    let rows: Vec<_> = request.ids().map(row).collect();
    let body = format!(
        r#"{{"@odata.context":"https://api.security.microsoft.com/api/$metadata#Scans","value":[{}]}}"#,
        rows.join(",")
    );
    UpstreamResponse {
        body: body.into(),
        ..support::answer(8)
    }
}

/// Who asks.
pub(crate) fn caller() -> Caller {
    Caller {
        name: Name::new("bench"),
        urgency: Urgency::default(),
        deadline: Instant::now() + Duration::from_hours(24),
        wait: None,
        cache_directives: CacheDirectives::default(),
        request_id: RequestId::random(),
        trace: Trace::None,
        has_fallback: false,
    }
}

/// What a request goes through that is asked upstream, over an upstream that gives this answer at
/// once. The quota is out of the way.
pub(crate) fn paid(answer: UpstreamResponse) -> impl Service<Call, Response = ServedResponse, Error = BoxError> {
    let limit = quota::Limit::try_new(1_000_000.try_into().unwrap(), Duration::from_secs(1)).unwrap();
    let config = quota::Config::try_new(vec![limit], 1_000_000.try_into().unwrap(), Duration::from_mins(1)).unwrap();
    let quota = quota::Quota::ephemeral(&config, Wall::system(), quota::Metrics::default());
    let queue = queue::Queue::new(
        queue::Config {
            max_requests: 1000,
            ..queue::Config::default()
        },
        quota,
        queue::Metrics::default(),
        0,
    );
    let flights = single_flight::SingleFlight::new(
        single_flight::Config {
            merge: single_flight::BatchConfig {
                when: scan::Merging::Off,
                max_ids: 100.try_into().unwrap(),
                gather: Duration::ZERO,
            },
            attempt: Duration::from_mins(1),
        },
        Tasks::new(),
        support::cache(0),
        Arc::new(scan::UpstreamProfile::new(0)),
        single_flight::PredictedWait {
            wait: Arc::new(|_| Duration::ZERO),
            turn: Arc::new(|_, _| Duration::ZERO),
            scarcity: Arc::new(|_| Scarcity::default()),
            slots: Arc::new(|_, _, _| 0),
            has_surplus: Arc::new(|_| true),
        },
        single_flight::Metrics::default(),
    );
    ServiceBuilder::new()
        .layer(layer(flights))
        .layer(layer(upstream::Retry))
        .layer(layer(queue))
        .layer(layer(quota::Charging {
            wall: Wall::system(),
            registration: 0,
        }))
        .service(Next::new(service_fn(move |_: Charged| {
            std::future::ready(Ok::<_, Failure>(answer.clone()))
        })))
}
